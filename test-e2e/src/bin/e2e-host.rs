//! The process that holds a test host: see `test_e2e::host`. It reads one spawn request a line on stdin and answers
//! the pid; at "end" or end of file it kills every descendant, removes the host's cgroups and folder, and exits.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Parser;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use test_e2e::host::{Spawn, Spawned, enter, remove_cgroup_everywhere};
use test_e2e::process;

#[derive(Parser)]
struct Options {
    /// Removed at the end.
    #[arg(long)]
    folder: PathBuf,
    /// Removed at the end from every cgroup hierarchy.
    #[arg(long)]
    cgroup: String,
    /// Begin in new network and mount namespaces.
    #[arg(long)]
    new: bool,
    /// Begin in the namespaces of this process.
    #[arg(long)]
    join: Option<i32>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    nix::sys::prctl::set_child_subreaper(true)?;
    if options.new {
        new_namespaces()?;
    } else if let Some(pid) = options.join {
        enter(pid)?;
    }
    std::thread::spawn(reap);
    let mut stdout = io::stdout();
    writeln!(stdout, "ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line == "end" {
            break;
        }
        let answer = match serde_json::from_str::<Spawn>(&line).map_err(io::Error::other).and_then(|s| spawn(&s)) {
            Ok(pid) => Spawned::Pid(pid),
            Err(e) => Spawned::Failed(e.to_string()),
        };
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
    }
    end_descendants();
    if std::env::var_os("E2E_KEEP").is_none() {
        remove_cgroup_everywhere(&options.cgroup);
        // The agent's root may be a disk of its own.
        let _ = umount2(&options.folder.join("root"), MntFlags::MNT_DETACH);
        std::fs::remove_dir_all(&options.folder)?;
    }
    Ok(())
}

/// A network with nothing but loopback, and mounts of our own that are shared among themselves, as on a real node.
fn new_namespaces() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if up.success() { Ok(()) } else { Err(io::Error::other("ip link set lo up failed")) }
}

fn spawn(request: &Spawn) -> io::Result<i32> {
    let (program, arguments) = request.argv.split_first().ok_or_else(|| io::Error::other("no program"))?;
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&request.log)?;
    let child = Command::new(program)
        .args(arguments)
        .envs(request.env.iter().map(|(key, value)| (key, value)))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child.id() as i32)
}

/// Reaps for ever: our own children and the orphans of their trees.
fn reap() {
    loop {
        if waitpid(None::<Pid>, None).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kills the whole tree below us, again and again until a look finds nobody: a tree that forks must not win.
fn end_descendants() {
    let own = std::process::id() as i32;
    for _ in 0..500 {
        let tree = process::descendants(own);
        if tree.is_empty() {
            return;
        }
        for pid in tree {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("e2e-host: descendants that do not die: {:?}", process::descendants(own));
}
