//! The two threads of a layer. One takes the blob's bytes as they come, hashes and decompresses them; the other hashes
//! what comes out and applies it. Both digests are checked before the folder counts.

use std::fs;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use super::apply::apply;
use super::archive::Archive;
use super::blocks::{BLOCK, BlockReader, Source};
use crate::image::error::ImageError;
use crate::image::image::Usage;
use crate::model::Digest;

/// Decompressed blocks between the two threads.
const DEPTH: usize = 4;
/// zstd's own default: a frame that wants a larger window (more than 128 MiB of memory) is refused.
const LARGEST_WINDOW_LOG: u32 = 27;

/// The most that a layer may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of file content.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl Limits {
    /// Of the archive: the content, and for each entry its header, an extended one and their padding. More is a bomb
    /// that makes no file.
    fn archive(&self) -> u64 {
        self.bytes.saturating_add(self.entries.saturating_mul(2048)).saturating_add(1 << 20)
    }
}

/// The compressed blob that a layer comes from, as its manifest describes it.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What unpacking found out.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) usage: Usage,
    /// Folders without an entry of their own: their owner and mode are those of the layers below.
    pub(crate) implied: Vec<PathBuf>,
}

/// Unpacks a layer into the new folder `target`, which is whole and verified afterwards, or gone. Blocks: call it in a
/// thread of its own. `blob` is absent where nothing describes the compressed form (docker archives).
pub(crate) fn unpack<S>(
    source: S,
    blob: Option<Blob>,
    diff_id: &Digest,
    target: &Path,
    limits: &Limits,
) -> Result<Unpacked, ImageError>
where
    S: Source + Send,
    S::Block: Send,
{
    fs::create_dir(target).map_err(|e| ImageError::io("create", target, e))?;
    let unpacked = open_up(target).and_then(|()| run(source, blob, diff_id, target, limits));
    if unpacked.is_err() {
        let _ = fs::remove_dir_all(target);
    }
    unpacked
}

/// The root of a layer without an entry for it: 0755, whatever the umask.
fn open_up(target: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755)).map_err(|e| ImageError::io("chmod", target, e))
}

fn run<S>(
    source: S,
    blob: Option<Blob>,
    diff_id: &Digest,
    target: &Path,
    limits: &Limits,
) -> Result<Unpacked, ImageError>
where
    S: Source + Send,
    S::Block: Send,
{
    let (blocks, incoming) = mpsc::sync_channel(DEPTH);
    let (spare, spares) = mpsc::channel();
    thread::scope(|scope| {
        let inflate = thread::Builder::new()
            .name("layer-inflate".to_owned())
            .spawn_scoped(scope, move || inflate(source, blob, diff_id, limits, &blocks, &spares))
            .map_err(|e| ImageError::io("start a thread for", target, e))?;
        let applied = verify_and_apply(Incoming { blocks: incoming, spare, ended: false }, diff_id, target, limits);
        // Its receiver is gone by now, so the other thread cannot wait for us.
        let inflated = inflate.join().unwrap_or_else(|_| {
            Err(ImageError::CorruptLayer { layer: diff_id.to_string(), reason: "decompression panicked".to_owned() })
        });
        inflated.and(applied)
    })
}

fn verify_and_apply(
    incoming: Incoming,
    diff_id: &Digest,
    target: &Path,
    limits: &Limits,
) -> Result<Unpacked, ImageError> {
    let mut archive = Archive::new(BlockReader::new(incoming));
    let unpacked = apply(&mut archive, target, diff_id.as_str(), limits)?;
    let corrupt = |e: io::Error| ImageError::CorruptLayer { layer: diff_id.to_string(), reason: e.to_string() };
    let (actual, _) = archive.into_inner().finish().map_err(corrupt)?;
    if actual != *diff_id {
        return Err(ImageError::WrongDigest {
            what: "layer's uncompressed content".to_owned(),
            expected: diff_id.clone(),
            actual,
        });
    }
    Ok(unpacked)
}

/// What the first thread sends: blocks, and at the very end the word that there are no more.
enum Message {
    Block(Vec<u8>),
    End,
}

struct Incoming {
    blocks: mpsc::Receiver<Message>,
    spare: mpsc::Sender<Vec<u8>>,
    ended: bool,
}

impl Source for Incoming {
    type Block = Vec<u8>;

    fn next(&mut self, used: Option<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
        if let Some(used) = used {
            let _ = self.spare.send(used);
        }
        if self.ended {
            return Ok(None);
        }
        match self.blocks.recv() {
            Ok(Message::Block(block)) => Ok(Some(block)),
            Ok(Message::End) => {
                self.ended = true;
                Ok(None)
            }
            Err(mpsc::RecvError) => Err(io::Error::other("it ends before its end")),
        }
    }
}

fn inflate<S: Source>(
    source: S,
    blob: Option<Blob>,
    diff_id: &Digest,
    limits: &Limits,
    blocks: &mpsc::SyncSender<Message>,
    spares: &mpsc::Receiver<Vec<u8>>,
) -> Result<(), ImageError> {
    let corrupt = |e: io::Error| match e.downcast::<ImageError>() {
        Ok(told) => told,
        Err(e) => ImageError::CorruptLayer { layer: diff_id.to_string(), reason: e.to_string() },
    };
    let mut decoder = Decoder::new(BlockReader::new(source)).map_err(corrupt)?;
    let mut total = 0;
    loop {
        let mut block = spares.try_recv().unwrap_or_default();
        block.resize(BLOCK, 0);
        let filled = fill(&mut decoder, &mut block).map_err(corrupt)?;
        if filled == 0 {
            break;
        }
        block.truncate(filled);
        total += filled as u64;
        if total > limits.archive() {
            let what = format!("layer {diff_id}: decompressed size");
            return Err(ImageError::TooLarge { what, actual: total, limit: limits.archive() });
        }
        if blocks.send(Message::Block(block)).is_err() {
            // The other side has failed and tells why.
            return Ok(());
        }
    }
    let (actual, length) = decoder.into_inner().finish().map_err(corrupt)?;
    if let Some(blob) = blob {
        if actual != blob.digest {
            return Err(ImageError::WrongDigest { what: "layer blob".to_owned(), expected: blob.digest, actual });
        }
        if length != blob.size {
            let reason = format!("{length} bytes came, its manifest says {}", blob.size);
            return Err(ImageError::CorruptLayer { layer: diff_id.to_string(), reason });
        }
    }
    let _ = blocks.send(Message::End);
    Ok(())
}

fn fill(reader: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Decompression by the stream's first bytes: media types are known to lie.
enum Decoder<S: Source> {
    Plain(BlockReader<S>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BlockReader<S>>>),
    Zstd(Box<zstd::Decoder<'static, BlockReader<S>>>),
}

impl<S: Source> Decoder<S> {
    fn new(mut reader: BlockReader<S>) -> io::Result<Self> {
        const GZIP: &[u8] = &[0x1f, 0x8b];
        const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
        let start = reader.fill_buf()?;
        if start.starts_with(GZIP) {
            return Ok(Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader))));
        }
        // A skippable frame may come first (RFC 8878 § 3.1.2).
        let skippable = start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
        if start.starts_with(ZSTD) || skippable {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(LARGEST_WINDOW_LOG)?;
            return Ok(Self::Zstd(Box::new(decoder)));
        }
        Ok(Self::Plain(reader))
    }

    fn into_inner(self) -> BlockReader<S> {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<S: Source> Read for Decoder<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(out),
            Self::Gzip(decoder) => decoder.read(out),
            Self::Zstd(decoder) => decoder.read(out),
        }
    }
}
