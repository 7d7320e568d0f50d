//! Exec: a command whose input and output a client has. The agent answers with a URL; the command starts when the client
//! comes, and dies with all that it started when the client goes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cri_api::v1::ExecRequest;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::exec::{Command, Stdio, names_a_program};
use super::streams::{SIZES, check, failed, input_pipe, output_pipe, set_nonblocking, wanted};
use super::{Engine, Error, chain};
use crate::libcontainer::plan::ProcessPlan;
use crate::libcontainer::run::resize_terminal;
use crate::stream::{ProcessIo, ProcessStreams, Session, StartProcess, TerminalSize};
use crate::sys::async_fd;

impl Engine {
    /// Where the client finds the command that it wants to run in a running container.
    ///
    /// # Errors
    /// When the container does not run, or the request breaks the CRI's rules. What else can go wrong is told to the client.
    pub fn exec(self: &Arc<Self>, request: ExecRequest) -> Result<String, Error> {
        let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        let container = self.running_container(&container_id)?;
        let streams = check(ProcessStreams { tty, stdin, stdout, stderr })?;
        names_a_program(&cmd)?;
        let (engine, id) = (self.clone(), container.id.clone());
        let start: StartProcess = Box::new(move || {
            Box::pin(async move { engine.start_exec(id.as_str(), cmd, streams).await.map_err(|error| chain(&error)) })
        });
        self.open_session(Session::Exec { streams, start })
    }

    /// The client has come.
    async fn start_exec(&self, id: &str, cmd: Vec<String>, streams: ProcessStreams) -> Result<ProcessIo, Error> {
        let container = self.running_container(id)?;
        let mut command = self.command(&container, cmd)?;
        let process = self.process_of(&command)?;
        if streams.tty {
            return with_terminal(command, process, streams).await;
        }
        let (stdin_end, stdin) = wanted(streams.stdin, input_pipe)?;
        let (stdout, stdout_end) = wanted(streams.stdout, output_pipe)?;
        let (stderr, stderr_end) = wanted(streams.stderr, output_pipe)?;
        let stdio = Stdio::Pipes { stdin: stdin_end, stdout: stdout_end, stderr: stderr_end };
        command.start(process, stdio).await?;
        // Nobody takes sizes: there is no terminal.
        let (resize, _) = mpsc::channel(SIZES);
        Ok(ProcessIo { stdin, stdout, stderr, resize, exit: exit_of(command) })
    }
}

/// A terminal carries input, output and sizes over one descriptor, of which each user gets a copy.
async fn with_terminal(
    mut command: Command,
    process: ProcessPlan,
    streams: ProcessStreams,
) -> Result<ProcessIo, Error> {
    let master = command.start(process, Stdio::Terminal).await?;
    let master = master.ok_or_else(|| failed(std::io::Error::other("the command came without its terminal")))?;
    set_nonblocking(&master)?;
    let copy = |is: bool| is.then(|| master.try_clone().map_err(failed)).transpose();
    let (stdin, stdout) = (copy(streams.stdin)?, copy(streams.stdout)?);
    if !streams.stdout {
        discard(master.try_clone().map_err(failed)?)?;
    }
    Ok(ProcessIo { stdin, stdout, stderr: None, resize: follow_sizes(master), exit: exit_of(command) })
}

fn exit_of(mut command: Command) -> BoxFuture<'static, Result<i32, String>> {
    Box::pin(async move { command.exited().await.map_err(|error| chain(&error)) })
}

/// Gives a terminal the sizes that its client's comes to have.
fn follow_sizes(master: OwnedFd) -> mpsc::Sender<TerminalSize> {
    let (resize, mut sizes) = mpsc::channel(SIZES);
    tokio::spawn(async move {
        while let Some(TerminalSize { columns, rows }) = sizes.recv().await {
            // The terminal is hung up: its command has ended.
            let _ = resize_terminal(&master, columns.into(), rows.into());
        }
    });
    resize
}

/// Reads a terminal whose output nobody wants, so that the command does not wait for it.
fn discard(master: OwnedFd) -> Result<(), Error> {
    let master = async_fd::register(master).map_err(failed)?;
    tokio::spawn(async move {
        let mut chunk = [0u8; 4096];
        while let Ok(mut ready) = master.readable().await {
            // Anything else is more to come, or nothing at the moment.
            if let Ok(Ok(0) | Err(_)) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut chunk)?)) {
                return;
            }
        }
    });
    Ok(())
}
