//! One image as the rest of the agent sees it: immutable, shared, complete.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

use super::manifest::Descriptor;
use crate::model::Digest;

/// An image in the store. Its identity is its configuration's digest (rules.md, 29); one content under several
/// names is one image with all of them (rule 30).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of the configuration.
    pub id: Digest,
    /// `registry/repository:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `registry/repository@sha256:…` of the manifest or index that was pulled, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes: the configuration and the compressed layers, as registries and other runtimes tell it.
    pub size: u64,
    /// User, entry point, environment and all else a container starts from.
    pub config: ImageConfiguration,
    /// Diff ids of the layers, the bottom one first.
    pub layers: Vec<Digest>,
    /// An OCI artifact: files for an image volume, nothing that can run. Its id is the manifest's digest, and its
    /// configuration is empty.
    pub artifact: bool,
    /// Matched by a pattern of `pinned`: never removed.
    pub pinned: bool,
    pub(crate) manifest: Descriptor,
}

/// What the image file system holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// Where the file system of the store is mounted.
    pub mountpoint: PathBuf,
    /// Bytes that the store's layers and documents take.
    pub used_bytes: u64,
    /// Inodes that they take.
    pub inodes: u64,
}

/// Bytes and inodes of one layer on disk, counted while it was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}
