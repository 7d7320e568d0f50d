//! Layers: from the bytes of a blob to a folder that overlayfs can use. Every byte is hostile until its digest is known,
//! and its archive still is afterwards. Runs in threads of its own, never on the runtime.

/// Archive entries to files, within one folder.
mod apply;
/// Reading tar.
mod archive;
/// Blocks of bytes between threads, hashed as they pass.
mod blocks;
/// PAX extended headers and sparse maps.
mod pax;
/// The folder being filled: paths resolved without leaving it.
mod tree;
/// The two threads of a layer: decompress, and hash and apply.
mod unpack;

pub(crate) use archive::{Archive, ArchiveError, Kind};
pub(crate) use blocks::{FileBlocks, Source};
pub(crate) use unpack::{Blob, Limits, Unpacked, unpack};
