//! What can go wrong with an image, with the kind that decides the gRPC code.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::Digest;

/// The class of an [`ImageError`]: what the caller can do about it. The CRI face maps each to one gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is wrong (InvalidArgument).
    InvalidArgument,
    /// No such image in the registry, or in the store where one is required (NotFound).
    NotFound,
    /// The registry wants credentials, or refused those given (Unauthenticated).
    Unauthenticated,
    /// The credentials are known and do not suffice, or the node's policy forbids the image (PermissionDenied).
    PermissionDenied,
    /// The registry cannot be reached or is ill; trying again later may help (Unavailable).
    Unavailable,
    /// What the registry sent is broken or hostile (DataLoss).
    Corrupt,
    /// Well formed, and nothing this agent can run (FailedPrecondition).
    Unsupported,
    /// The state forbids it, for example a pinned image (FailedPrecondition).
    FailedPrecondition,
    /// A limit or the disk is full (ResourceExhausted).
    Exhausted,
    /// The caller went away (Cancelled).
    Cancelled,
    /// The machine failed us (Internal).
    Internal,
}

/// An image operation that failed. Every message names what was being worked on.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A reference that does not parse.
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference {
        /// As given, shortened.
        reference: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Another argument that makes no sense.
    #[error("invalid {field}: {reason}")]
    InvalidArgument {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no such manifest or blob.
    #[error("{what} not found at {registry}: {detail}")]
    NotFound {
        /// The reference or blob.
        what: String,
        /// Host asked.
        registry: String,
        /// The registry's own words.
        detail: String,
    },
    /// 401: no credentials, or wrong ones.
    #[error("{registry} refused to authenticate for {what}: {detail}")]
    Unauthenticated {
        /// The reference or blob.
        what: String,
        /// Host asked.
        registry: String,
        /// The registry's own words.
        detail: String,
    },
    /// 403.
    #[error("{registry} denies access to {what}: {detail}")]
    PermissionDenied {
        /// The reference or blob.
        what: String,
        /// Host asked.
        registry: String,
        /// The registry's own words.
        detail: String,
    },
    /// No connection, a broken one, or 5xx/429, after all retries. kubelet knows the prefix (rules.md, 5).
    #[error("RegistryUnavailable: {registry}: {what}: {detail}")]
    RegistryUnavailable {
        /// The reference or blob.
        what: String,
        /// Host asked.
        registry: String,
        /// What happened, with its causes.
        detail: String,
    },
    /// The registry is connected and sends too little.
    #[error("RegistryUnavailable: {registry}: {what}: stalled: {received} bytes in {period:?}")]
    Stalled {
        /// The blob.
        what: String,
        /// Host asked.
        registry: String,
        /// Bytes that came in the period.
        received: u64,
        /// The configured period.
        period: Duration,
    },
    /// An answer that is not what the distribution specification says.
    #[error("{registry}: {what}: {reason}")]
    BadAnswer {
        /// The reference or blob.
        what: String,
        /// Host asked.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// Content whose digest is not the one asked for.
    #[error("{what}: the content's digest is {actual}, not {expected}")]
    WrongDigest {
        /// Which content: the blob, or a layer's diff id.
        what: String,
        /// Asked for.
        expected: Digest,
        /// Of what came.
        actual: Digest,
    },
    /// A manifest, index or configuration that breaks its specification.
    #[error("{what}: {reason}")]
    InvalidContent {
        /// Which content.
        what: String,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// A valid thing that cannot be run here.
    #[error("{what}: {reason}")]
    Unsupported {
        /// Which content.
        what: String,
        /// Why not.
        reason: String,
    },
    /// Something is larger than the configured or built-in maximum.
    #[error("{what}: {actual} is more than the maximum of {limit}")]
    TooLarge {
        /// Which content.
        what: String,
        /// The size told or reached.
        actual: u64,
        /// The maximum.
        limit: u64,
    },
    /// A layer's archive that is broken or tries to leave the layer.
    #[error("layer {layer}: entry {entry:?}: {reason}")]
    BadEntry {
        /// Diff id.
        layer: String,
        /// The entry's name, shortened.
        entry: String,
        /// The rule it breaks.
        reason: String,
    },
    /// A layer's compressed stream or archive framing is broken.
    #[error("layer {layer}: corrupt: {reason}")]
    CorruptLayer {
        /// Diff id.
        layer: String,
        /// What is broken.
        reason: String,
    },
    /// The store's file system is full.
    #[error("no space left on the image file system while writing {}", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// ENOSPC or EDQUOT.
        #[source]
        source: io::Error,
    },
    /// Another failure of a file operation.
    #[error("{op} {}", path.display())]
    Io {
        /// The operation, as a verb.
        op: &'static str,
        /// Its subject.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The store's index cannot be used. Nothing is thrown away by itself.
    #[error(
        "the image index {} is unreadable ({reason}); restore it from a backup, or move {} away and start again: \
         the images are then pulled anew", path.display(), root.display()
    )]
    BrokenIndex {
        /// The index file.
        path: PathBuf,
        /// The store's folder.
        root: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of the registry configuration that cannot be used.
    #[error("{}: {reason}", path.display())]
    BadConfiguration {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The signature policy does not let the image in. kubelet knows the prefix (rules.md, 5).
    #[error("SignatureValidationFailed: {what}: {reason}")]
    Signature {
        /// The reference.
        what: String,
        /// Which rule, and what is wrong.
        reason: String,
    },
    /// A pinned image is never removed.
    #[error("image {0} is pinned by `image.pinned` of the agent's configuration, so it is never removed")]
    Pinned(String),
    /// Every caller that waited for the pull went away.
    #[error("pull cancelled: nobody waits for it any more")]
    Cancelled,
    /// The failure of the joined operation, told to each of its callers.
    #[error("{0}")]
    Joined(#[source] Arc<ImageError>),
}

impl ImageError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. } | Self::InvalidArgument { .. } => ErrorKind::InvalidArgument,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::PermissionDenied { .. } | Self::Signature { .. } => ErrorKind::PermissionDenied,
            Self::RegistryUnavailable { .. } | Self::Stalled { .. } => ErrorKind::Unavailable,
            Self::BadAnswer { .. }
            | Self::WrongDigest { .. }
            | Self::InvalidContent { .. }
            | Self::BadEntry { .. }
            | Self::CorruptLayer { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Pinned(_) => ErrorKind::FailedPrecondition,
            Self::TooLarge { .. } | Self::DiskFull { .. } => ErrorKind::Exhausted,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Io { .. } | Self::BrokenIndex { .. } | Self::BadConfiguration { .. } => ErrorKind::Internal,
            Self::Joined(inner) => inner.kind(),
        }
    }

    /// A failed file operation; a full disk becomes its own variant.
    pub(crate) fn io(op: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { op, path, source },
        }
    }
}

/// The start of a text from outside, short enough for a message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 256;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
