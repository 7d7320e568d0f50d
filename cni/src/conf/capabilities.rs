//! Arguments that a runtime gives to those plugins that say they take them (conventions of the CNI project). Go does not tell
//! upper case from lower case in a field's name, and containerd writes the names as Go has them: both are read.

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
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// The container's port.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, in either case.
    #[serde(alias = "Protocol", default = "tcp")]
    pub protocol: String,
    /// Of which address of the node; empty: of all.
    #[serde(rename = "hostIP", alias = "HostIP", default, skip_serializing_if = "String::is_empty")]
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
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// How much may come at once.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// Of what it sends.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// How much it may send at once.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

/// A part of a subnet to lease addresses from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpRange {
    /// The subnet.
    #[serde(alias = "Subnet")]
    pub subnet: IpNet,
    /// The first address; by default the first host.
    #[serde(alias = "RangeStart", default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<IpAddr>,
    /// The last address; by default the last host.
    #[serde(alias = "RangeEnd", default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<IpAddr>,
    /// By default the first host.
    #[serde(alias = "Gateway", default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Name servers given at run time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsCapability {
    /// Their addresses.
    #[serde(alias = "Servers")]
    pub servers: Vec<String>,
    /// Where short names are looked for.
    #[serde(alias = "Searches")]
    pub searches: Vec<String>,
    /// resolv.conf(5).
    #[serde(alias = "Options", skip_serializing_if = "Vec::is_empty")]
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

    /// What containerd 1.6 and 1.7 pass on.
    #[test]
    fn the_names_that_containerd_writes_are_read() {
        let text = r#"{
            "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
            "bandwidth": {"IngressRate": 1, "IngressBurst": 2, "EgressRate": 3, "EgressBurst": 4},
            "ipRanges": [[{"Subnet": "10.0.0.0/24", "RangeStart": "10.0.0.2", "RangeEnd": "10.0.0.9", "Gateway": "10.0.0.1"}]],
            "dns": {"Servers": ["1.1.1.1"], "Searches": ["a"], "Options": ["b"]}}"#;
        let read: Capabilities = serde_json::from_str(text).unwrap();
        assert_eq!((read.port_mappings[0].host_port, read.port_mappings[0].container_port), (8080, 80));
        assert_eq!(read.bandwidth.map(|it| it.egress_burst), Some(4));
        assert!(read.ip_ranges[0][0].range_end.is_some() && read.dns.is_some_and(|dns| dns.options == ["b"]));
    }
}
