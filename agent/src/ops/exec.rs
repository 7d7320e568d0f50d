//! A command in a running container, as ExecSync and Exec run it: asked for, waited for, and killed with all that it
//! started once nobody waits for it any more.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::external::write_exec;
use super::monitors::PodMonitor;
use super::streams::failed;
use super::{Engine, Error, of_pod};
use crate::libcontainer::plan::ProcessPlan;
use crate::model::{Container, ContainerId, PodId};
use crate::monitor::client::{ExecRequest, MonitorError};

/// What a command's standard input and output are.
pub(super) enum Stdio {
    /// A terminal of its own.
    Terminal,
    /// Its ends of pipes; `None` is /dev/null.
    Pipes { stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd> },
}

/// A command from before it is asked for until its exit is known. Dropped earlier, the command is killed.
pub(super) struct Command {
    container: ContainerId,
    argv: Vec<String>,
    pod: PodId,
    monitor: Arc<PodMonitor>,
    exec: String,
    /// Where an OCI runtime that runs the container finds its process.
    bundle: Option<PathBuf>,
    exited: oneshot::Receiver<i32>,
    /// Its terminal, open until it has been killed: hung up before that, its first process would end and the exec with it, and what has
    /// left its session run on.
    terminal: Option<OwnedFd>,
    /// It may run.
    armed: bool,
}

impl Engine {
    /// Announces a command; nothing runs yet.
    pub(super) fn command(&self, container: &Container, argv: Vec<String>) -> Result<Command, Error> {
        names_a_program(&argv)?;
        let (pod, monitor) = self.monitor_of(container)?;
        let exec = exec_id()?;
        let exited = monitor.expect_exec(exec.clone());
        let (container, bundle) = (container.id.clone(), self.bundle_of(container));
        Ok(Command { container, argv, pod, monitor, exec, bundle, exited, terminal: None, armed: false })
    }

    /// What the container itself was made with (credentials, environment, filter), for that command.
    pub(super) fn process_of(&self, command: &Command) -> Result<ProcessPlan, Error> {
        Ok(ProcessPlan { args: command.argv.clone(), ..self.read_process(&command.container)? })
    }
}

impl Command {
    /// Runs it; returns when its program is executed, with the master side of its terminal if it has one.
    pub(super) async fn start(&mut self, process: ProcessPlan, stdio: Stdio) -> Result<Option<OwnedFd>, Error> {
        let (tty, (stdin, stdout, stderr)) = match stdio {
            Stdio::Terminal => (true, (None, None, None)),
            Stdio::Pipes { stdin, stdout, stderr } => (false, (stdin, stdout, stderr)),
        };
        let (container, exec) = (self.container.clone(), self.exec.clone());
        if let Some(bundle) = &self.bundle {
            write_exec(bundle, &exec, &process, tty)?;
        }
        self.armed = true;
        let request = ExecRequest { container, exec, process, tty, stdin, stdout, stderr };
        match self.monitor.client.exec(request).await {
            Ok(execed) => {
                self.terminal = execed.terminal.as_ref().map(OwnedFd::try_clone).transpose().map_err(failed)?;
                Ok(execed.terminal)
            }
            Err(failure @ MonitorError::Init { .. }) => {
                self.armed = false;
                Err(Error::Exec { id: self.container.to_string(), command: self.argv.clone(), source: failure })
            }
            Err(error) => Err(of_pod(&self.pod)(error)),
        }
    }

    /// Waits for its end: its exit code, or 128 + signal.
    ///
    /// # Errors
    /// The monitor is lost, and with it all that is known.
    pub(super) async fn exited(&mut self) -> Result<i32, Error> {
        match (&mut self.exited).await {
            Ok(code) => {
                self.armed = false;
                Ok(code)
            }
            Err(_) => Err(Error::WrongState {
                what: "container",
                id: self.container.to_string(),
                state: "lost",
                wanted: "running until the command's end",
            }),
        }
    }

    /// Kills it with all that it started.
    pub(super) async fn kill(mut self) -> Result<Vec<String>, Error> {
        self.armed = false;
        match self.monitor.client.kill_exec(&self.exec).await {
            // It ended at the same moment; its monitor is gone, and it with its pod.
            Ok(()) | Err(MonitorError::NotFound(_) | MonitorError::Lost) => Ok(std::mem::take(&mut self.argv)),
            Err(error) => Err(of_pod(&self.pod)(error)),
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        self.monitor.forget_exec(&self.exec);
        if self.armed {
            let (monitor, exec, terminal) = (self.monitor.clone(), self.exec.clone(), self.terminal.take());
            tokio::spawn(async move {
                // It ended at the same moment, or its monitor with it.
                let _ = monitor.client.kill_exec(&exec).await;
                drop(terminal);
            });
        }
    }
}

/// Whether there is something to run.
pub(super) fn names_a_program(argv: &[String]) -> Result<(), Error> {
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err(Error::Invalid { field: "cmd", reason: "names no program".into() }),
    }
}

/// Ids of execs are the agent's choice. Random, so that those of an earlier agent, which a monitor may still run, are
/// never met.
fn exec_id() -> Result<String, Error> {
    match getrandom::u64() {
        Ok(id) => Ok(format!("{id:016x}")),
        Err(error) => Err(Error::System { op: "get random bytes for an id", source: std::io::Error::other(error) }),
    }
}
