//! ExecSync: two pipes and one message. The monitor forks the command inside the container; its output comes straight
//! to the agent through the pipes.

use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::monitors::PodMonitor;
use super::{Engine, Error, of_pod};
use crate::libcontainer::plan::ProcessPlan;
use crate::model::{Container, ContainerState};
use crate::monitor::client::{ExecRequest, MonitorError};

/// What both streams may hold together; the rest is read and dropped (rules of the CRI, CVE-2022-1708). kubelet takes
/// 16 MiB a message: what does not fit would cost it the whole answer, so there is room for the framing.
const CAP: usize = (16 << 20) - (64 << 10);

/// How long output is still read after the command's exit: what is in the pipe is read at once, and a grandchild that
/// keeps the pipe open is not waited for.
const AFTER_EXIT: Duration = Duration::from_millis(50);

/// What a command left.
#[derive(Debug)]
pub struct ExecOutput {
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error; what both hold fits one CRI message.
    pub stderr: Vec<u8>,
    /// Its exit code, or 128 + signal.
    pub exit_code: i32,
}

impl Engine {
    /// Runs a command in a running container to its end; `timeout` in seconds, 0 for none.
    ///
    /// # Errors
    /// When the container does not run, the command cannot be executed, or its time is over (all of it is dead then).
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        command: Vec<String>,
        timeout: i64,
    ) -> Result<ExecOutput, Error> {
        let container = self.container(id)?;
        if !matches!(container.state, ContainerState::Running { .. }) {
            return Err(Error::WrongState {
                what: "container",
                id: container.id.to_string(),
                state: container.state.name(),
                wanted: "running",
            });
        }
        if command.first().is_none_or(String::is_empty) {
            return Err(Error::Invalid { field: "cmd", reason: "names no program".into() });
        }
        let process = self.exec_process(&container, &command)?;
        self.run_command(&container, process, command, timeout).await
    }

    async fn run_command(
        &self,
        container: &Container,
        process: ProcessPlan,
        command: Vec<String>,
        timeout: i64,
    ) -> Result<ExecOutput, Error> {
        let (pod, monitor) = self.monitor_of(container)?;
        let (stdout, stdout_end) = output_pipe()?;
        let (stderr, stderr_end) = output_pipe()?;
        let exec = exec_id()?;
        let exited = monitor.expect_exec(exec.clone());
        let running = KillOnDrop { monitor: monitor.clone(), exec: exec.clone(), armed: true };
        let request = ExecRequest {
            container: container.id.clone(),
            exec,
            process,
            tty: false,
            stdin: None,
            stdout: Some(stdout_end),
            stderr: Some(stderr_end),
        };
        let run = async {
            monitor.client.exec(request).await?;
            Ok(collect(stdout, stderr, async { exited.await.ok() }).await)
        };
        // The command's own way to its program counts: a stuck disk below it is no reason to answer later.
        let output = match timeout {
            0 => run.await,
            seconds => {
                let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                match tokio::time::timeout(limit, run).await {
                    Ok(output) => output,
                    Err(_) => {
                        running.kill().await.map_err(of_pod(&pod))?;
                        return Err(Error::ExecTimeout { id: container.id.to_string(), command, seconds });
                    }
                }
            }
        };
        let output = output.map_err(|error| match error {
            failure @ MonitorError::Init { .. } => {
                Error::Exec { id: container.id.to_string(), command: command.clone(), source: failure }
            }
            error => of_pod(&pod)(error),
        })?;
        running.disarm();
        output.ok_or(Error::WrongState {
            what: "container",
            id: container.id.to_string(),
            state: "lost",
            wanted: "running until the command's end",
        })
    }

    /// The command with the credentials, environment and filter that the container itself was made with.
    fn exec_process(&self, container: &Container, command: &[String]) -> Result<ProcessPlan, Error> {
        let mut process = self.read_process(&container.id)?;
        process.args = command.to_vec();
        Ok(process)
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

fn output_pipe() -> Result<(Receiver, std::os::fd::OwnedFd), Error> {
    let failed = |source| Error::System { op: "make a pipe for a command's output", source };
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    Ok((Receiver::from_owned_fd(read).map_err(failed)?, write))
}

/// Reads both streams and waits for the exit. `None`: the exit will never be known.
async fn collect(
    mut stdout: Receiver,
    mut stderr: Receiver,
    exited: impl Future<Output = Option<i32>>,
) -> Option<ExecOutput> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit_code = {
        let reading = async { tokio::join!(read_capped(&mut stdout, &mut out), read_capped(&mut stderr, &mut err)) };
        tokio::pin!(reading, exited);
        let mut open = true;
        let exit_code = loop {
            tokio::select! {
                code = &mut exited => break code?,
                _ = &mut reading, if open => open = false,
            }
        };
        if open {
            let _ = tokio::time::timeout(AFTER_EXIT, reading).await;
        }
        exit_code
    };
    fit(&mut out, &mut err);
    Some(ExecOutput { stdout: out, stderr: err, exit_code })
}

