//! Exec and attach: a client's streams joined to a process, the same over either protocol.

use std::time::Duration;

use futures_util::future::join;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::client::{Sink, Source};
use super::descriptor::Descriptor;
use super::resize::Sizes;
use super::status::Outcome;
use super::{ProcessIo, StartProcess, TerminalSize};

/// How long, in all, output is waited for after the end: what is in a pipe is read at once, and a grandchild that holds
/// it open is not waited for, as with ExecSync.
const AFTER_EXIT: Duration = Duration::from_millis(50);
/// The same for attach, where the output takes a way of its own to the client: it ends by itself, mostly.
const AFTER_END: Duration = Duration::from_secs(1);
/// How much is read after the end, in bytes: as much as a pipe may hold (pipe-max-size, pipe(7)). A grandchild that
/// goes on writing has no end.
const REST: usize = 1 << 20;

/// Which verb, and so what its end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Exec,
    Attach,
}

/// What the client has opened.
pub(super) struct Streams<R, W> {
    pub(super) stdin: Option<R>,
    pub(super) stdout: Option<W>,
    pub(super) stderr: Option<W>,
    pub(super) resize: Option<R>,
}

/// Starts the process and serves it to its end. Dropping the future is the client's departure: every descriptor and
/// what `start` gave are dropped with it.
pub(super) async fn run<R: Source, W: Sink>(verb: Verb, start: StartProcess, streams: Streams<R, W>) -> Outcome {
    let io = match start().await {
        Ok(io) => io,
        Err(why) => return failed(verb, &why),
    };
    match join_streams(verb, io, streams).await {
        Ok(code) if verb == Verb::Exec => Outcome::Exit(code),
        Ok(_) => Outcome::Ended,
        Err(why) => failed(verb, &why),
    }
}

fn failed(verb: Verb, why: &str) -> Outcome {
    let doing = match verb {
        Verb::Exec => "executing command in container",
        Verb::Attach => "attaching to container",
    };
    Outcome::Failed(format!("error {doing}: {why}"))
}

async fn join_streams<R: Source, W: Sink>(verb: Verb, io: ProcessIo, streams: Streams<R, W>) -> Result<i32, String> {
    let registered = |fd: Option<_>| fd.map(Descriptor::new).transpose().map_err(|error| format!("its stdio: {error}"));
    let (stdin, stdout, stderr) = (registered(io.stdin)?, registered(io.stdout)?, registered(io.stderr)?);
    let (told, ended) = watch::channel(false);
    let grace = match verb {
        Verb::Exec => AFTER_EXIT,
        Verb::Attach => AFTER_END,
    };
    let exit = async {
        let exit = io.exit.await;
        let _ = told.send(true);
        exit
    };
    let output = join(
        copy_out(stdout, streams.stdout, End { ended: ended.clone(), grace, rest: REST }),
        copy_out(stderr, streams.stderr, End { ended, grace, rest: REST }),
    );
    let input = async {
        join(copy_in(streams.stdin, stdin), resize(streams.resize, io.resize)).await;
        // A client that has said all it has to say is still there.
        std::future::pending().await
    };
    tokio::select! {
        (exit, _) = join(exit, output) => exit,
        never = input => never,
    }
}

/// The client's bytes to the process; their end closes its stdin.
async fn copy_in<R: Source>(source: Option<R>, process: Option<Descriptor>) {
    // What the client may not send, or nobody reads, does not stay in the way of the rest.
    let (Some(mut source), mut process) = (source, process) else { return };
    while let Some(bytes) = source.next().await {
        if let Some(stdin) = &process
            && stdin.write_all(&bytes).await.is_err()
        {
            // It closed its stdin, which is its right.
            process = None;
        }
    }
}

/// The process's output to the client, to its end.
async fn copy_out<W: Sink>(process: Option<Descriptor>, sink: Option<W>, mut end: End) {
    let mut sink = sink;
    if let Some(process) = process {
        while let Some(bytes) = end.read(&process).await {
            if let Some(client) = &mut sink
                && client.send(bytes).await.is_err()
            {
                // It takes no more of this stream; the process must not stop for that.
                sink = None;
            }
        }
    }
    if let Some(mut client) = sink {
        client.finish().await;
    }
}

/// When a process's output has ended: at its end, or soon after the process itself.
struct End {
    ended: watch::Receiver<bool>,
    /// What is left of the time that is spent waiting for output after the process's end.
    grace: Duration,
    /// What is left of the bytes that are read after it.
    rest: usize,
}

impl End {
    async fn read(&mut self, process: &Descriptor) -> Option<bytes::Bytes> {
        if !*self.ended.borrow() {
            tokio::select! {
                biased;
                read = process.read() => return read.ok().flatten(),
                _ = self.ended.wait_for(|ended| *ended) => {}
            }
        }
        // How long a slow client takes is not counted.
        let began = Instant::now();
        let read = tokio::time::timeout(self.grace, process.read()).await.ok()?.ok()??;
        self.grace = self.grace.saturating_sub(began.elapsed());
        self.rest = self.rest.checked_sub(read.len())?;
        Some(read)
    }
}

async fn resize<R: Source>(source: Option<R>, process: mpsc::Sender<TerminalSize>) {
    let Some(mut source) = source else { return };
    let mut sizes = Sizes::default();
    while let Some(bytes) = source.next().await {
        for size in sizes.read(&bytes) {
            // The newest matters; a process that takes none must not hold its client up.
            let _ = process.try_send(size);
        }
    }
}
