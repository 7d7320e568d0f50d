//! Ports of the host that lead to pods: a table of nftables whose maps have an element for each port.
//!
//! A caller names the table, writes it once ([`write_table`]) and adds [`elements`] to it. Answers have to come back by way of
//! the host, which undoes the translation; where pods share a link they would take the short way, so what such a link
//! sends back to itself is masqueraded (set [`HAIRPIN`], kernel 5.7 or newer), and so is what comes from 127.0.0.1 ([`LINKS`]). This file is pure.

use std::net::IpAddr;

use crate::nftables::{
    Element, Expression as E, Family, Field, Hook, Register, SetType, Transaction, name_bytes, octets,
};

/// Ports of every address of the host.
pub const ANY: &str = "ports";
/// Ports of one address.
pub const BOUND: &str = "bound_ports";
/// Links that lead to pods, by name: packets from 127.0.0.1 leave by them, and none to 127.0.0.0/8 enters.
pub const LINKS: &str = "links";
/// Pairs of links, in and out, by which packets come back to where they came from.
pub const HAIRPIN: &str = "hairpin";

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Its number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port of the host that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Of which address of the host; none: of all of both families; unspecified: of all of its family.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub pod_port: u16,
}

impl Port {
    /// Whether it is reached over an address family.
    pub fn covers(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| Family::of(ip) == family)
    }

    /// The one address it is of; none: all of its family.
    fn bound(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }
}

/// The elements that lead ports to a pod's addresses: family, map, element.
pub fn elements(addresses: &[IpAddr], ports: &[Port], comment: Option<&str>) -> Vec<(Family, &'static str, Element)> {
    let mut elements = Vec::new();
    for address in addresses {
        let family = Family::of(*address);
        for port in ports.iter().filter(|port| port.covers(family)) {
            let mut key = port.bound().map(octets).unwrap_or_default();
            key.extend([port.protocol.number(), 0, 0, 0]);
            key.extend(padded(port.host_port));
            let mut value = octets(*address);
            value.extend(padded(port.pod_port));
            let element = Element { comment: comment.map(str::to_owned), ..Element::pair(key, value) };
            elements.push((family, if port.bound().is_some() { BOUND } else { ANY }, element));
        }
    }
    elements
}

/// The host's port of an element, when it is one of UDP.
pub fn udp_port_of(element: &Element) -> Option<u16> {
    let [.., protocol, 0, 0, 0, high, low, 0, 0] = element.key.as_slice() else { return None };
    (*protocol == Protocol::Udp.number()).then(|| u16::from_be_bytes([*high, *low]))
}

/// An element of [`LINKS`].
pub fn link(name: &str) -> Element {
    Element { key: name_bytes(name), ..Element::default() }
}

/// The elements of [`HAIRPIN`] for a link. Where bridges call the packet filter (`bridge-nf-call-iptables`), packets between ports
/// of one bridge have no link that they came in by; nor have the host's own, which lose nothing by it.
pub fn hairpin(name: &str) -> [Element; 2] {
    [name, ""].map(|from| Element { key: [name_bytes(from), name_bytes(name)].concat(), ..Element::default() })
}

/// Makes the table's maps, sets, chains and rules be there; its elements stay.
pub fn write_table(transaction: &mut Transaction, family: Family, table: &str) {
    transaction.add_table(family, table);
    transaction.add_set(family, table, ANY, SetType::port_to_endpoint(family));
    transaction.add_set(family, table, BOUND, SetType::endpoint_to_endpoint(family));
    transaction.add_set(family, table, LINKS, SetType::link_names());
    transaction.add_set(family, table, HAIRPIN, SetType::link_pairs());
    for (chain, hook) in [("prerouting", Hook::NatPrerouting), ("output", Hook::NatOutput)] {
        let rules = [to_bound_port(family), to_any_port(family)];
        write_chain(transaction, family, table, chain, hook, &rules);
    }
    let mut masquerade = vec![back_to_itself()];
    if family == Family::V4 {
        masquerade.push(loopback_to_pod());
        write_chain(transaction, family, table, "raw", Hook::RawPrerouting, &[pod_to_loopback()]);
    }
    write_chain(transaction, family, table, "postrouting", Hook::NatPostrouting, &masquerade);
}

fn write_chain(transaction: &mut Transaction, family: Family, table: &str, chain: &str, hook: Hook, rules: &[Vec<E>]) {
    transaction.add_chain(family, table, chain, hook);
    transaction.flush_chain(family, table, chain);
    rules.iter().for_each(|rule| transaction.add_rule(family, table, chain, rule));
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

/// `ct status dnat iifname . oifname @hairpin masquerade`: the answering pod must see the host.
fn back_to_itself() -> Vec<E> {
    const IPS_DST_NAT: u32 = 1 << 5;
    vec![
        E::Load(Field::ConnectionStatus, Register(0)),
        E::And(Register(0), IPS_DST_NAT.to_ne_bytes().to_vec()),
        E::NotEqual(Register(0), vec![0; 4]),
        E::Load(Field::InputName, Register(0)),
        E::Load(Field::OutputName, Register(4)),
        E::Member(HAIRPIN.into(), Register(0)),
        E::Masquerade,
    ]
}

/// `oifname @links ip saddr 127.0.0.0/8 masquerade`: no pod can answer 127.0.0.1.
fn loopback_to_pod() -> Vec<E> {
    vec![
        E::Load(Field::OutputName, Register(0)),
        E::Member(LINKS.into(), Register(0)),
        E::Load(Field::Source(Family::V4, 1), Register(0)),
        E::Equal(Register(0), vec![127]),
        E::Masquerade,
    ]
}

/// `iifname @links ip daddr 127.0.0.0/8 drop`: with route_localnet on the link, pods could reach what listens on the host's
/// loopback (CVE-2020-8558).
fn pod_to_loopback() -> Vec<E> {
    vec![
        E::Load(Field::InputName, Register(0)),
        E::Member(LINKS.into(), Register(0)),
        E::Load(Field::Destination(Family::V4, 1), Register(0)),
        E::Equal(Register(0), vec![127]),
        E::Drop,
    ]
}

/// Of an address: its bytes, and its 32-bit words.
fn address_size(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (4, 1),
        Family::V6 => (16, 4),
    }
}

/// A port fills the first half of its register.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_what_the_registers_hold() {
        let addresses = ["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let port =
            |protocol, host_ip: &str| Port { protocol, host_ip: host_ip.parse().ok(), host_port: 8080, pod_port: 80 };
        let bound = elements(&addresses, &[port(Protocol::Tcp, "192.0.2.1")], None);
        let expected = Element::pair(vec![192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0], vec![10, 88, 0, 2, 0, 80, 0, 0]);
        assert_eq!(bound, [(Family::V4, BOUND, expected)]);
        let both = elements(&addresses, &[port(Protocol::Udp, "")], Some("c"));
        assert_eq!(
            both.iter().map(|(family, map, _)| (*family, *map)).collect::<Vec<_>>(),
            [(Family::V4, ANY), (Family::V6, ANY)]
        );
        assert!(both.iter().all(|(_, _, element)| udp_port_of(element) == Some(8080)));
        assert_eq!(udp_port_of(&bound[0].2), None);
        assert_eq!(elements(&addresses, &[port(Protocol::Tcp, "::")], None)[0].0, Family::V6);
    }
}
