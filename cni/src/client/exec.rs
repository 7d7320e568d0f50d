//! Plugins as programs. What they print is not trusted: it is bounded, and so is their time.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command as Process, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::call::{Call, RunError, Runner};
use crate::types::CniError;

/// No result is as long.
const MOST_OUTPUT: usize = 1 << 20;
/// Of what a plugin says besides, the end is kept.
const KEPT_STDERR: usize = 8 << 10;
/// Of that, so much goes into an error's text.
const QUOTED: usize = 1 << 10;

/// Runs plugins as processes: each in a process group of its own, which is killed at the deadline.
#[derive(Debug, Clone)]
pub struct Exec {
    path: Vec<PathBuf>,
}

impl Exec {
    /// Plugins are looked for in these folders, in turn.
    pub fn new(path: Vec<PathBuf>) -> Self {
        Self { path }
    }

    /// Where a plugin's program is.
    pub fn find(&self, plugin: &str) -> Option<PathBuf> {
        // The name comes from a file of the operator's, but must not lead elsewhere.
        if plugin.is_empty() || plugin.contains('/') || plugin == "." || plugin == ".." {
            return None;
        }
        self.path.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file())
    }
}

impl Runner for Exec {
    fn run(&self, plugin: &str, call: &Call) -> Result<Vec<u8>, RunError> {
        let Some(program) = self.find(plugin) else {
            return Err(RunError::NotFound { plugin: plugin.into(), path: self.path.clone() });
        };
        let started = Instant::now();
        let child = start(Process::new(program), call).map_err(failed(plugin, "start"))?;
        let mut running = Running::new(child).map_err(failed(plugin, "open pipes"))?;
        let ended = running.finish(&call.input, call.deadline).map_err(failed(plugin, "wait"))?;
        let command = call.command;
        match ended {
            Ended::Exited(status) if status.success() => Ok(running.output),
            Ended::Exited(status) => Err(running.failure(plugin, call, status)),
            Ended::Deadline => {
                let patience = call.deadline.saturating_duration_since(started);
                Err(RunError::Deadline { plugin: plugin.into(), command, patience, said: quote(&running.errors) })
            }
            Ended::TooMuch => Err(RunError::TooMuchOutput { plugin: plugin.into(), command, limit: MOST_OUTPUT }),
        }
    }
}

fn failed(plugin: &str, operation: &'static str) -> impl FnOnce(io::Error) -> RunError + use<> {
    let plugin = plugin.to_owned();
    move |source| RunError::Process { plugin, operation, source }
}

fn start(mut program: Process, call: &Call) -> io::Result<Child> {
    program
        .env("CNI_COMMAND", call.command.as_str())
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_NETNS", &call.netns)
        .env("CNI_IFNAME", &call.interface)
        .env("CNI_ARGS", &call.args)
        .env("CNI_PATH", std::env::join_paths(&call.path).unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    loop {
        match program.spawn() {
            // Somebody is still writing it, or forked while it was written: upgrades replace plugins in use.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < call.deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// A plugin that runs.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Vec<u8>,
    errors: Vec<u8>,
}

enum Ended {
    Exited(ExitStatus),
    Deadline,
    TooMuch,
}

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let pidfd = pid_of(&child).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = Self { child, pidfd, stdin, stdout, stderr, output: Vec::new(), errors: Vec::new() };
        for pipe in running.pipes() {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(running)
    }

    fn pipes(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        let stdin = self.stdin.as_ref().map(AsFd::as_fd);
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        stdin.into_iter().chain(stdout).chain(self.stderr.as_ref().map(AsFd::as_fd))
    }

    /// Until the process itself ends: who else holds its pipes is not waited for.
    fn finish(&mut self, mut input: &[u8], deadline: Instant) -> io::Result<Ended> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let exited = self.wait(left)?;
            if !exited && left.is_zero() {
                return self.kill().map(|_| Ended::Deadline);
            }
            self.feed(&mut input)?;
            if self.drain()? {
                return self.kill().map(|_| Ended::TooMuch);
            }
            if exited {
                return Ok(Ended::Exited(self.child.wait()?));
            }
        }
    }

    /// Whether the process has ended.
    fn wait(&self, left: Duration) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut fds, Some(&Timespec::try_from(left).unwrap_or_default())) {
            Ok(_) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn feed(&mut self, input: &mut &[u8]) -> io::Result<()> {
        let Some(pipe) = &mut self.stdin else { return Ok(()) };
        match pipe.write(input) {
            Ok(written) => *input = input.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It reads no further, which is its own business.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => *input = &[],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if input.is_empty() {
            self.stdin = None;
        }
        Ok(())
    }

    /// Reads what there is. True when it is too much.
    fn drain(&mut self) -> io::Result<bool> {
        if read_some(&mut self.stdout, &mut self.output, MOST_OUTPUT + 1)? {
            self.stdout = None;
        }
        if read_some(&mut self.stderr, &mut self.errors, usize::MAX)? {
            self.stderr = None;
        }
        let surplus = self.errors.len().saturating_sub(KEPT_STDERR);
        self.errors.drain(..surplus);
        Ok(self.output.len() > MOST_OUTPUT)
    }

    fn kill(&mut self) -> io::Result<ExitStatus> {
        // The leader has not been waited for, so its id is its own still.
        match kill_process_group(pid_of(&self.child)?, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => self.child.wait(),
            Err(errno) => Err(errno.into()),
        }
    }

    fn failure(&self, plugin: &str, call: &Call, status: ExitStatus) -> RunError {
        let (plugin, command) = (plugin.to_owned(), call.command);
        match serde_json::from_slice::<CniError>(&self.output) {
            Ok(error) => RunError::Failed { plugin, command, error },
            Err(_) => {
                let said = if self.errors.is_empty() { &self.output } else { &self.errors };
                RunError::Died { plugin, command, status, said: quote(said) }
            }
        }
    }
}

/// Reads what there is, to at most `most` bytes; true at the end of the pipe.
fn read_some(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = [0; 4096];
    // Bounded, so that one who prints for ever does not keep us from the clock.
    for _ in 0..64 {
        if into.len() >= most {
            return Ok(false);
        }
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(length) => into.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).ok();
    raw.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("the child has no process id"))
}

/// The end of a text, in a line.
fn quote(bytes: &[u8]) -> String {
    let tail = &bytes[bytes.len().saturating_sub(QUOTED)..];
    let text = String::from_utf8_lossy(tail);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
