//! Pods behind one link that do not reach each other, but for pairs that are named: a table of nftables.
//!
//! The link is a bridge whose ports are isolated, so no frame goes from port to port: what one pod sends to another comes to the
//! host, if at all, to be passed on by it. There this table stands: it drops whatever would leave by the link it came in by, unless
//! its two addresses are a pair of the set [`PAIRS`], or it was sent to a port of the host that leads to a pod. One rule after
//! the other and no condition on connections but that: a packet that connection tracking makes nothing of is dropped. This file is pure.

use std::net::IpAddr;

use crate::nftables::{
    Element, Expression as E, Family, Field, Hook, Register, SetType, Transaction, name_bytes, octets,
};

/// Pairs of addresses, source and destination, that packets pass between.
pub const PAIRS: &str = "pairs";

/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// The packets of one direction between two addresses of one family.
pub fn pair(from: IpAddr, to: IpAddr) -> Element {
    Element { key: [octets(from), octets(to)].concat(), ..Element::default() }
}

/// Makes the table anew for the pods behind `link`, with these pairs and no other.
pub fn write_table(transaction: &mut Transaction, family: Family, table: &str, link: &str, pairs: &[Element]) {
    const CHAIN: &str = "forward";
    transaction.replace_table(family, table);
    transaction.add_set(family, table, PAIRS, SetType::address_pairs(family));
    transaction.add_elements(family, table, PAIRS, pairs);
    transaction.add_chain(family, table, CHAIN, Hook::FilterForward);
    for rule in [
        other_link(Field::InputName, link),
        other_link(Field::OutputName, link),
        named_pair(family),
        host_port(),
        vec![E::Drop],
    ] {
        transaction.add_rule(family, table, CHAIN, &rule);
    }
}

/// `iifname != link accept`, `oifname != link accept`
fn other_link(name: Field, link: &str) -> Vec<E> {
    vec![E::Load(name, Register(0)), E::NotEqual(Register(0), name_bytes(link)), E::Accept]
}

/// `saddr . daddr @pairs accept`
fn named_pair(family: Family) -> Vec<E> {
    let (length, words) = match family {
        Family::V4 => (4, 1),
        Family::V6 => (16, 4),
    };
    vec![
        E::Load(Field::Source(family, length), Register(0)),
        E::Load(Field::Destination(family, length), Register(words)),
        E::Member(PAIRS.into(), Register(0)),
        E::Accept,
    ]
}

/// `ct status dnat accept`: both directions of what was sent to a port of the host.
fn host_port() -> Vec<E> {
    vec![
        E::Load(Field::ConnectionStatus, Register(0)),
        E::And(Register(0), DESTINATION_TRANSLATED.to_ne_bytes().to_vec()),
        E::NotEqual(Register(0), vec![0; 4]),
        E::Accept,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_source_then_destination() {
        let element = pair([10, 88, 0, 2].into(), [10, 88, 0, 3].into());
        assert_eq!(element.key, [10, 88, 0, 2, 10, 88, 0, 3]);
        assert_eq!(pair("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()).key.len(), 32);
    }
}
