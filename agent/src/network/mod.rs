//! The pod network: addresses, bridge and veth, masquerade, DNS files.
//!
//! `ops` calls it: [`PodNetwork`] for pods of their own network, [`loopback_up`] for those with none, [`dns`] for the
//! files of both. It acts on a pod only through a netlink socket made inside the pod's namespace; it never enters one.

/// The embedded network's settings.
mod config;
/// resolv.conf, hosts and hostname. Pure.
pub mod dns;
mod error;
mod host;
mod hostport;
mod isolation;
mod pod_network;
mod sandbox;
mod subnets;

pub use config::{NetworkConfig, SubnetV6};
pub use error::NetworkError;
pub use hostport::{HostPort, InvalidPort, PortProtocol};
pub use isolation::{InvalidTalksTo, Party, TALKS_TO};
pub use pod_network::PodNetwork;
pub use sandbox::{Attachment, POD_INTERFACE, POD_SYSCTLS, loopback_up};
pub use subnets::InvalidCidr;
