//! `berth serve` as a test runs it: every folder, the socket, the bridge and the cgroup are the test's own.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::tested_handler;
use crate::host::{Host, Spawn, sibling_binary};
use crate::process::{self, find_program};

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its pid now.
    pub pid: i32,
    /// Where images and addresses are kept.
    pub root: PathBuf,
    /// Where pods and containers are kept.
    pub run_root: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its cgroup, and its pods' parent.
    pub cgroup: String,
    socket: PathBuf,
    config: PathBuf,
    fault_file: PathBuf,
    binary: PathBuf,
}

impl Agent {
    /// Starts an agent in `host` with everything below `folder` and `more` in its configuration, and waits until its socket answers.
    pub fn start(host: &Host, folder: &Path, cgroup: &str, more: &str) -> io::Result<Agent> {
        let binary = match std::env::var_os("BERTH_BIN") {
            Some(path) => PathBuf::from(path),
            None => sibling_binary("berth")?,
        };
        let mut agent = Agent {
            pid: 0,
            root: folder.join("root"),
            run_root: folder.join("run"),
            log: folder.join("berth.log"),
            cgroup: cgroup.to_owned(),
            socket: folder.join("berth.sock"),
            config: folder.join("berth.yaml"),
            fault_file: folder.join("fault"),
            binary,
        };
        agent.configure(more)?;
        agent.launch(host)?;
        Ok(agent)
    }

    /// Writes the configuration that the next start reads: the usual one, and `more`: keys of its last section, which is `network`, or
    /// sections.
    pub fn configure(&self, more: &str) -> io::Result<()> {
        // The program of the handler that is tested has its name.
        let handler = tested_handler();
        let runtimes = match find_program(&handler) {
            Some(path) if more.is_empty() => format!("runtimes:\n  {handler}: {{path: {}}}\n", path.display()),
            _ => String::new(),
        };
        std::fs::write(&self.config, self.configuration() + more + &runtimes)
    }

    fn configuration(&self) -> String {
        let cgroups = match self.cgroup.strip_suffix(".slice") {
            Some(name) => format!("  driver: systemd\n  monitor_cgroup: {name}.slice/{name}-monitors.scope\n"),
            None => format!("  monitor_cgroup: /{}/monitors\n", self.cgroup),
        };
        format!(
            "root: {}\nrun_root: {}\nsocket: {}\ncgroups:\n{cgroups}\
             image:\n  registry_dirs: [{}]\n  stall_period: 3s\n  retries: 1\n\
             user_namespaces:\n  first_id: 1000000000\n  pods: 3\n\
             cdi:\n  spec_dirs: [{}]\nblockio:\n  config: {}\ncheckpoint:\n  criu: {}\n\
             nri:\n  socket_path: {}\n  plugin_path: {}\n  plugin_config_path: {}\n\
             network:\n  conf_dir: {}\n  bin_dirs: [{}]\n",
            self.root.display(),
            self.run_root.display(),
            self.socket.display(),
            self.root.with_file_name("certs.d").display(),
            self.root.with_file_name("cdi").display(),
            self.root.with_file_name("blockio.yaml").display(),
            self.root.with_file_name("criu").display(),
            self.root.with_file_name("nri.sock").display(),
            self.root.with_file_name("nri-plugins").display(),
            self.root.with_file_name("nri-conf").display(),
            self.network_dir().display(),
            self.plugin_dir().display(),
        )
    }

    /// The folder that CNI network lists are looked for in; it is not there.
    pub fn network_dir(&self) -> PathBuf {
        self.root.with_file_name("net.d")
    }

    /// The folder that CNI plugins are looked for in; it is not there.
    pub fn plugin_dir(&self) -> PathBuf {
        self.root.with_file_name("cni-bin")
    }

    /// Has the agent's next start read more keys of `network`.
    pub fn configure_network(&self, keys: &[&str]) -> io::Result<()> {
        let more: String = keys.iter().map(|key| format!("  {key}\n")).collect();
        self.configure(&more)
    }

    /// Starts the agent again on the same state, after it ended.
    pub fn launch(&mut self, host: &Host) -> io::Result<()> {
        let text = |path: &Path| path.display().to_string();
        self.pid = host.spawn(&Spawn {
            argv: vec![text(&self.binary), "serve".into(), "--config".into(), text(&self.config)],
            env: vec![("BERTH_FAULT_FILE".into(), text(&self.fault_file))],
            log: self.log.clone(),
        })?;
        let deadline = Instant::now() + Duration::from_secs(crate::fixture::seconds(30) as u64);
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            if !process::is_alive(self.pid) || Instant::now() > deadline {
                return Err(io::Error::other(format!("the agent does not listen; its log ends:\n{}", self.log_tail())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The endpoint for a client.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Ends the agent at once, as a crash would, and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_gone();
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// Waits until the agent has ended and answers whether it did in time.
    pub fn wait_gone(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(crate::fixture::seconds(30) as u64);
        while process::read(self.pid).is_some() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        process::read(self.pid).is_none()
    }

    /// Has the agent take an image from an archive, as `berth image import FILE --name NAME` does.
    pub fn import(&self, archive: &Path, name: &str) -> io::Result<()> {
        self.image(&["import", &archive.display().to_string(), "--name", name]).map(drop)
    }

    /// What `berth image ARGUMENTS` prints.
    pub fn image(&self, arguments: &[&str]) -> io::Result<String> {
        self.image_as("", arguments)
    }

    /// The same with a password for a registry.
    pub fn image_as(&self, password: &str, arguments: &[&str]) -> io::Result<String> {
        let mut command = std::process::Command::new(&self.binary);
        let command = command.args(["image", "--socket"]).arg(&self.socket).args(arguments);
        let output = command.env("BERTH_REGISTRY_PASSWORD", password).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Arms a fault point: the agent dies there (builds with the feature `fault-points` only). `None` disarms.
    pub fn arm(&self, point: Option<&str>) -> io::Result<()> {
        std::fs::write(&self.fault_file, point.unwrap_or_default())
    }

    /// The names of the fault points this agent was built with; empty for an ordinary build.
    pub fn fault_points(&self) -> io::Result<Vec<String>> {
        let output = std::process::Command::new(&self.binary).args(["debug", "fault-points"]).output()?;
        if !output.status.success() {
            return Ok(Vec::new());
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// The agent's binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The last lines of its log, for a failing test to show.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
