//! `berth oci`: bundles by the command line of runc and crun. No agent takes part.

/// What a bundle may ask for, and what it does not get.
mod config;
/// Hooks.
mod hooks;
/// From create to delete.
mod life;
/// Exec, run, terminals.
mod processes;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use serde_json::{Value, json};
use test_e2e::fixture::require_berth;
use test_e2e::host::sibling_binary;

/// A bundle of busybox, and the folder for state of a runtime that nobody else uses.
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    /// Also its cgroup's name.
    pub(crate) id: String,
    pub(crate) config: Value,
}

const APPLETS: [&str; 18] = [
    "sh", "sleep", "cat", "id", "hostname", "true", "false", "echo", "ls", "test", "readlink", "tty", "touch", "mount",
    "pwd", "env", "kill", "grep",
];

impl Bundle {
    /// One that sleeps.
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        require_berth();
        // What a container's process becomes when `create` has returned.
        set_child_subreaper(true).expect("become a subreaper");
        let id = format!("e2e-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&id);
        for folder in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
            fs::create_dir_all(dir.join("rootfs").join(folder)).expect("a folder");
        }
        fs::copy("/bin/busybox", dir.join("rootfs/bin/busybox")).expect("Debian's static busybox");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", dir.join("rootfs/bin").join(applet)).expect("a link");
        }
        let mut bundle = Self { dir, id, config: Value::Null };
        bundle.ok(&["spec", "--bundle", bundle.path()]);
        let text = fs::read_to_string(bundle.dir.join("config.json")).expect("what `spec` wrote");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/e2e-oci/{}", bundle.id));
        bundle.config = config;
        bundle.program(&["sleep", "1000"])
    }

    pub(crate) fn program(mut self, args: &[&str]) -> Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    pub(crate) fn path(&self) -> &str {
        self.dir.to_str().expect("UTF-8")
    }

    /// A file of the root file system.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join("rootfs").join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(sibling_binary("berth").expect("berth"));
        command.arg("oci").arg("--root").arg(self.dir.join("state")).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a verb that leaves no process which has its output open.
    pub(crate) fn berth(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("berth")
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.berth(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The error of a verb that has to fail.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.berth(args);
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn write_config(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).expect("config.json");
    }

    /// `Err` with what it said.
    pub(crate) fn try_create(&self, more: &[&str]) -> Result<(), String> {
        self.write_config();
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        let mut args = vec!["create", "--bundle", self.path()];
        args.extend(more);
        args.push(&self.id);
        let mut command = self.command(&args);
        command.stdout(File::create(out).expect("out")).stderr(File::create(&err).expect("err"));
        let status = command.status().expect("berth");
        if status.success() { Ok(()) } else { Err(fs::read_to_string(err).expect("err")) }
    }

    pub(crate) fn create(&self) {
        self.try_create(&[]).unwrap_or_else(|error| panic!("create: {error}"));
    }

    pub(crate) fn create_and_start(&self) {
        self.create();
        self.ok(&["start", &self.id]);
    }

    /// What the container's program has said so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.dir.join("out")).expect("out")
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).expect("JSON")
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("a pid")).expect("a pid")
    }

    pub(crate) fn wait_stopped(&self) {
        wait_for(|| self.status() == "stopped");
    }

    /// The folders of its cgroup, in all hierarchies.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        roots.map(|root| root.join("e2e-oci").join(&self.id)).filter(|path| path.exists()).collect()
    }

    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.ok(&["list", "--quiet"]), "\n");
        assert_eq!(self.cgroups(), [""; 0].map(PathBuf::from));
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!mounts.contains(&self.id), "mounts are left");
        assert_eq!(self.processes(), [0; 0], "processes are left");
    }

    /// Whoever has this bundle's state folder among its arguments or root.
    fn processes(&self) -> Vec<i32> {
        let pids = fs::read_dir("/proc").expect("proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_own = |pid: &i32| {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
            let comm = String::from_utf8_lossy(&read("comm")).into_owned();
            command.contains(&self.id) && !comm.starts_with("berth-e2e")
        };
        pids.filter(is_own).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.dir.join("err")).unwrap_or_default());
        }
        let _ = self.command(&["delete", "--force", &self.id]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Reaps an orphan, as whoever starts a runtime does: a PID namespace cannot end before.
pub(crate) fn reap(pid: i32) {
    std::thread::spawn(move || nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None));
}

pub(crate) fn wait_for(done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "it does not come true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
