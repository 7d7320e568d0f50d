//! Images: from a reference to folders of layers that containers are mounted from. The face of it is [`ImageStore`];
//! the verbs and the CRI face use nothing else. It knows the model and no other part of the agent.

/// Files in a registry that are no image.
mod artifact;
/// A container's writable layer to an image.
mod commit;
/// What the store can be told.
mod config;
/// One layer: downloaded, unpacked, published.
mod download;
/// What can go wrong, and of which kind.
mod error;
/// Images on their way out.
mod export;
/// What has to hold for any input.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
/// An image as the agent sees it.
#[allow(clippy::module_inception)]
mod image;
/// Archives and OCI layouts from the node's own disk.
mod import;
/// Operations that several callers share.
mod joins;
/// Layers: archives, compression, whiteouts.
mod layer;
/// The store on disk and in memory.
mod layout;
/// Manifests, indexes and configurations.
mod manifest;
/// Which image of an index the host runs.
mod platform;
/// How far a pull is.
mod progress;
/// A pull from its reference to the index.
mod pull;
/// Image references.
mod reference;
/// The registry client.
mod registry;
/// Which images may be used.
mod signature;
/// The store as the rest of the agent uses it.
mod store;

/// Tar as layers have it, for other archives with a layer in them.
pub(crate) mod archive {
    pub(crate) use super::layer::{Archive, ArchiveError, EntryKind, Kind, NewEntry, TarWriter, pack};
}

pub use commit::Commit;
pub use config::ImageConfig;
pub use error::{ErrorKind, ImageError};
pub use image::{FsUsage, Image};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use layer::fuzz as fuzz_layer;
pub use progress::{LayerSize, Progress, ProgressSender};
pub use pull::PullRequest;
pub use reference::Reference;
pub use registry::Auth;
pub use store::{ImageStore, Pushed};
