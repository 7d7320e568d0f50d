//! A container that an OCI runtime runs. The monitor forks a *runner*, which drives the runtime and talks to the monitor as an init of
//! ours would: READY with the first process's id, the wait for the release, FAILED with the runtime's own words. The
//! processes themselves become the monitor's children when the runtime ends, since it is their reaper.
//!
//! Each command of the runtime runs in a copy of the agent's mount namespace that ends with it: what is mounted for it there, and
//! what it mounts itself, is in nobody else's mount table.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::execve;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree, unmount,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use rustix::process::{
    Signal, WaitId, WaitIdOptions, chdir, pidfd_send_signal, set_parent_process_death_signal, waitid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::failure::{InitFailure, Step};
use super::launch::{Host, Launched, Stdio, await_release, become_child, report_ready};
use crate::libcontainer::plan::{Action, InitPlan, MountSource, MoveMount};
use crate::sys::clone::{Child, CloneConfig, Cloned, clone, close_all_but, exit_now};
use crate::sys::{fd_passing, signal, unix_socket};

/// What a hybrid host has that is not v1. Runtimes know hosts of v1 and of v2, and some refuse what is both.
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// For the runtime itself, and the hooks that it runs.
const ENVIRONMENT: &[&str] = &["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
/// Where the runtime says why it failed, below the bundle's folder.
const LOG: &str = "log.json";
/// How long a command of the runtime may take: one that hangs would hold its container, and whoever wants that to end, for ever.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// So much of its end is looked at.
const LOG_END: u64 = 8192;

/// An OCI runtime and the container that it runs.
#[derive(Debug)]
pub struct Runtime {
    /// The program, by a path of the host.
    pub program: String,
    /// The bundle's folder.
    pub folder: String,
    /// The container's id.
    pub id: String,
    /// The agent's mount namespace.
    pub mounts: OwnedFd,
    /// The host has v1 and v2; the processes' cgroup in the unified hierarchy is then ours to give.
    pub hybrid: bool,
    /// `exec --cgroup` is there.
    pub exec_cgroup: bool,
}

/// A process to start in a container that an OCI runtime runs. Its `process.json` is in the bundle's folder.
#[derive(Debug)]
pub struct ExternalExec<'a> {
    /// Its name, from which the names of its files are.
    pub id: &'a str,
    /// With a terminal.
    pub tty: bool,
    /// A cgroup below the container's: its folder and its name.
    pub cgroup: Option<(BorrowedFd<'a>, &'a str)>,
}

/// What a pod's mounts are taken from: the process that has them, by its id.
#[derive(Debug, Clone, Copy)]
pub struct PodProcesses {
    /// The monitor.
    pub monitor: i32,
    /// The process whose PID namespace the container joins, if it does.
    pub pid: Option<i32>,
}

/// Starts a runner that has the runtime create a container.
///
/// # Errors
/// What the kernel refuses: out of processes, of file descriptors …
pub fn create(
    host: Host<'_>,
    runtime: &Runtime,
    plan: &InitPlan,
    fds: &[OwnedFd],
    pod: PodProcesses,
    cgroup: Option<BorrowedFd<'_>>,
    stdio: Stdio,
) -> Result<Launched, InitFailure> {
    // By the monitor itself: none of these processes is reaped meanwhile, and no id comes to mean another.
    let moves: Vec<&MoveMount> = plan.steps.iter().filter_map(as_move).collect();
    let pods = moves.iter().filter_map(|step| pod_mount(host, pod, step)).collect::<Result<Vec<_>, _>>()?;
    let kept = fds.iter().chain(&pods).map(AsRawFd::as_raw_fd).chain(cgroup.map(|fd| fd.as_raw_fd())).collect();
    run(host, runtime, kept, stdio, |runner, control, stdio| {
        runner.place(&moves, fds, &pods)?;
        let (pid, terminal) = runner.make(
            &["create", "--bundle", &runtime.folder],
            "",
            plan.tty,
            stdio,
            cgroup.filter(|_| runtime.hybrid),
        )?;
        report_ready(control, pid, terminal)?;
        // It may wait long: nothing of the container's must stay open here.
        close_all_but(&[control.as_raw_fd()], || {
            let started = await_release(control).and_then(|()| runner.command(&["start"], Stdio::default(), None));
            runner.end(control, started)
        })
        .step("close file descriptors", "")
    })
}

