//! Which subnets pods get their addresses from, and the memory of it across restarts.

use std::fs;
use std::path::{Path, PathBuf};

use cni::ipam::{Pool, Range};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{NetworkConfig, NetworkError, SubnetV6};

/// The subnets in force, the primary address's first; at most one of each address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subnets(Vec<Range>);

/// A text that is no pod CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pod CIDR {text:?}: {reason}")]
pub struct InvalidCidr {
    text: String,
    reason: String,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    version: u32,
    /// kubelet's, and so above the configuration.
    #[serde(default)]
    pod_cidr: Vec<IpNet>,
    /// The derived IPv6 subnet: kept, so that a new machine id does not renumber the node.
    #[serde(default)]
    ula: Option<Ipv6Net>,
}

const MEMORY_VERSION: u32 = 1;

impl Subnets {
    /// kubelet's CIDRs first and in its order, then what the configuration says about an address family it did not name.
    pub(super) fn resolve(config: &NetworkConfig, memory: &Memory, ipv6: bool) -> Result<Self, NetworkError> {
        let mut nets = memory.pod_cidr.clone();
        let v6 = match config.subnet_v6 {
            SubnetV6::Off => None,
            SubnetV6::Net(net) => Some(net),
            SubnetV6::Ula => memory.ula.filter(|_| ipv6),
        };
        let configured = config.subnet_v4.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6));
        for net in configured {
            if nets.iter().all(|named| named.addr().is_ipv4() != net.addr().is_ipv4()) {
                nets.push(net);
            }
        }
        Ok(Self(nets.into_iter().map(Range::whole).collect::<Result<_, _>>()?))
    }

    /// The ranges, the primary address's first.
    pub(super) fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The gateways with their prefix lengths, as the bridge carries them.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.0.iter().filter_map(|range| IpNet::new(range.gateway(), range.subnet().prefix_len()).ok())
    }

    /// The pools to lease from, each with the number that the store knows it by.
    pub(super) fn pools(&self) -> impl Iterator<Item = (usize, Pool)> + '_ {
        self.0.iter().map(|range| (usize::from(range.gateway().is_ipv6()), Pool::new(vec![range.clone()])))
    }
}

impl Memory {
    /// Reads what is remembered, and derives and remembers what is missing.
    pub(super) fn open(state_dir: &Path, machine_id: &str) -> Result<Self, NetworkError> {
        let path = file_of(state_dir);
        let mut memory = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| NetworkError::DamagedState { path: path.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(source) => return Err(NetworkError::file("read", path)(source)),
        };
        if memory.ula.is_none() {
            memory.ula = Some(unique_local(machine_id));
            memory.write(state_dir)?;
        }
        Ok(memory)
    }

    /// The same with another pod CIDR.
    pub(super) fn with_pod_cidr(&self, cidr: &str) -> Result<Self, InvalidCidr> {
        Ok(Self { pod_cidr: parse_cidr(cidr)?, ..self.clone() })
    }

    /// What kubelet named; empty when it has named none.
    pub(super) fn pod_cidr(&self) -> &[IpNet] {
        &self.pod_cidr
    }

    /// Writes it down, whole or not at all.
    pub(super) fn write(&self, state_dir: &Path) -> Result<(), NetworkError> {
        fs::create_dir_all(state_dir).map_err(NetworkError::file("create", state_dir))?;
        let (path, new) = (file_of(state_dir), state_dir.join("subnets.json.new"));
        let memory = Self { version: MEMORY_VERSION, ..self.clone() };
        let text =
            serde_json::to_vec(&memory).map_err(|source| NetworkError::DamagedState { path: new.clone(), source })?;
        fs::write(&new, text).map_err(NetworkError::file("write", &new))?;
        fs::rename(&new, &path).map_err(NetworkError::file("rename", &new))
    }
}

fn file_of(state_dir: &Path) -> PathBuf {
    state_dir.join("subnets.json")
}

