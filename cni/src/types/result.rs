//! What an ADD has done: interfaces, addresses, routes, name servers.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{UnknownVersion, Version, wire};

/// The result of an ADD, as the newest version has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddResult {
    /// What was made, in the host and in the sandbox.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<Route>,
    /// For the container's resolv.conf.
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Bytes a packet may have; since 1.1.0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// The path of the network namespace that it is in; empty for the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Of a user-space device; since 1.1.0.
    #[serde(rename = "socketPath", default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// Of a PCI device; since 1.1.0.
    #[serde(rename = "pciID", default, skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address with its prefix length, host bits kept.
    pub address: IpNet,
    /// Its subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

impl IpConfig {
    /// An address of no interface yet.
    pub fn new(address: IpNet, gateway: Option<IpAddr>) -> Self {
        Self { interface: None, address, gateway }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By whom; by default the gateway of an address of the same family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Bytes; since 1.1.0, as all that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The largest TCP segment, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// `RT_SCOPE_*`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A plain route.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Where short names are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// resolv.conf(5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A result that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidResult {
    /// Its version is none that we know.
    #[error("result: {0}")]
    Version(#[from] UnknownVersion),
    /// It is not of the form that its version has.
    #[error("result of version {version}: {source}")]
    Form {
        /// What it says it is.
        version: Version,
        /// Where reading stopped.
        source: serde_json::Error,
    },
    /// An address is said to belong to an interface that is not there.
    #[error("result: address {address} is of interface {interface}, and there are {count}")]
    Interface {
        /// The address.
        address: IpNet,
        /// The index given.
        interface: usize,
        /// How many interfaces there are.
        count: usize,
    },
}

impl AddResult {
    /// Reads a result of the version that it names, or of `version` when it names none.
    ///
    /// # Errors
    /// When it has not the form of its version.
    pub fn read(value: &Value, version: Version) -> Result<Self, InvalidResult> {
        let named = value.get("cniVersion").and_then(Value::as_str).filter(|text| !text.is_empty());
        let version = named.map_or(Ok(version), str::parse)?;
        // serde would take a list of the fields' values for a structure.
        let read = match value {
            Value::Object(_) => wire::read(value, version),
            _ => Err(serde::de::Error::custom("not a JSON object")),
        };
        let result = read.map_err(|source| InvalidResult::Form { version, source })?;
        for ip in &result.ips {
            if let Some(interface) = ip.interface.filter(|index| *index >= result.interfaces.len()) {
                let count = result.interfaces.len();
                return Err(InvalidResult::Interface { address: ip.address, interface, count });
            }
        }
        Ok(result)
    }

    /// The result as a version has it. What the version has no words for is left out.
    pub fn to_value(&self, version: Version) -> Value {
        wire::to_value(self, version)
    }

    /// As a plugin prints it: four blanks, no newline at the end.
    ///
    /// # Errors
    /// None that could be caused by what the result holds.
    pub fn print(&self, version: Version) -> serde_json::Result<Vec<u8>> {
        wire::print(self, version)
    }

    /// The addresses of one family.
    pub fn ips_of(&self, v4: bool) -> impl Iterator<Item = &IpConfig> {
        self.ips.iter().filter(move |ip| ip.address.addr().is_ipv4() == v4)
    }
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> AddResult {
        let address = |text: &str, gateway: &str| IpConfig {
            interface: Some(1),
            address: text.parse().unwrap(),
            gateway: gateway.parse().ok(),
        };
        AddResult {
            interfaces: vec![
                Interface { name: "veth1".into(), mac: "0a:58:0a:09:00:01".into(), mtu: 1500, ..Interface::default() },
                Interface { name: "eth0".into(), sandbox: "/run/netns/pod".into(), ..Interface::default() },
            ],
            ips: vec![address("10.9.0.2/24", "10.9.0.1"), address("fd00:9::2/64", "fd00:9::1")],
            routes: vec![
                Route::new("0.0.0.0/0".parse().unwrap(), "10.9.0.1".parse().ok()),
                Route { mtu: Some(1400), ..Route::new("::/0".parse().unwrap(), None) },
            ],
            dns: Dns { nameservers: vec!["10.9.0.1".into()], ..Dns::default() },
        }
    }

    #[test]
    fn every_version_keeps_what_it_has_words_for() {
        for version in Version::ALL {
            let read = AddResult::read(&example().to_value(version), Version::V0_1_0).unwrap();
            assert_eq!(read.ips.iter().map(|ip| ip.address).collect::<Vec<_>>().len(), 2, "{version}");
            assert_eq!(read.interfaces.is_empty(), version < Version::V0_3_0, "{version}");
            assert_eq!(read.routes[1].mtu.is_some(), version >= Version::V1_1_0, "{version}");
            assert_eq!(read.dns, example().dns, "{version}");
        }
        assert_eq!(AddResult::read(&example().to_value(Version::CURRENT), Version::CURRENT).unwrap(), example());
    }

    #[test]
    fn the_printed_form_is_the_reference_plugins() {
        let result = AddResult {
            ips: vec![IpConfig::new("10.9.0.5/24".parse().unwrap(), "10.9.0.1".parse().ok())],
            routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), None)],
            ..AddResult::default()
        };
        let text = |version| String::from_utf8(result.print(version).unwrap()).unwrap();
        let expected = r#"{
    "cniVersion": "0.3.1",
    "ips": [
        {
            "version": "4",
            "address": "10.9.0.5/24",
            "gateway": "10.9.0.1"
        }
    ],
    "routes": [
        {
            "dst": "0.0.0.0/0"
        }
    ],
    "dns": {}
}"#;
        assert_eq!(text(Version::V0_3_1), expected);
        assert_eq!(
            text(Version::V1_0_0),
            expected.replace("0.3.1", "1.0.0").replace("            \"version\": \"4\",\n", "")
        );
    }

    #[test]
    fn an_address_of_no_interface_is_refused() {
        let value = serde_json::json!({"cniVersion": "1.0.0", "ips": [{"interface": 3, "address": "10.0.0.1/8"}]});
        assert!(matches!(AddResult::read(&value, Version::V1_0_0), Err(InvalidResult::Interface { .. })));
        // Before 1.0.0 some plugins wrote -1 for none.
        let value = serde_json::json!({"cniVersion": "0.3.1",
            "ips": [{"version": "4", "interface": -1, "address": "10.0.0.1/8"}]});
        assert_eq!(AddResult::read(&value, Version::V0_3_1).unwrap().ips[0].interface, None);
    }

    #[test]
    fn results_of_an_unknown_version_are_refused() {
        let value = serde_json::json!({"cniVersion": "9.0.0"});
        assert!(matches!(AddResult::read(&value, Version::V1_0_0), Err(InvalidResult::Version(_))));
    }

    proptest! {
        #[test]
        fn any_json_is_read_or_refused(text in "[\\[\\]{}\":,0-9a-z./]{0,60}", version in 0usize..7) {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = AddResult::read(&value, Version::ALL[version]);
            }
        }

        #[test]
        fn addresses_survive_every_version(host in 1u8..255, prefix in 8u8..30, version in 0usize..7) {
            let address = format!("10.1.2.{host}/{prefix}").parse().unwrap();
            let result = AddResult { ips: vec![IpConfig::new(address, None)], ..AddResult::default() };
            let version = Version::ALL[version];
            prop_assert_eq!(AddResult::read(&result.to_value(version), version).unwrap(), result);
        }
    }
}
