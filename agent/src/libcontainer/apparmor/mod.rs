//! AppArmor on this host: the default profile, which is our own, and what else is loaded. Called by the agent, at start and
//! for a container that names a profile.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

/// Name of the profile of containers that ask for none.
pub const DEFAULT: &str = "berth-default";

const PROFILE: &str = include_str!("berth-default.apparmor");
/// One line a profile, `name (mode)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Policies are compiled by nobody else. The agent's PATH is whatever started it, and this is no place to search.
const PARSERS: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
/// It takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of what the parser says about a failure.
const LONGEST_COMPLAINT: u64 = 1024;

/// The default profile cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file with the loaded profiles, or the parser.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not installed.
    #[error("there is no apparmor_parser in /usr/sbin or /sbin to load {DEFAULT} with: install the package `apparmor`")]
    NoParser,
    /// It did not end, or ended badly.
    #[error("{} did not load {DEFAULT}: {complaint}", parser.display())]
    Refused {
        /// Its path.
        parser: PathBuf,
        /// What it wrote to its standard error.
        complaint: String,
    },
}

/// AppArmor is compiled in and switched on.
pub fn is_active() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// The program that compiles and loads profiles.
pub fn parser() -> Option<&'static Path> {
    PARSERS.into_iter().map(Path::new).find(|path| path.is_file())
}

/// Whether a profile of that name is loaded.
///
/// # Errors
/// When the kernel's list cannot be read: securityfs is not mounted.
pub fn is_loaded(name: &str) -> Result<bool, LoadError> {
    let failed = |source| LoadError::Io { op: "read", path: LOADED.into(), source };
    Ok(names(&fs::read_to_string(LOADED).map_err(failed)?).any(|loaded| loaded == name))
}

/// A name may have spaces and parentheses, a mode has none.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name)
}

/// Loads the default profile unless one of its name is there: the operator may have loaded a stricter one.
///
/// # Errors
/// `LoadError`; then nothing changed.
pub fn load_default() -> Result<(), LoadError> {
    if is_loaded(DEFAULT)? {
        return Ok(());
    }
    let parser = parser().ok_or(LoadError::NoParser)?;
    let failed = |op| move |source| LoadError::Io { op, path: parser.into(), source };
    let refused = |complaint: String| LoadError::Refused { parser: parser.into(), complaint };
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("execute"))?;
    // A parser that is gone says why on its standard error.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(PROFILE.as_bytes()));
    if !ends_in_time(&child).map_err(failed("wait for"))? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(refused(format!("it has not ended within {PATIENCE:?}")));
    }
    let status = child.wait().map_err(failed("wait for"))?;
    if status.success() {
        return Ok(());
    }
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr {
        stderr.take(LONGEST_COMPLAINT).read_to_end(&mut complaint).map_err(failed("read from"))?;
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let lines: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(refused(format!("{status}: {}", lines.join("; "))))
}

fn ends_in_time(child: &Child) -> io::Result<bool> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let list =
            "/usr/bin/man (enforce)\nberth-default (complain)\nodd (name) here (kill)\nlsb_release//x (enforce)\n";
        let found: Vec<&str> = names(list).collect();
        assert_eq!(found, ["/usr/bin/man", "berth-default", "odd (name) here", "lsb_release//x"]);
    }

    #[test]
    fn the_profile_has_the_name_that_containers_are_given() {
        let head = format!("profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{");
        assert!(PROFILE.lines().any(|line| line == head), "{PROFILE}");
        assert_eq!(PROFILE.matches(&format!("peer={DEFAULT},")).count(), 2);
    }
}