/// Starts a runner that has the runtime start a process in a container.
///
/// # Errors
/// As `create`.
pub fn exec(host: Host<'_>, runtime: &Runtime, exec: &ExternalExec<'_>, stdio: Stdio) -> Result<Launched, InitFailure> {
    let cgroup = exec.cgroup.map(|(folder, _)| folder);
    run(host, runtime, cgroup.iter().map(AsRawFd::as_raw_fd).collect(), stdio, |runner, control, stdio| {
        let name = format!("exec-{}", exec.id);
        let process = format!("{name}.json");
        let mut arguments = vec!["exec", "--detach", "--process", process.as_str()];
        if let Some((_, cgroup)) = exec.cgroup.filter(|_| !runtime.hybrid && runtime.exec_cgroup) {
            arguments.extend(["--cgroup", cgroup]);
        }
        let made = runner.make(&arguments, &format!("{name}-"), exec.tty, stdio, cgroup.filter(|_| runtime.hybrid));
        let _ = std::fs::remove_file(&process);
        let reported = made.and_then(|(pid, terminal)| report_ready(control, pid, terminal));
        runner.end(control, reported)
    })
}

/// Has the runtime do something of which nobody hears but by what it does. Gives its process.
///
/// # Errors
/// Out of processes.
pub fn command(host: Host<'_>, runtime: &Runtime, arguments: &[&str]) -> Result<Child, InitFailure> {
    match clone(host.threads, CloneConfig::default()).step("fork", "")? {
        Cloned::Parent(child) => Ok(child),
        Cloned::Child => {
            let runner = Runner { host, runtime };
            // Its log says why not.
            let _ = close_all_but(&[runtime.mounts.as_raw_fd()], || {
                let done = runner.enter().and_then(|()| runner.command(arguments, Stdio::default(), None));
                exit_now(i32::from(done.is_err()))
            });
            exit_now(1)
        }
    }
}

fn as_move(step: &crate::libcontainer::plan::Step) -> Option<&MoveMount> {
    match &step.action {
        Some(Action::MoveMount(step)) => Some(step),
        _ => None,
    }
}

/// A detached clone of the pod's shared memory, or of a namespace.
fn pod_mount(host: Host<'_>, pod: PodProcesses, step: &MoveMount) -> Option<Result<OwnedFd, InitFailure>> {
    let Some(MountSource::Pod(name)) = &step.source else { return None };
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
    let opened = match (name.as_str(), pod.pid) {
        ("shm", _) => open_tree(CWD, "/shm", flags),
        ("pid", Some(pid)) => open_tree(host.procfs, format!("{pid}/ns/pid"), flags),
        ("pid", None) => Err(Errno::SRCH),
        (name, _) => open_tree(host.procfs, format!("{}/ns/{name}", pod.monitor), flags),
    };
    Some(opened.step("open of the pod:", name))
}

/// Forks a runner, which enters the copy of the host's mount namespace and goes on with `life`.
fn run(
    host: Host<'_>,
    runtime: &Runtime,
    mut kept: Vec<RawFd>,
    stdio: Stdio,
    life: impl FnOnce(&Runner<'_>, &OwnedFd, Stdio) -> Result<Infallible, InitFailure>,
) -> Result<Launched, InitFailure> {
    let (control, theirs) = unix_socket::pair().step("make the runner's control socket", "")?;
    match clone(host.threads, CloneConfig::default()).step("fork", "")? {
        Cloned::Parent(Child { pid, pidfd }) => Ok(Launched { pid, pidfd, control }),
        Cloned::Child => {
            let _ = rustix::thread::set_name(c"berth-runner");
            // Without a monitor nobody would know of what the runtime makes.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            kept.push(runtime.mounts.as_raw_fd());
            become_child(&theirs, kept, stdio, |stdio| {
                let runner = Runner { host, runtime };
                runner.enter()?;
                life(&runner, &theirs, stdio)
            })
        }
    }
}

/// The forked process.
struct Runner<'a> {
    host: Host<'a>,
    runtime: &'a Runtime,
}

