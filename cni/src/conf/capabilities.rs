//! Arguments that a runtime gives to those plugins that say they take them (conventions of the CNI project).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The well-known capability arguments; what is empty is not passed on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Ports of the node that lead to the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Limits on its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Sets of ranges, from each of which it gets an address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Its name servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsCapability>,
    /// Its Ethernet address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its addresses, with or without a prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Its InfiniBand GUID.
    #[serde(rename = "infinibandGUID", default, skip_serializing_if = "Option::is_none")]
    pub infiniband_guid: Option<String>,
    /// The device that it gets.
    #[serde(rename = "deviceID", default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Names that others may find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    /// Anything else, by its key.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Capabilities {
    /// As they are passed on, by their keys.
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}

/// A port of the node that leads to the container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port; 0: none.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, in either case.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Of which address of the node; empty: of all.
    #[serde(rename = "hostIP", default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".into()
}

/// Limits on a container's traffic: rates in bits per second, bursts in bits; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Of what reaches the container.
    pub ingress_rate: u64,
    /// How much may come at once.
    pub ingress_burst: u64,
    /// Of what it sends.
    pub egress_rate: u64,
    /// How much it may send at once.
    pub egress_burst: u64,
}

/// A part of a subnet to lease addresses from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    /// The subnet.
    pub subnet: IpNet,
    /// The first address; by default the first host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last address; by default the last host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// By default the first host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Name servers given at run time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsCapability {
    /// Their addresses.
    pub servers: Vec<String>,
    /// Where short names are looked for.
    pub searches: Vec<String>,
    /// resolv.conf(5).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_conventions() {
        let capabilities = Capabilities {
            bandwidth: Some(Bandwidth { ingress_rate: 1, ..Bandwidth::default() }),
            infiniband_guid: Some("c2:11".into()),
            device_id: Some("0000:04".into()),
            cgroup_path: Some("/a".into()),
            other: [("mine".to_owned(), Value::Bool(true))].into_iter().collect(),
            ..Capabilities::default()
        };
        let map = capabilities.to_map();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["bandwidth", "cgroupPath", "deviceID", "infinibandGUID", "mine"]);
        assert_eq!(map["bandwidth"]["ingressRate"], 1);
        assert_eq!(serde_json::from_value::<Capabilities>(Value::Object(map)).unwrap(), capabilities);
        assert!(Capabilities::default().to_map().is_empty());
    }
}
