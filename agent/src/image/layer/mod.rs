//! Layers: from the bytes of a blob to a folder that overlayfs can use. Every byte is hostile until its digest is known,
//! and its archive still is afterwards. Runs in threads of its own, never on the runtime.

/// Archive entries to files, within one folder.
mod apply;
/// Reading tar.
mod archive;
/// Owner, times, xattrs and content of an entry.
mod attributes;
/// Blocks of bytes between threads, hashed as they pass.
mod blocks;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
/// The header block of an entry.
mod header;
/// A folder to an archive.
mod pack;
/// PAX extended headers and sparse maps.
mod pax;
/// Writing tar.
mod tar_writer;
/// The folder being filled: paths resolved without leaving it.
mod tree;
/// The two threads of a layer: decompress, and hash and apply.
mod unpack;
/// Paths that need more than one system call.
mod walk;

pub(crate) use apply::apply;
pub(crate) use archive::{Archive, ArchiveError, Kind};
pub(crate) use blocks::{FileBlocks, Source};
pub(crate) use pack::pack;
pub(crate) use tar_writer::{EntryKind, NewEntry, TarWriter};
pub(crate) use unpack::{Blob, Limits, Unpacked, unpack};
