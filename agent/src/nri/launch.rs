//! Plugins that are installed on the node, which the agent starts itself: `NN-NAME` in one folder, their configuration in
//! another.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::plugin::Name;

/// A configuration larger than this is a mistake.
const CONFIG_MAX: u64 = 1 << 20;

/// A plugin that is installed.
pub(super) struct Installed {
    pub(super) name: Name,
    program: PathBuf,
    /// As the plugin is told it.
    pub(super) config: String,
}

/// One that was started. It ends with this.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // Killed, it is gone in no time; waiting keeps it from being a zombie.
        let _ = self.0.wait();
    }
}

/// The plugins of the node, in their order; what cannot be used is told and passed over.
pub(super) fn installed(programs: &Path, configs: &Path) -> Vec<Installed> {
    let entries = match std::fs::read_dir(programs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(folder = %programs.display(), %error, "installed NRI plugins cannot be listed; none is started");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if !is_program(&path) {
            continue;
        }
        match look_up(&path, configs) {
            Ok(plugin) => found.push(plugin),
            Err(reason) => tracing::error!(program = %path.display(), reason, "not started as an NRI plugin"),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn look_up(path: &Path, configs: &Path) -> Result<Installed, String> {
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = Name::parse(file)?;
    // The more exact name counts.
    let candidates = [format!("{name}.conf"), format!("{}.conf", name.base)];
    for candidate in candidates.map(|file| configs.join(file)) {
        match read_config(&candidate) {
            Ok(config) => return Ok(Installed { name, program: path.to_owned(), config }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("its configuration {} cannot be read: {error}", candidate.display())),
        }
    }
    Ok(Installed { name, program: path.to_owned(), config: String::new() })
}

fn read_config(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > CONFIG_MAX {
        return Err(io::Error::other(format!("it is larger than {CONFIG_MAX} bytes")));
    }
    std::fs::read_to_string(path)
}

impl Installed {
    /// Starts the program with one end of a socket, and nothing else of the agent's environment.
    ///
    /// # Errors
    /// When there is no socket or the program cannot be executed.
    pub(super) fn start(&self) -> io::Result<(UnixStream, Process)> {
        let (own, theirs) = UnixStream::pair()?;
        own.set_nonblocking(true)?;
        // By its own number, which the plugin is told: the agent runs nothing between fork and exec that could move it.
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        let child = Command::new(&self.program)
            .env_clear()
            .env("NRI_PLUGIN_NAME", &self.name.base)
            .env("NRI_PLUGIN_IDX", &self.name.index)
            .env("NRI_PLUGIN_SOCKET", theirs.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok((own, Process(child)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn plugins_are_found_in_their_order_with_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (programs, configs) = (dir.path().join("plugins"), dir.path().join("conf.d"));
        assert!(installed(&programs, &configs).is_empty(), "no folder, no plugin");
        std::fs::create_dir_all(&programs).unwrap();
        std::fs::create_dir_all(&configs).unwrap();
        for (name, mode) in [("20-b", 0o755), ("10-c", 0o700), ("05-data", 0o644), ("nonsense", 0o755), ("10-a", 0o755)]
        {
            program(&programs.join(name), "", mode);
        }
        std::fs::create_dir(programs.join("30-folder")).unwrap();
        std::fs::write(configs.join("10-a.conf"), "exact").unwrap();
        std::fs::write(configs.join("a.conf"), "general").unwrap();
        std::fs::write(configs.join("b.conf"), "b's").unwrap();
        std::fs::create_dir(configs.join("c.conf")).unwrap();
        let found = installed(&programs, &configs);
        let told: Vec<_> = found.iter().map(|one| (one.name.to_string(), one.config.as_str())).collect();
        assert_eq!(told, [("10-a".into(), "exact"), ("20-b".into(), "b's")], "c's configuration is a folder");
    }

    #[test]
    fn a_plugin_has_a_socket_and_its_name_and_ends_with_its_handle() {
        use std::io::Read;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-echo");
        let script = "#!/bin/sh\necho \"$NRI_PLUGIN_IDX $NRI_PLUGIN_NAME $HOME\" >&\"$NRI_PLUGIN_SOCKET\"\nexec /bin/sleep 1000\n";
        program(&path, script, 0o755);
        let plugin = look_up(&path, dir.path()).unwrap();
        let (mut socket, process) = plugin.start().unwrap();
        socket.set_nonblocking(false).unwrap();
        let mut told = [0; 9];
        socket.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"10 echo \n");
        drop(process);
        assert_eq!(socket.read(&mut told).unwrap(), 0, "its end of the socket is gone with it");
    }
}
