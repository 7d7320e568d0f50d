//! Why a pod has no network.

use std::io;
use std::path::PathBuf;

use cni::client::{ClientError, RecordError};
use cni::firewall::FirewallError;
use cni::ipam::{InvalidRange, StoreError};
use cni::netlink::NetlinkError;
use cni::sysctl::SysctlError;
use cni::types::{Code, NetworkName};

use super::plugin_network::InvalidRequest;
use super::subnets::InvalidCidr;
use crate::model::{ErrorKind, PodId};

/// A failure of the pod network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The kernel refused a link, an address or a route.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No address could be leased or returned.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The masquerade rules could not be set.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The host's sysctls could not be set.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The pod CIDR that kubelet named is none.
    #[error(transparent)]
    InvalidCidr(#[from] InvalidCidr),
    /// A configured subnet has no room for pods.
    #[error(transparent)]
    InvalidRange(#[from] InvalidRange),
    /// A file could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The remembered state is not readable.
    #[error("{} is damaged; remove it to start afresh", path.display())]
    DamagedState {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        source: serde_json::Error,
    },
    /// The configured bridge name belongs to something else, or cannot be a link's name.
    #[error("network.bridge: {name:?} {reason}")]
    Bridge {
        /// The configured name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another link of the host has addresses out of the pod subnet.
    #[error("pod subnet {subnet} overlaps {other} of {link}: choose another in network.ipv4 or network.ipv6")]
    Overlap {
        /// Ours.
        subnet: ipnet::IpNet,
        /// Theirs.
        other: ipnet::IpNet,
        /// Whose.
        link: String,
    },
    /// The bridge is not there, so no pod can be connected to it.
    #[error("the pod network is not ready: {0}")]
    NotReady(String),
    /// The node's port leads to another pod, or twice to this one.
    #[error("host port {port} is in use by pod {pod}")]
    PortInUse {
        /// The port.
        port: u16,
        /// Whose it is.
        pod: String,
    },
    /// The host's address is of a family that the pod has no address of.
    #[error("host port {port}: the pod has no address of the family of host_ip")]
    PortUnreachable {
        /// The port.
        port: u16,
    },
    /// Every name derived from the pod's id belongs to another link.
    #[error("no free interface name for pod {0}")]
    NoInterfaceName(PodId),
    /// Connecting the pod failed, and so did undoing the half of it.
    #[error("{error}; and then taking it back failed: {undo}")]
    RollbackFailed {
        /// The first failure.
        #[source]
        error: Box<NetworkError>,
        /// The failure of the undo.
        undo: Box<NetworkError>,
    },
    /// A plugin of the pod's network has failed, or its record cannot be used.
    #[error("CNI network {network}")]
    Plugins {
        /// The network.
        network: String,
        /// Which plugin, and what it says.
        source: Box<ClientError>,
    },
    /// The records of CNI networks cannot be read.
    #[error(transparent)]
    Records(RecordError),
    /// The pod cannot be described to plugins.
    #[error(transparent)]
    InvalidRequest(#[from] InvalidRequest),
    /// The plugins were content, and the pod has no address.
    #[error("CNI network {network}: its plugins gave the pod no address on eth0")]
    NoAddress {
        /// The network.
        network: String,
    },
    /// The blocking task was cancelled or panicked.
    #[error("network task")]
    Task(#[from] tokio::task::JoinError),
}

impl NetworkError {
    /// The kind that a client can react to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidCidr(_) | Self::PortUnreachable { .. } | Self::InvalidRequest(_) => ErrorKind::InvalidArgument,
            Self::Plugins { source, .. } if source.code() == Some(Code::TRY_AGAIN) => ErrorKind::Unavailable,
            Self::PortInUse { .. } => ErrorKind::FailedPrecondition,
            Self::NotReady(_) => ErrorKind::Unavailable,
            Self::Store(StoreError::Exhausted { .. }) => ErrorKind::ResourceExhausted,
            Self::RollbackFailed { error, .. } => error.kind(),
            _ => ErrorKind::Internal,
        }
    }

    /// A failure of a network's plugins.
    pub(super) fn plugins(network: &NetworkName) -> impl FnOnce(ClientError) -> Self + use<> {
        let network = network.to_string();
        move |source| Self::Plugins { network, source: Box::new(source) }
    }

    /// A failed file operation.
    pub(super) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}
