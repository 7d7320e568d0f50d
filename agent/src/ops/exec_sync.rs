//! ExecSync: two pipes and one message. The monitor forks the command inside the container; its output comes straight
//! to the agent through the pipes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::exec::Stdio;
use super::{Engine, Error, streams};

/// What both streams may hold together; the rest is read and dropped (rules of the CRI, CVE-2022-1708). kubelet takes
/// 16 MiB a message: what does not fit would cost it the whole answer, so there is room for the framing.
const CAP: usize = (16 << 20) - (64 << 10);

/// How much is read at once, at least; most commands say less.
const CHUNK: usize = 4 << 10;

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
        let container = self.running_container(id)?;
        let mut running = self.command(&container, command)?;
        let process = self.process_of(&running)?;
        let (stdout, stdout_end) = output_pipe()?;
        let (stderr, stderr_end) = output_pipe()?;
        let stdio = Stdio::Pipes { stdin: None, stdout: Some(stdout_end), stderr: Some(stderr_end) };
        let run = async {
            running.start(process, stdio).await?;
            collect(stdout, stderr, running.exited()).await
        };
        // The command's own way to its program counts: a stuck disk below it is no reason to answer later.
        match timeout {
            0 => run.await,
            seconds => {
                let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                match tokio::time::timeout(limit, run).await {
                    Ok(output) => output,
                    Err(_) => {
                        let command = running.kill().await?;
                        Err(Error::ExecTimeout { id: container.id.to_string(), command, seconds })
                    }
                }
            }
        }
    }
}

fn output_pipe() -> Result<(Receiver, OwnedFd), Error> {
    let (read, write) = streams::output_pipe()?;
    Ok((Receiver::from_owned_fd(read).map_err(streams::failed)?, write))
}

/// Reads both streams and waits for the exit.
async fn collect(
    mut stdout: Receiver,
    mut stderr: Receiver,
    exited: impl Future<Output = Result<i32, Error>>,
) -> Result<ExecOutput, Error> {
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
    Ok(ExecOutput { stdout: out, stderr: err, exit_code })
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

/// Into the room that there is: a buffer of its own would make the future of every ExecSync as large, and it is moved a few times.
async fn read_capped(pipe: &mut Receiver, kept: &mut Vec<u8>) {
    while kept.len() < CAP {
        kept.reserve(CHUNK);
        let room = CAP - kept.len();
        match pipe.read_buf(&mut (&mut *kept).limit(room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let mut dropped = vec![0; CHUNK];
    while pipe.read(&mut dropped).await.is_ok_and(|count| count > 0) {}
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
        let output = collect(stdout, stderr, async { Ok(3) }).await.unwrap();
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
        let done = async { Ok(tokio::task::spawn_blocking(|| writer.join().unwrap()).await.map_or(1, |()| 0)) };
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
