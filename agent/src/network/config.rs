//! What the operator may choose about the embedded network.

use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

/// The IPv6 side of the pod network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubnetV6 {
    /// A unique local /64 (RFC 4193) derived from the machine's id: the same after every start.
    #[default]
    Ula,
    /// This one.
    Net(Ipv6Net),
    /// Pods have no IPv6 address.
    Off,
}

/// The embedded network's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The bridge, made when it is not there; at most 15 bytes.
    pub bridge: String,
    /// Pods' IPv4 addresses until kubelet names a pod CIDR; none: pods have no IPv4 address.
    pub subnet_v4: Option<Ipv4Net>,
    /// Pods' IPv6 addresses until kubelet names a pod CIDR.
    pub subnet_v6: SubnetV6,
    /// Bytes a packet may have; by default what the link of the default route takes.
    pub mtu: Option<u32>,
    /// Whether pods reach each other (inter-container communication, by Docker's name). If not, only those do that name each other
    /// ([`TALKS_TO`](super::TALKS_TO)), and what goes to a port of the node.
    pub icc: bool,
    /// On a tmpfs: the leases, one file an address. No pod survives a reboot, and so no lease should.
    pub run_dir: PathBuf,
    /// On a disk: the pod CIDR that kubelet named, which it does not repeat to an agent that restarts.
    pub state_dir: PathBuf,
}

impl NetworkConfig {
    /// The defaults: `berth0`, 10.88.0.0/16, a unique local /64.
    pub fn new(run_dir: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            bridge: "berth0".into(),
            subnet_v4: Ipv4Net::new([10, 88, 0, 0].into(), 16).ok(),
            subnet_v6: SubnetV6::Ula,
            mtu: None,
            icc: true,
            run_dir: run_dir.into(),
            state_dir: state_dir.into(),
        }
    }
}
