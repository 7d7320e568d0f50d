//! The model: what a pod and a container are, and how their states move. Pure: no system call, no clock, no lock.

/// Content digests.
mod digest;
/// Identifiers of pods and containers.
mod ids;

pub use digest::{Digest, InvalidDigest};
pub use ids::{ContainerId, InvalidId, PodId};