impl Runner<'_> {
    /// A copy of the agent's mount namespace, from which nothing goes back.
    fn enter(&self) -> Result<(), InitFailure> {
        setns(&self.runtime.mounts, CloneFlags::CLONE_NEWNS).step("enter the agent's mount namespace", "")?;
        unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace", "")?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .step("make a slave of", "/")?;
        if self.runtime.hybrid {
            unmount(UNIFIED, UnmountFlags::DETACH).step("leave out", UNIFIED)?;
        }
        chdir(self.runtime.folder.as_str()).step("enter the bundle", &self.runtime.folder)
    }

    /// Mounts what the plan has for the runtime.
    fn place(&self, moves: &[&MoveMount], fds: &[OwnedFd], pods: &[OwnedFd]) -> Result<(), InitFailure> {
        let mut pods = pods.iter();
        for MoveMount { source, target } in moves {
            let mount = match source {
                Some(MountSource::Fd(index)) => usize::try_from(*index).ok().and_then(|index| fds.get(index)),
                Some(MountSource::Pod(_)) => pods.next(),
                None => None,
            };
            let mount = mount.ok_or_else(|| InitFailure::refused("no source for mount", target))?;
            make_place(mount, Path::new(target)).step("make mount point", target)?;
            move_mount(mount, "", CWD, target.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .step("mount on", target)?;
        }
        Ok(())
    }

    /// A command that makes a process: its id, and its terminal's master side if it has one. The names of its files begin with `prefix`.
    fn make(
        &self,
        arguments: &[&str],
        prefix: &str,
        tty: bool,
        stdio: Stdio,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, Option<OwnedFd>), InitFailure> {
        let (pid_file, socket) = (format!("{prefix}pid"), format!("{prefix}console"));
        let console = tty.then(|| listen_at(&socket)).transpose()?;
        let mut arguments = arguments.to_vec();
        arguments.extend(["--pid-file", &pid_file]);
        if tty {
            arguments.extend(["--console-socket", &socket]);
        }
        let done = self.command(&arguments, stdio, cgroup);
        let pid = std::fs::read_to_string(&pid_file);
        for file in [&pid_file, &socket] {
            let _ = std::fs::remove_file(file);
        }
        done?;
        let pid = pid.step("read the runtime's", &pid_file)?;
        let pid =
            pid.trim().parse().map_err(|_| InitFailure::refused("the runtime wrote no process id to", &pid_file))?;
        Ok((pid, console.map(|console| receive_terminal(&console)).transpose()?))
    }

    /// Runs the runtime and waits for its end.
    fn command(&self, arguments: &[&str], stdio: Stdio, cgroup: Option<BorrowedFd<'_>>) -> Result<(), InitFailure> {
        let said = std::fs::metadata(LOG).map_or(0, |log| log.len());
        let child = match clone(self.host.threads, CloneConfig { flags: 0, cgroup }).step("fork", "")? {
            Cloned::Parent(child) => child,
            Cloned::Child => {
                // Without a runner nobody waits for what it makes.
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                let _ = self.become_runtime(arguments, stdio);
                exit_now(127)
            }
        };
        drop(stdio);
        let ended = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&PATIENCE));
        if ended == Ok(0) {
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        }
        let status =
            waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).step("wait for the runtime", "")?;
        let code = status.and_then(|status| status.exit_status());
        if code == Some(0) {
            return Ok(());
        }
        let (program, command) = (&self.runtime.program, arguments.first().copied().unwrap_or_default());
        let why = last_words(said).unwrap_or_else(|| match code {
            Some(127) => "it could not be executed".to_owned(),
            Some(code) => format!("exit code {code}, and no reason in its log"),
            None if ended == Ok(0) => format!("it did not end within {} s", PATIENCE.tv_sec),
            None => "it was killed".to_owned(),
        });
        Err(InitFailure::refused(&format!("{program} {command}: {why}"), ""))
    }

    /// Becomes the runtime. Comes back only if that is not possible.
    fn become_runtime(&self, arguments: &[&str], stdio: Stdio) -> Result<Infallible, InitFailure> {
        let step = "set up standard input and output";
        let null =
            || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from).step("open", "/dev/null");
        let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Ok);
        dup2_stdin(or_null(stdio.stdin)?).step(step, "")?;
        dup2_stdout(or_null(stdio.stdout)?).step(step, "")?;
        dup2_stderr(or_null(stdio.stderr)?).step(step, "")?;
        let Runtime { program, folder, id, .. } = self.runtime;
        let root = format!("{folder}/state");
        let log = format!("{folder}/{LOG}");
        let mut argv = vec![program.as_str(), "--root", &root, "--log", &log, "--log-format", "json"];
        argv.extend(arguments);
        argv.push(id);
        // `kill` has the signal after the id.
        let signal = if arguments.first() == Some(&"kill") { arguments.get(1).copied() } else { None };
        if let Some(signal) = signal {
            argv.retain(|argument| *argument != signal);
            argv.push(signal);
        }
        let strings = |list: &[&str]| list.iter().map(|text| CString::new(*text)).collect::<Result<Vec<_>, _>>();
        let nul = |_| InitFailure::refused("a nul byte in the runtime's arguments", "");
        let (argv, environment) = (strings(&argv).map_err(nul)?, strings(ENVIRONMENT).map_err(nul)?);
        let path = CString::new(program.as_str()).map_err(nul)?;
        signal::reset().step("reset signals", "")?;
        close_all_but(&[], || {
            let Err(errno) = execve(&path, &argv, &environment);
            Err(errno.into())
        })
        .step("execute", program)
    }

    /// The runner's own end: what it had to do is done, or it tells why not.
    fn end<T>(&self, control: &OwnedFd, done: Result<T, InitFailure>) -> ! {
        match done {
            Ok(_) => exit_now(0),
            Err(failure) => super::launch::fail(control, &failure),
        }
    }
}

