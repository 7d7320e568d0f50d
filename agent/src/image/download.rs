//! One layer's way: download on the runtime, decompress and apply in threads, published under its diff id.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::error::ImageError;
use super::joins::Operation;
use super::layer::{Blob, Limits, Source, unpack};
use super::layout::Layout;
use super::manifest::Descriptor;
use super::progress::{Listeners, Progress};
use super::registry::{Repository, Sink, SinkClosed};
use super::store::ImageStore;
use crate::fault;
use crate::model::Digest;

/// Bytes that go to the other thread at once (floors.md, trap 7: a wake-up across processors costs 50 µs).
const BATCH: usize = 256 << 10;
/// Batches between network and decompression.
const DEPTH: usize = 4;

enum Message {
    Batch(Vec<Bytes>),
    End,
}

/// Downloads, unpacks, verifies and publishes the layer, unless it is there already.
pub(super) async fn run(
    store: Arc<ImageStore>,
    repository: Arc<Repository>,
    descriptor: Descriptor,
    diff_id: Digest,
    operation: Operation,
) -> Result<(), ImageError> {
    let cancel = operation.cancel.clone();
    let slot = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(ImageError::Cancelled),
        slot = store.slots().acquire() => slot,
    };
    let _slot = slot.map_err(|_| ImageError::Cancelled)?;
    let (sender, receiver) = mpsc::channel(DEPTH);
    let blob = Blob { digest: descriptor.digest.clone(), size: descriptor.size };
    let unpacking = spawn_unpack(store.layout().clone(), receiver, blob, diff_id, store.limits())?;
    let mut batches = Batches::new(sender, descriptor.digest.clone(), operation.listeners.clone());
    let downloaded = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(ImageError::Cancelled),
        downloaded = download(&repository, &descriptor, &mut batches) => downloaded,
    };
    // Without its end the stream is known to be broken off, and the threads clean up after themselves.
    drop(batches);
    let unpacked = unpacking.await.unwrap_or(Err(ImageError::Cancelled));
    downloaded.and(unpacked)?;
    operation.listeners.tell(&Progress::Unpacked { layer: descriptor.digest });
    Ok(())
}

async fn download(repository: &Repository, descriptor: &Descriptor, batches: &mut Batches) -> Result<(), ImageError> {
    repository.blob(descriptor, batches).await?;
    fault::point("pull_image.layer_downloaded");
    // A closed channel means that unpacking has failed; it tells why.
    if batches.flush().await.is_ok() {
        let _ = batches.sender.send(Message::End).await;
    }
    Ok(())
}

/// In threads outside the runtime's pool: a pull that waits for a slow disk keeps no verb waiting.
fn spawn_unpack(
    layout: Arc<Layout>,
    receiver: mpsc::Receiver<Message>,
    blob: Blob,
    diff_id: Digest,
    limits: Limits,
) -> Result<oneshot::Receiver<Result<(), ImageError>>, ImageError> {
    let (done, outcome) = oneshot::channel();
    let root = layout.root().to_owned();
    let work = move || {
        let temp = layout.temp_path();
        let source = Blocks { receiver, batch: VecDeque::new() };
        let unpacked = unpack(source, Some(blob), &diff_id, &temp, &limits);
        let published = unpacked.and_then(|found| layout.publish_layer(&diff_id, &temp, found));
        let _ = done.send(published);
    };
    let spawned = std::thread::Builder::new().name("layer-apply".to_owned()).spawn(work);
    spawned.map_err(|e| ImageError::io("start a thread for", &root, e))?;
    Ok(outcome)
}

/// The runtime's end of the channel.
struct Batches {
    sender: mpsc::Sender<Message>,
    batch: Vec<Bytes>,
    length: usize,
    received: u64,
    layer: Digest,
    listeners: Arc<Listeners>,
}

impl Batches {
    fn new(sender: mpsc::Sender<Message>, layer: Digest, listeners: Arc<Listeners>) -> Self {
        Self { sender, batch: Vec::new(), length: 0, received: 0, layer, listeners }
    }

    async fn flush(&mut self) -> Result<(), SinkClosed> {
        let batch = std::mem::take(&mut self.batch);
        self.length = 0;
        if batch.is_empty() {
            return Ok(());
        }
        self.listeners.tell(&Progress::Received { layer: self.layer.clone(), bytes: self.received });
        self.sender.send(Message::Batch(batch)).await.map_err(|_| SinkClosed)
    }
}

impl Sink for Batches {
    async fn write(&mut self, chunk: Bytes) -> Result<(), SinkClosed> {
        self.length += chunk.len();
        self.received += chunk.len() as u64;
        self.batch.push(chunk);
        if self.length >= BATCH { self.flush().await } else { Ok(()) }
    }
}

/// The threads' end.
struct Blocks {
    receiver: mpsc::Receiver<Message>,
    batch: VecDeque<Bytes>,
}

impl Source for Blocks {
    type Block = Bytes;

    fn next(&mut self, _used: Option<Bytes>) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(block) = self.batch.pop_front() {
                return Ok(Some(block));
            }
            match self.receiver.blocking_recv() {
                Some(Message::Batch(batch)) => self.batch = batch.into(),
                Some(Message::End) => return Ok(None),
                None => return Err(io::Error::other(ImageError::Cancelled)),
            }
        }
    }
}
