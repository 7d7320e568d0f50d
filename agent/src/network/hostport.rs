//! Host ports: what arrives at a port of the node goes on to a pod. A table of our own in nftables with a map for each way
//! to name a port; publishing a pod's ports is one message with its elements.
//!
//! A record of each pod's ports is written before the elements are made and removed after they are gone, so the table can be
//! made anew from the records at any time, which is also what happens when the kernel's state is not as expected.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::nftables::{Expression as E, Family, Field, Hook, MapType, Nftables, Register, Transaction};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{NetworkError, host};

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

    /// Whether this port is reached over an address family.
    fn covers(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| family_of(ip) == family)
    }

    /// The one address it is of; none: all of its family.
    fn bound(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    fn collides(&self, other: &Self) -> bool {
        let same_address = || match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()),
            _ => true,
        };
        self.protocol == other.protocol && self.host_port == other.host_port && same_address()
    }
}

/// One pod's ports and the addresses they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    addresses: Vec<IpAddr>,
    ports: Vec<HostPort>,
}

const RECORD_VERSION: u32 = 1;

/// A key of a map and its value, as bytes, with the map's name and family.
type Element = (Family, &'static str, Vec<u8>, Vec<u8>);

/// All published ports of the node.
#[derive(Debug)]
pub(super) struct HostPorts {
    folder: PathBuf,
    bridge: String,
    socket: Nftables,
    records: HashMap<String, Record>,
    /// The pod subnets, which reach their own host ports by a detour over the host.
    served: Vec<IpNet>,
    /// Whether this process has made the table.
    installed: bool,
}

impl HostPorts {
    /// Reads the records.
    pub(super) fn open(folder: PathBuf, bridge: &str) -> Result<Self, NetworkError> {
        fs::create_dir_all(&folder).map_err(NetworkError::file("create", &folder))?;
        let mut records = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(NetworkError::file("list", &folder))? {
            let path = entry.map_err(NetworkError::file("list", &folder))?.path();
            let Some(pod) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else { continue };
            let text = fs::read(&path).map_err(NetworkError::file("read", &path))?;
            let record = serde_json::from_slice(&text)
                .map_err(|source| NetworkError::DamagedState { path: path.clone(), source })?;
            records.insert(pod.to_owned(), record);
        }
        let socket = Nftables::open()?;
        Ok(Self { folder, bridge: bridge.into(), socket, records, served: Vec::new(), installed: false })
    }

    /// Makes the kernel's table be what the records say.
    pub(super) fn assert(&mut self, served: &[IpNet]) -> Result<(), NetworkError> {
        self.served = served.to_vec();
        if self.records.is_empty() && !self.installed {
            return self.forget();
        }
        self.install()
    }

    /// Leads a pod's ports to its addresses.
    pub(super) fn publish(&mut self, pod: &str, addresses: &[IpAddr], ports: &[HostPort]) -> Result<(), NetworkError> {
        self.unpublish(pod)?;
        if ports.is_empty() {
            return Ok(());
        }
        for (index, port) in ports.iter().enumerate() {
            let others =
                self.records.iter().flat_map(|(pod, record)| record.ports.iter().map(move |p| (p, pod.as_str())));
            let own = ports[..index].iter().map(|p| (p, pod));
            if let Some((_, owner)) = others.chain(own).find(|(other, _)| other.collides(port)) {
                return Err(NetworkError::PortInUse { port: port.host_port, pod: owner.into() });
            }
            if !addresses.iter().any(|ip| port.covers(family_of(*ip))) {
                return Err(NetworkError::PortUnreachable { port: port.host_port });
            }
        }
        let record = Record { version: RECORD_VERSION, addresses: addresses.to_vec(), ports: ports.to_vec() };
        self.write(pod, &record)?;
        let added = elements(&record);
        self.records.insert(pod.into(), record);
        let made = match self.installed {
            true => self.add(&added).or_else(|_| self.install()),
            false => self.install(),
        };
        made.map_err(|error| match self.unpublish(pod) {
            Ok(()) => error,
            Err(undo) => NetworkError::RollbackFailed { error: error.into(), undo: undo.into() },
        })
    }

    /// Takes a pod's ports away; no error when it has none.
    pub(super) fn unpublish(&mut self, pod: &str) -> Result<(), NetworkError> {
        let Some(record) = self.records.remove(pod) else { return Ok(()) };
        if self.installed {
            let taken = self.take(&elements(&record)).or_else(|_| self.install());
            if let Err(error) = taken {
                self.records.insert(pod.into(), record);
                return Err(error);
            }
        }
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetworkError::file("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Takes the ports of all pods that are not alive.
    pub(super) fn sweep(&mut self, alive: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let dead: Vec<_> = self.records.keys().filter(|pod| !alive(pod)).cloned().collect();
        dead.iter().try_for_each(|pod| self.unpublish(pod))
    }

    fn add(&mut self, elements: &[Element]) -> Result<(), NetworkError> {
        let mut transaction = Transaction::default();
        for (family, map, key, value) in elements {
            transaction.add_elements(*family, &table_name(&self.bridge), map, &[(key.clone(), value.clone())]);
        }
        Ok(self.socket.commit(&transaction)?)
    }

    fn take(&mut self, elements: &[Element]) -> Result<(), NetworkError> {
        let mut transaction = Transaction::default();
        for (family, map, key, _) in elements {
            transaction.delete_elements(*family, &table_name(&self.bridge), map, std::slice::from_ref(key));
        }
        Ok(self.socket.commit(&transaction)?)
    }

    /// Replaces the table as a whole, in one transaction: no packet sees it half made.
    fn install(&mut self) -> Result<(), NetworkError> {
        let elements: Vec<_> = self.records.values().flat_map(elements).collect();
        let mut transaction = Transaction::default();
        for family in [Family::V4, Family::V6] {
            write_table(&mut transaction, family, &self.bridge, &self.served);
            for map in [ANY, BOUND] {
                let of_map = elements.iter().filter(|(f, m, ..)| *f == family && *m == map);
                let pairs: Vec<_> = of_map.map(|(_, _, key, value)| (key.clone(), value.clone())).collect();
                transaction.add_elements(family, &table_name(&self.bridge), map, &pairs);
            }
        }
        self.socket.commit(&transaction)?;
        // Packets from 127.0.0.1 may leave over the bridge; the table's own rule keeps others from entering by it.
        host::set_sysctl(&Path::new("/proc/sys/net/ipv4/conf").join(&self.bridge).join("route_localnet"), "1")?;
        self.installed = true;
        Ok(())
    }

    /// Takes away the table of an earlier agent, when nothing is published.
    fn forget(&mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::default();
        for family in [Family::V4, Family::V6] {
            transaction.add_table(family, &table_name(&self.bridge));
            transaction.delete_table(family, &table_name(&self.bridge));
        }
        // A kernel without nftables has no table to take away.
        let _ = self.socket.commit(&transaction);
        Ok(())
    }

    fn write(&self, pod: &str, record: &Record) -> Result<(), NetworkError> {
        let (path, new) = (self.path(pod), self.folder.join(format!("{pod}.new")));
        let text =
            serde_json::to_vec(record).map_err(|source| NetworkError::DamagedState { path: new.clone(), source })?;
        fs::write(&new, text).map_err(NetworkError::file("write", &new))?;
        fs::rename(&new, &path).map_err(NetworkError::file("rename", &new))
    }

    fn path(&self, pod: &str) -> PathBuf {
        self.folder.join(format!("{pod}.json"))
    }
}

/// Ports of every address of the node.
const ANY: &str = "ports";
/// Ports of one address.
const BOUND: &str = "bound_ports";

fn table_name(bridge: &str) -> String {
    format!("berth-ports-{bridge}")
}

fn family_of(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// The map elements of a pod.
fn elements(record: &Record) -> Vec<Element> {
    let mut elements = Vec::new();
    for address in &record.addresses {
        let family = family_of(*address);
        for port in record.ports.iter().filter(|port| port.covers(family)) {
            let mut key = port.bound().map(octets).unwrap_or_default();
            key.extend([port.protocol.number(), 0, 0, 0]);
            key.extend(padded(port.host_port));
            let mut value = octets(*address);
            value.extend(padded(port.pod_port));
            elements.push((family, if port.bound().is_some() { BOUND } else { ANY }, key, value));
        }
    }
    elements
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A port fills the first half of its register.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

impl PortProtocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// One family's table, without elements.
fn write_table(transaction: &mut Transaction, family: Family, bridge: &str, served: &[IpNet]) {
    let table = table_name(bridge);
    transaction.replace_table(family, &table);
    transaction.add_map(family, &table, ANY, MapType::port_to_endpoint(family));
    transaction.add_map(family, &table, BOUND, MapType::endpoint_to_endpoint(family));
    for (chain, hook) in [("prerouting", Hook::NatPrerouting), ("output", Hook::NatOutput)] {
        transaction.add_chain(family, &table, chain, hook);
        transaction.add_rule(family, &table, chain, &to_bound_port(family));
        transaction.add_rule(family, &table, chain, &to_any_port(family));
    }
    transaction.add_chain(family, &table, "postrouting", Hook::NatPostrouting);
    for net in served.iter().filter(|net| family_of(net.addr()) == family) {
        transaction.add_rule(family, &table, "postrouting", &pod_to_host_port(family, bridge, *net));
    }
    if family == Family::V4 {
        transaction.add_rule(family, &table, "postrouting", &loopback_to_pod(bridge));
        transaction.add_chain(family, &table, "raw", Hook::RawPrerouting);
        transaction.add_rule(
            family,
            &table,
            "raw",
            &[
                E::Load(Field::InputName, Register(0)),
                E::Equal(Register(0), name_bytes(bridge)),
                E::Load(Field::Destination(Family::V4, 1), Register(0)),
                E::Equal(Register(0), vec![127]),
                E::Drop,
            ],
        );
    }
}

/// `dnat to daddr . protocol . dport map @bound_ports`
fn to_bound_port(family: Family) -> Vec<E> {
    let (length, words) = address_size(family);
    vec![
        E::Load(Field::Destination(family, length), Register(0)),
        E::Load(Field::Protocol, Register(words)),
        E::Load(Field::DestinationPort, Register(words + 1)),
        E::Lookup(BOUND.into(), Register(0), Register(0)),
        E::DestinationNat(family, Register(0), Register(words)),
    ]
}

/// `fib daddr type local dnat to protocol . dport map @ports`
fn to_any_port(family: Family) -> Vec<E> {
    const RTN_LOCAL: u32 = 2;
    let (_, words) = address_size(family);
    vec![
        E::Load(Field::DestinationType, Register(0)),
        E::Equal(Register(0), RTN_LOCAL.to_ne_bytes().to_vec()),
        E::Load(Field::Protocol, Register(0)),
        E::Load(Field::DestinationPort, Register(1)),
        E::Lookup(ANY.into(), Register(0), Register(0)),
        E::DestinationNat(family, Register(0), Register(words)),
    ]
}

/// A pod that calls a host port which leads to a pod has to get its answer by way of the host, which undoes the
/// translation: the answering pod must see the host.
fn pod_to_host_port(family: Family, bridge: &str, net: IpNet) -> Vec<E> {
    const IPS_DST_NAT: u32 = 1 << 5;
    let (length, _) = address_size(family);
    vec![
        E::Load(Field::ConnectionStatus, Register(0)),
        E::And(Register(0), IPS_DST_NAT.to_ne_bytes().to_vec()),
        E::NotEqual(Register(0), vec![0; 4]),
        E::Load(Field::OutputName, Register(0)),
        E::Equal(Register(0), name_bytes(bridge)),
        E::Load(Field::Source(family, length), Register(0)),
        E::And(Register(0), octets(net.netmask())),
        E::Equal(Register(0), octets(net.network())),
        E::Masquerade,
    ]
}

/// No pod can answer 127.0.0.1.
fn loopback_to_pod(bridge: &str) -> Vec<E> {
    vec![
        E::Load(Field::OutputName, Register(0)),
        E::Equal(Register(0), name_bytes(bridge)),
        E::Load(Field::Source(Family::V4, 1), Register(0)),
        E::Equal(Register(0), vec![127]),
        E::Masquerade,
    ]
}

/// Of an address: its bytes, and its 32-bit words.
fn address_size(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (4, 1),
        Family::V6 => (16, 4),
    }
}

/// A link's name as the kernel loads it: 16 bytes.
fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
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

    #[test]
    fn an_element_is_what_the_registers_hold() {
        let record = Record {
            version: 1,
            addresses: vec!["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ports: vec![port("192.0.2.1", 8080)],
        };
        let expected =
            (Family::V4, BOUND, vec![192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0], vec![10, 88, 0, 2, 0, 80, 0, 0]);
        assert_eq!(elements(&record), [expected]);
    }
}
