//! Attach: a client joins a running container's own input and output, beside whoever else is there. The monitor keeps both,
//! so that this works as well after a restart of the agent.

use std::sync::Arc;

use cri_api::v1::AttachRequest;
use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use super::monitors::PodMonitor;
use super::streams::{SIZES, check, failed, output_pipe, set_nonblocking, wanted};
use super::{Engine, Error, chain, of_pod};
use crate::model::ContainerId;
use crate::monitor::client::{self, SessionEnd};
use crate::stream::{ProcessIo, ProcessStreams, Session, StartProcess, TerminalSize};

impl Engine {
    /// Where the client finds the container that it wants to join.
    ///
    /// # Errors
    /// When the container does not run, the request breaks the CRI's rules, or the pod's monitor is too old.
    pub fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<String, Error> {
        let AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        let container = self.running_container(&container_id)?;
        let streams = check(ProcessStreams { tty, stdin, stdout, stderr })?;
        let (pod, monitor) = self.monitor_of(&container)?;
        monitor.check_streams(&pod)?;
        let (engine, id) = (self.clone(), container.id.clone());
        let start: StartProcess = Box::new(move || {
            Box::pin(async move { engine.start_attach(&id, streams).await.map_err(|error| chain(&error)) })
        });
        self.open_session(Session::Attach { streams, start })
    }

    /// The client has come.
    async fn start_attach(&self, id: &ContainerId, streams: ProcessStreams) -> Result<ProcessIo, Error> {
        let container = self.running_container(id.as_str())?;
        let (pod, monitor) = self.monitor_of(&container)?;
        let (stdout, stdout_end) = wanted(streams.stdout, output_pipe)?;
        let (stderr, stderr_end) = wanted(streams.stderr, output_pipe)?;
        let (session, session_end) = output_pipe()?;
        let session = Receiver::from_owned_fd(session).map_err(failed)?;
        let request = client::AttachRequest {
            container: id.clone(),
            stdin: streams.stdin,
            stdout: stdout_end,
            stderr: stderr_end,
            session: session_end,
        };
        let stdin = monitor.client.attach(request).await.map_err(of_pod(&pod))?;
        stdin.iter().try_for_each(set_nonblocking)?;
        let resize = follow_sizes(monitor, id.clone());
        Ok(ProcessIo { stdin, stdout, stderr, resize, exit: end_of(session, id.clone()) })
    }
}

/// The end of an attached session. Dropping it detaches.
fn end_of(mut session: Receiver, id: ContainerId) -> BoxFuture<'static, Result<i32, String>> {
    Box::pin(async move {
        let mut end = [0];
        let told = session.read(&mut end).await;
        match told {
            // How it ended is told by its status, as everywhere: a client may have joined after the program's last words.
            Ok(1) if end == [SessionEnd::ContainerEnded as u8] => Ok(0),
            Ok(1) if end == [SessionEnd::FellBehind as u8] => Err(format!(
                "the client did not keep up with the output of container {id} and was detached; the log has all of it"
            )),
            _ => Err(format!("the monitor of container {id} ended before the client had read all of the output")),
        }
    })
}

/// Gives the container's terminal the sizes that its client's comes to have.
fn follow_sizes(monitor: Arc<PodMonitor>, id: ContainerId) -> mpsc::Sender<TerminalSize> {
    let (resize, mut sizes) = mpsc::channel(SIZES);
    tokio::spawn(async move {
        while let Some(TerminalSize { columns, rows }) = sizes.recv().await {
            // It has no terminal, or has ended: then there is nothing to have a size.
            let _ = monitor.client.resize(&id, columns.into(), rows.into()).await;
        }
    });
    resize
}
