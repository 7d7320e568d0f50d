//! A machine of its own for the runtime under test: a network and a mount namespace, held by the child process
//! `e2e-host`, which starts what it is told to, reaps every orphan (pid 1 here may not), and when this process goes
//! away ends all of it by pid and removes its folder and cgroups.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

/// A process that the host is to start.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Spawn {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Environment on top of the host's own.
    pub env: Vec<(String, String)>,
    /// The file that gets its stdout and stderr, appended.
    pub log: PathBuf,
}

/// What the host answers to a [`Spawn`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Spawned {
    /// It runs, with this pid.
    Pid(i32),
    /// It could not be started.
    Failed(String),
}

/// Which namespaces the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// New ones: loopback only, every mount shared with nobody outside.
    New,
    /// Those of a running process: the peer's.
    Of(i32),
    /// Those of the caller.
    Inherited,
}

/// The handle of a running `e2e-host`; dropping it ends everything in it.
#[derive(Debug)]
pub struct Host {
    child: Child,
    pipe: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Host {
    /// Starts a host that owns `folder` and, in every cgroup hierarchy, the group `cgroup`: it removes them at its end.
    pub fn start(namespaces: Namespaces, folder: &Path, cgroup: &str) -> io::Result<Host> {
        let mut command = Command::new(sibling_binary("e2e-host")?);
        command.arg("--folder").arg(folder).arg("--cgroup").arg(cgroup);
        match namespaces {
            Namespaces::New => command.arg("--new"),
            Namespaces::Of(pid) => command.arg("--join").arg(pid.to_string()),
            Namespaces::Inherited => &mut command,
        };
        // Its own process group: a test runner that kills a test's group leaves the clean-up alive.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(folder.join("e2e-host.log"))?);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("e2e-host has no pipes"));
        };
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        if line.trim() != "ready" {
            let log = std::fs::read_to_string(folder.join("e2e-host.log")).unwrap_or_default();
            return Err(io::Error::other(format!("e2e-host did not start: {log}")));
        }
        Ok(Host { child, pipe: Mutex::new((stdin, stdout)) })
    }

    /// The pid of the process that holds the namespaces and is the ancestor of everything in the host.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Starts a process in the host and answers its pid. The host reaps it; end it with a signal.
    pub fn spawn(&self, request: &Spawn) -> io::Result<i32> {
        let mut pipe = self.pipe.lock().map_err(|_| io::Error::other("a spawn panicked"))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        pipe.0.write_all(line.as_bytes())?;
        let mut answer = String::new();
        pipe.1.read_line(&mut answer)?;
        match serde_json::from_str(&answer)? {
            Spawned::Pid(pid) => Ok(pid),
            Spawned::Failed(why) => Err(io::Error::other(format!("{}: {why}", request.argv.join(" ")))),
        }
    }

    /// Runs `work` on a thread that is inside the host: its sockets, mounts and children are the host's.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_inside(self.pid(), work)
    }
}

/// Runs `work` on a thread of its own in the network and mount namespaces of process `pid`.
pub fn run_inside<T: Send>(pid: i32, work: impl FnOnce() -> T + Send) -> T {
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(pid).unwrap_or_else(|e| panic!("entering the namespaces of {pid}: {e}"));
                work()
            })
            .join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Moves the calling thread into the network and mount namespaces of process `pid`.
pub fn enter(pid: i32) -> io::Result<()> {
    let net = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    let mount = std::fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
    setns(&net, CloneFlags::CLONE_NEWNET)?;
    // A thread that shares its working directory may not change mount namespace (setns(2)).
    unshare(CloneFlags::CLONE_FS)?;
    setns(&mount, CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(pipe) = self.pipe.get_mut() {
            // Closing its stdin is the sign to clean up; the pipe's own field cannot be moved out of a borrowed self.
            let _ = pipe.0.write_all(b"end\n");
        }
        let _ = self.child.wait();
    }
}

/// A binary of this workspace, built beside the running one (`target/debug/NAME` for `target/debug/deps/test-…`).
pub fn sibling_binary(name: &str) -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let mut folder = exe.parent().unwrap_or(Path::new("/"));
    if folder.ends_with("deps") {
        folder = folder.parent().unwrap_or(folder);
    }
    let path = folder.join(name);
    if !path.exists() {
        let why = format!("{} is not there; build it first: cargo build", path.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(path)
}

/// Removes a cgroup and all below it from every hierarchy; what has processes in it stays.
pub fn remove_cgroup_everywhere(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_path_buf()]) {
        remove_cgroup(&hierarchy.join(name));
    }
}

fn remove_cgroup(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}