fn make_place(mount: &OwnedFd, target: &Path) -> std::io::Result<()> {
    let is_dir = FileType::from_raw_mode(fstat(mount)?.st_mode).is_dir();
    let folder = if is_dir { Some(target) } else { target.parent() };
    if let Some(folder) = folder {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if !is_dir {
        File::options().create(true).append(true).mode(0o600).open(target)?;
    }
    Ok(())
}

/// Where the runtime sends a terminal's master side (runc's docs/terminals.md). An address has room for no more than a name here.
fn listen_at(name: &str) -> Result<OwnedFd, InitFailure> {
    let _ = std::fs::remove_file(name);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let step = "make the console socket";
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).step(step, name)?;
    bind(&socket, &SocketAddrUnix::new(name).step(step, name)?).step(step, name)?;
    listen(&socket, 1).step(step, name)?;
    Ok(socket)
}

/// The runtime has sent it before it ended.
fn receive_terminal(console: &OwnedFd) -> Result<OwnedFd, InitFailure> {
    let step = "receive the terminal from the runtime";
    let socket = accept_with(console, SocketFlags::CLOEXEC).step(step, "")?;
    let mut name = [0u8; 4096];
    let (_, fds) = fd_passing::receive(&socket, &mut name).step(step, "")?;
    fds.into_iter().next().ok_or_else(|| InitFailure::refused(step, ""))
}

/// The last message of the runtime's log, after the first `said` bytes of it.
fn last_words(said: u64) -> Option<String> {
    let mut log = File::open(LOG).ok()?;
    let end = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(said.max(end.saturating_sub(LOG_END)))).ok()?;
    let mut text = Vec::new();
    log.take(LOG_END).read_to_end(&mut text).ok()?;
    String::from_utf8_lossy(&text).lines().rev().find_map(message)
}

/// The `msg` of a log line that is an error: one JSON object, of which nothing else is of interest here.
fn message(line: &str) -> Option<String> {
    if line.contains("\"level\":\"warning\"")
        || line.contains("\"level\":\"info\"")
        || line.contains("\"level\":\"debug\"")
    {
        return None;
    }
    let begin = line.find("\"msg\"")? + "\"msg\"".len();
    let rest = line[begin..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let (mut text, mut escaped) = (String::new(), false);
    for c in rest.chars() {
        match (escaped, c) {
            (false, '"') => return Some(text),
            (false, '\\') => escaped = true,
            (true, 'n' | 't' | 'r') => (escaped, _) = (false, text.push(' ')),
            (_, c) => (escaped, _) = (false, text.push(c)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn the_runtimes_reason_is_found() {
        let line = r#"{"level":"error","msg":"exec: \"nope\": not found\n","time":"2026-11-24T18:00:00Z"}"#;
        assert_eq!(message(line).as_deref(), Some("exec: \"nope\": not found "));
        assert_eq!(message(r#"{"msg" : "a","level":"error"}"#).as_deref(), Some("a"));
        for none in ["", "plain text", r#"{"level":"warning","msg":"x"}"#, r#"{"msg":"cut"#, r#"{"msg":3}"#] {
            assert_eq!(message(none), None, "{none}");
        }
    }
}
