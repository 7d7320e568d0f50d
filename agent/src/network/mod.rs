//! The pod network: the agent's own (addresses, bridge and veth, masquerade) or that of CNI plugins, and DNS files.
//!
//! `ops` calls it: [`PodNetworks`] for pods of their own network, [`loopback_up`] for those with none, [`dns`] for the
//! files of both. The agent's own acts on a pod only through a netlink socket made inside the pod's namespace; plugins enter
//! it, on threads or in processes that end with their call.

/// The embedded network's settings.
mod config;
/// resolv.conf, hosts and hostname. Pure.
pub mod dns;
mod error;
mod host;
mod hostport;
mod isolation;
/// The networks behind one door.
mod networks;
/// The network that CNI plugins make.
mod plugin_network;
mod pod_network;
mod sandbox;
mod subnets;

pub use config::{NetworkConfig, SubnetV6};
pub use error::NetworkError;
pub use hostport::{HostPort, InvalidPort, PortProtocol};
pub use isolation::{InvalidTalksTo, Party, TALKS_TO};
pub(crate) use networks::namespace_of;
pub use networks::{Attached, Mode, NetworksConfig, NewPod, PodNetworks};
pub use plugin_network::{InvalidRequest, PluginConfig};
pub use pod_network::PodNetwork;
pub use sandbox::{Attachment, POD_INTERFACE, loopback_up, pod_sysctls};
pub use subnets::InvalidCidr;