/// Cuts the longer one to what the other leaves, and both to the half when both are long.
fn fit(out: &mut Vec<u8>, err: &mut Vec<u8>) {
    let room = |other: &Vec<u8>| CAP - other.len().min(CAP / 2);
    let (for_out, for_err) = (room(err), room(out));
    if out.len() + err.len() > CAP {
        out.truncate(for_out);
        err.truncate(for_err);
    }
}

async fn read_capped(pipe: &mut Receiver, kept: &mut Vec<u8>) {
    let mut chunk = [0u8; 16 << 10];
    loop {
        match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => kept.extend_from_slice(&chunk[..count.min(CAP - kept.len())]),
        }
    }
}

/// A command whose caller goes away (the client hung up) does not run on.
struct KillOnDrop {
    monitor: Arc<PodMonitor>,
    exec: String,
    armed: bool,
}

impl KillOnDrop {
    async fn kill(mut self) -> Result<(), MonitorError> {
        self.armed = false;
        match self.monitor.client.kill_exec(&self.exec).await {
            // It ended at the same moment; its monitor is gone, and it with its pod.
            Err(MonitorError::NotFound(_) | MonitorError::Lost) => Ok(()),
            killed => killed,
        }
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.monitor.exec_exited(&self.exec, -1);
        if self.armed {
            let (monitor, exec) = (self.monitor.clone(), self.exec.clone());
            tokio::spawn(async move { monitor.client.kill_exec(&exec).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pipe() -> (Receiver, std::fs::File) {
        let (read, write) = output_pipe().unwrap();
        (read, write.into())
    }

    #[tokio::test]
    async fn output_is_exact_and_a_held_pipe_does_not_hang() {
        let (stdout, mut out_end) = pipe();
        let (stderr, err_end) = pipe();
        out_end.write_all(b"hello").unwrap();
        drop(err_end);
        // out_end stays open: a grandchild holds it.
        let output = collect(stdout, stderr, async { Some(3) }).await.unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.len(), output.exit_code), (b"hello".as_slice(), 0, 3));
    }

    #[tokio::test]
    async fn more_than_the_cap_is_drained_and_dropped() {
        let (stdout, mut out_end) = pipe();
        let (stderr, _) = pipe();
        let writer = std::thread::spawn(move || {
            let chunk = vec![b'x'; 1 << 20];
            (0..17).for_each(|_| out_end.write_all(&chunk).unwrap());
        });
        let done = async { tokio::task::spawn_blocking(|| writer.join().unwrap()).await.ok().map(|()| 0) };
        let output = collect(stdout, stderr, done).await.unwrap();
        assert_eq!(output.stdout.len(), CAP);
    }

    #[test]
    fn both_streams_fit_one_message() {
        let fitted = |out: usize, err: usize| {
            let (mut out, mut err) = (vec![0; out], vec![0; err]);
            fit(&mut out, &mut err);
            (out.len(), err.len())
        };
        assert_eq!(fitted(CAP, 0), (CAP, 0));
        assert_eq!(fitted(CAP - 5, 5), (CAP - 5, 5));
        assert_eq!(fitted(CAP, 7), (CAP - 7, 7), "a short message of the other stream is kept");
        assert_eq!(fitted(7, CAP), (7, CAP - 7));
        assert_eq!(fitted(CAP, CAP), (CAP / 2, CAP / 2));
    }
}
