//! What a runtime handler says where a request leaves it open: the operator's part of a `Spec`.

use oci_spec::runtime::{Capabilities, PosixRlimit};

/// Of one handler; the default is Berth's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Before those of the request are added and dropped; `None`: the usual ones.
    pub capabilities: Option<Capabilities>,
    /// Of containers' processes.
    pub rlimits: Vec<PosixRlimit>,
    /// The file of the profile that RuntimeDefault means; `None`: our own.
    pub seccomp_profile: Option<String>,
    /// The loaded profile that RuntimeDefault, and saying nothing, means; `None`: our own.
    pub apparmor_profile: Option<String>,
    /// A privileged container gets the devices that it names, and not all of the host's.
    pub without_host_devices: bool,
}
