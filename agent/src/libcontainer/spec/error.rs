//! Why a request cannot become a `Spec`.

use super::capability::UnknownCapability;
use super::user::UserError;
use crate::libcontainer::seccomp::ProfileError;

/// A request that cannot be granted. Everything but `RecursiveReadOnlyUnsupported` is the client's mistake.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// CRI rule: neither the request nor the image says what to run.
    #[error("command: neither the request nor the image names a program to run")]
    NoCommand,
    /// A container may not have more than its pod.
    #[error("linux.security_context.privileged: a privileged container needs a privileged pod sandbox")]
    PrivilegedContainer,
    /// The value of one field.
    #[error("{field}: {value:?} {reason}")]
    Invalid {
        /// As the CRI names it.
        field: &'static str,
        /// What was asked for.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// One of the requested mounts.
    #[error("mount {container_path:?}: {reason}")]
    Mount {
        /// Which one.
        container_path: String,
        /// Why not.
        reason: &'static str,
    },
    /// kubelet knows the prefix.
    #[error("RROUnsupported: mount {container_path:?}: recursive read-only mounts need Linux 5.12")]
    RecursiveReadOnlyUnsupported {
        /// Which one.
        container_path: String,
    },
    /// One of the requested devices.
    #[error("device {path:?}: {reason}")]
    Device {
        /// Which one, as requested.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// `capabilities`.
    #[error("linux.security_context.capabilities")]
    Capability(#[from] UnknownCapability),
    /// The user or a group.
    #[error(transparent)]
    User(#[from] UserError),
    /// The localhost seccomp profile.
    #[error("linux.security_context.seccomp: the profile {path:?} cannot be used")]
    Seccomp {
        /// Its file.
        path: String,
        /// Why not.
        #[source]
        source: ProfileError,
    },
}

/// Shorthand for `SpecError::Invalid`.
pub(super) fn invalid(field: &'static str, value: impl ToString, reason: &'static str) -> SpecError {
    SpecError::Invalid { field, value: value.to_string(), reason }
}
