//! Checkpoints: the archive that a container's processes and files go into and come back from, and criu, which takes and
//! remakes the processes. Knows no pod and no engine: the verbs in `ops` put the parts together. Blocks.

/// The archive: written whole or not at all, read as something hostile.
mod archive;
/// criu's command line.
mod criu;
/// The archive's documents.
mod documents;
/// What can go wrong.
mod error;
/// Which mounts criu is not to look into.
mod mounts;
/// Reading an archive.
mod read;

pub use archive::{ARCHIVE_MODE, IMAGES, Staging, write};
pub use criu::{Criu, Dump, Namespaces, Restore, restore_errors};
pub use documents::{Config, POD_OPTIONS, PodOptions, Spec, read_stdio, stdio_of};
pub use error::CheckpointError;
pub use mounts::external;
pub use read::Reader;