/// `a`, or `a,b` of two address families, as UpdateRuntimeConfig carries it.
fn parse_cidr(text: &str) -> Result<Vec<IpNet>, InvalidCidr> {
    let invalid = |reason: String| InvalidCidr { text: text.chars().take(100).collect(), reason };
    let mut nets: Vec<IpNet> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let net: IpNet = part.parse().map_err(|error: ipnet::AddrParseError| invalid(format!("{part:?}: {error}")))?;
        let net = Range::whole(net).map_err(|error| invalid(error.to_string()))?.subnet();
        if nets.iter().any(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) {
            return Err(invalid("more than one of an address family".into()));
        }
        nets.push(net);
    }
    Ok(nets)
}

/// RFC 4193: fd, 40 bits of the machine's own, subnet 0.
fn unique_local(machine_id: &str) -> Ipv6Net {
    let [a, b, c, d, e] = machine_bytes(machine_id, "pod network");
    let address = std::net::Ipv6Addr::new(
        u16::from_be_bytes([0xfd, a]),
        u16::from_be_bytes([b, c]),
        u16::from_be_bytes([d, e]),
        0,
        0,
        0,
        0,
        0,
    );
    Ipv6Net::new_assert(address, 64)
}

/// Forty bits that are this machine's and this purpose's. The machine id itself is not to leave the machine
/// (machine-id(5)), hence the hash.
pub(super) fn machine_bytes(machine_id: &str, purpose: &str) -> [u8; 5] {
    let hash = Sha256::new().chain_update("berth\0").chain_update(purpose).chain_update("\0").chain_update(machine_id);
    let hash = hash.finalize();
    [hash[0], hash[1], hash[2], hash[3], hash[4]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::new("/run/x", "/var/x")
    }

    fn texts(subnets: &Subnets) -> Vec<String> {
        subnets.gateways().map(|net| net.to_string()).collect()
    }

    #[test]
    fn kubelets_cidr_comes_first_and_the_configuration_fills_in() {
        let memory = Memory { ula: "fd12:3456:789a::/64".parse().ok(), ..Memory::default() };
        let resolve = |cidr: &str| {
            let memory = if cidr.is_empty() { memory.clone() } else { memory.with_pod_cidr(cidr).unwrap() };
            texts(&Subnets::resolve(&config(), &memory, true).unwrap())
        };
        assert_eq!(resolve(""), ["10.88.0.1/16", "fd12:3456:789a::1/64"]);
        assert_eq!(resolve("10.244.1.0/24"), ["10.244.1.1/24", "fd12:3456:789a::1/64"]);
        assert_eq!(resolve("fd00:1::/112"), ["fd00:1::1/112", "10.88.0.1/16"]);
        assert_eq!(resolve("fd00:1::/112, 10.244.1.0/24"), ["fd00:1::1/112", "10.244.1.1/24"]);
    }

    #[test]
    fn without_ipv6_on_the_host_there_is_no_derived_subnet() {
        let memory = Memory { ula: "fd12:3456:789a::/64".parse().ok(), ..Memory::default() };
        assert_eq!(texts(&Subnets::resolve(&config(), &memory, false).unwrap()), ["10.88.0.1/16"]);
    }

    #[test]
    fn texts_that_are_no_pod_cidr_are_refused() {
        for bad in
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/24,10.1.0.0/24", "10.0.0.0/24,", "10.0.0.0/31", "x", "fd00::/128"]
        {
            assert!(Memory::default().with_pod_cidr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_derived_is_unique_local_and_stable() {
        let net = unique_local("0123456789abcdef");
        assert_eq!(net.addr().octets()[0], 0xfd);
        assert_eq!(net, unique_local("0123456789abcdef"));
        assert_ne!(net, unique_local("0123456789abcdee"));
    }

    #[test]
    fn memory_survives_a_restart_and_another_machine_id() {
        let folder = tempfile::tempdir().unwrap();
        let first = Memory::open(folder.path(), "a").unwrap().with_pod_cidr("10.9.0.0/24").unwrap();
        first.write(folder.path()).unwrap();
        let second = Memory::open(folder.path(), "b").unwrap();
        assert_eq!((&second.ula, &second.pod_cidr), (&first.ula, &first.pod_cidr));
        fs::write(file_of(folder.path()), "{").unwrap();
        assert!(matches!(Memory::open(folder.path(), "a"), Err(NetworkError::DamagedState { .. })));
    }
}
