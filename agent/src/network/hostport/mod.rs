//! Host ports: what arrives at a port of the node goes on to a pod. A table of our own in nftables with a map for each way
//! to name a port; publishing a pod's ports is one message with its elements.
//!
//! This file: which ports are asked for. `published`: the records and their upkeep. What the kernel is told: `cni::hostports`.

mod published;

use std::net::IpAddr;

use cni::hostports;
use cni::nftables::Family;
use serde::{Deserialize, Serialize};

pub(in crate::network) use published::HostPorts;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PortProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// Its protocol.
    pub protocol: PortProtocol,
    /// Of which address of the node; none: of all of them, 127.0.0.1 included.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub pod_port: u16,
}

/// A port mapping that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port_mappings: {0}")]
pub struct InvalidPort(String);

impl HostPort {
    /// The CRI's mappings without those that ask for no host port (0).
    ///
    /// # Errors
    /// When a number is no port, `host_ip` no address, or the protocol unknown.
    pub fn of_mappings(mappings: &[cri_api::v1::PortMapping]) -> Result<Vec<Self>, InvalidPort> {
        let asked = mappings.iter().filter(|mapping| mapping.host_port != 0);
        asked.map(Self::of_mapping).collect()
    }

    fn of_mapping(mapping: &cri_api::v1::PortMapping) -> Result<Self, InvalidPort> {
        let port = |field: &str, value: i32| match u16::try_from(value) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(InvalidPort(format!("{field} {value} is not between 1 and 65535"))),
        };
        let protocol = match cri_api::v1::Protocol::try_from(mapping.protocol) {
            Ok(cri_api::v1::Protocol::Tcp) => PortProtocol::Tcp,
            Ok(cri_api::v1::Protocol::Udp) => PortProtocol::Udp,
            Ok(cri_api::v1::Protocol::Sctp) => PortProtocol::Sctp,
            Err(_) => return Err(InvalidPort(format!("protocol {} is unknown", mapping.protocol))),
        };
        let host_ip = match mapping.host_ip.trim() {
            "" => None,
            text => Some(text.parse().map_err(|_| InvalidPort(format!("host_ip {text:?} is no IP address")))?),
        };
        Ok(Self {
            protocol,
            host_ip,
            host_port: port("host_port", mapping.host_port)?,
            pod_port: port("container_port", mapping.container_port)?,
        })
    }

    /// As the kernel's table has it.
    fn port(&self) -> hostports::Port {
        let protocol = match self.protocol {
            PortProtocol::Tcp => hostports::Protocol::Tcp,
            PortProtocol::Udp => hostports::Protocol::Udp,
            PortProtocol::Sctp => hostports::Protocol::Sctp,
        };
        let (host_ip, host_port, pod_port) = (self.host_ip, self.host_port, self.pod_port);
        hostports::Port { protocol, host_ip, host_port, pod_port }
    }

    /// Whether this port is reached over an address family.
    fn covers(&self, family: Family) -> bool {
        self.port().covers(family)
    }

    fn collides(&self, other: &Self) -> bool {
        let same_address = || match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()),
            _ => true,
        };
        self.protocol == other.protocol && self.host_port == other.host_port && same_address()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16) -> HostPort {
        HostPort { protocol: PortProtocol::Tcp, host_ip: host_ip.parse().ok(), host_port, pod_port: 80 }
    }

    #[test]
    fn ports_collide_where_one_packet_could_mean_both() {
        let collide = |a: &str, b: &str| port(a, 8080).collides(&port(b, 8080));
        assert!(collide("", "") && collide("", "192.0.2.1") && collide("0.0.0.0", "192.0.2.1"));
        assert!(!collide("192.0.2.1", "192.0.2.2") && !collide("0.0.0.0", "::"));
        assert!(!port("", 8080).collides(&port("", 8081)));
        assert!(!port("", 8080).collides(&HostPort { protocol: PortProtocol::Udp, ..port("", 8080) }));
    }

    #[test]
    fn mappings_are_checked() {
        let mapping = |host_port, container_port, host_ip: &str, protocol| cri_api::v1::PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip: host_ip.into(),
        };
        let parse = |mapping| HostPort::of_mappings(&[mapping]);
        assert_eq!(parse(mapping(0, 80, "", 0)).unwrap(), []);
        assert_eq!(parse(mapping(8080, 80, "192.0.2.1", 0)).unwrap(), [port("192.0.2.1", 8080)]);
        for bad in [
            mapping(70000, 80, "", 0),
            mapping(-1, 80, "", 0),
            mapping(80, 0, "", 0),
            mapping(80, 80, "x", 0),
            mapping(80, 80, "", 9),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
