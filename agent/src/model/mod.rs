//! The model: what a pod and a container are, and how their states move. Pure: no system call, no clock, no lock.

/// Errors in one line.
mod chain;
/// Containers and their states.
mod container;
/// Content digests.
mod digest;
/// Kinds of failure.
mod error_kind;
/// Identifiers of pods and containers.
mod ids;
/// Pods and their states.
mod pod;
/// What a new agent does about what an old one left: a table from facts to actions.
pub mod recovery;
/// Limits after changes.
pub mod resources;
/// Stop signals.
pub mod signal;

pub use chain::chain;
pub use container::{
    Container, ContainerEvent, ContainerKey, ContainerSpec, ContainerState, Exit, ExitReason, IllegalStep, ImageVolume,
    ProcessUser,
};
pub use digest::{Digest, InvalidDigest};
pub use error_kind::ErrorKind;
pub use ids::{ContainerId, InvalidId, PodId};
pub use pod::{Pod, PodKey, PodPhase, PodSpec, PodState, namespace_options};
pub use resources::{CgroupValue, Resources};
