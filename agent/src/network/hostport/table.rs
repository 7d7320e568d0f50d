//! The table as the kernel is told it. Pure.

use std::net::IpAddr;

use cni::nftables::{Expression as E, Family, Field, Hook, MapType, Register, Transaction};
use ipnet::IpNet;

use super::{HostPort, family_of};

/// A key of a map and its value, as bytes, with the map's name and family.
pub(super) type Element = (Family, &'static str, Vec<u8>, Vec<u8>);

/// Ports of every address of the node.
const ANY: &str = "ports";
/// Ports of one address.
const BOUND: &str = "bound_ports";
/// Both.
pub(super) const MAPS: [&str; 2] = [ANY, BOUND];

pub(super) fn table_name(bridge: &str) -> String {
    format!("berth-ports-{bridge}")
}

/// The map elements of a pod.
pub(super) fn elements(addresses: &[IpAddr], ports: &[HostPort]) -> Vec<Element> {
    let mut elements = Vec::new();
    for address in addresses {
        let family = family_of(*address);
        for port in ports.iter().filter(|port| port.covers(family)) {
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

/// One family's table, without elements.
pub(super) fn write(transaction: &mut Transaction, family: Family, bridge: &str, served: &[IpNet]) {
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
    use super::super::PortProtocol;
    use super::*;

    #[test]
    fn an_element_is_what_the_registers_hold() {
        let addresses = ["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let host_ip = "192.0.2.1".parse().ok();
        let ports = [HostPort { protocol: PortProtocol::Tcp, host_ip, host_port: 8080, pod_port: 80 }];
        let expected =
            (Family::V4, BOUND, vec![192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0], vec![10, 88, 0, 2, 0, 80, 0, 0]);
        assert_eq!(elements(&addresses, &ports), [expected]);
    }
}
