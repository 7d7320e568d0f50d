//! `portmap`: ports of the host lead to the container. It is chained behind the plugin that gave it addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;

use super::Plugin;
use super::link::{host_socket, kernel};
use super::request::{Common, Living, Network, Target};
use crate::conf::PortMapping;
use crate::conntrack;
use crate::hostports::{self, ANY, BOUND, HAIRPIN, LINKS, Port, Protocol};
use crate::netlink::{Link, NetlinkError};
use crate::nftables::{Element, Family, Nftables, Transaction};
use crate::sysctl;
use crate::types::{AddResult, CniError, Code};

pub(super) struct Portmap;

/// The table; its name says who made it.
const TABLE: &str = "berth_cni_hostports";

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conf {
    /// Containers reach host ports by way of the host, 127.0.0.1 included.
    snat: bool,
    backend: Option<String>,
    masq_all: bool,
    conditions_v4: Option<Vec<String>>,
    conditions_v6: Option<Vec<String>>,
    external_set_mark_chain: Option<String>,
}

impl Default for Conf {
    fn default() -> Self {
        let (backend, conditions_v4, conditions_v6, external_set_mark_chain) = (None, None, None, None);
        Self { snat: true, backend, masq_all: false, conditions_v4, conditions_v6, external_set_mark_chain }
    }
}

impl Conf {
    fn read(network: &Network<'_>) -> Result<Self, CniError> {
        let conf: Self = network.conf()?;
        let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let unsupported = [
            ("backend", conf.backend.as_deref().is_some_and(|it| it != "nftables")),
            ("masqAll", conf.masq_all),
            ("conditionsV4, conditionsV6", some(&conf.conditions_v4) || some(&conf.conditions_v6)),
            ("externalSetMarkChain", conf.external_set_mark_chain.is_some()),
        ];
        match unsupported.iter().find(|(_, is_set)| *is_set) {
            None => Ok(conf),
            Some((field, _)) => {
                let msg = format!("{field}: is not supported by this plugin, which uses nftables");
                Err(CniError::new(Code::UNSUPPORTED_FIELD, msg))
            }
        }
    }
}

impl Plugin for Portmap {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let conf = Conf::read(network)?;
        let result = network.previous()?;
        let ports = ports(&network.conf::<Common>()?.runtime_config.port_mappings)?;
        if ports.is_empty() {
            return Ok(result.clone());
        }
        let owner = network.owner(target)?;
        let addresses = addresses(result);
        let wanted = wanted(&addresses, &ports, &owner)?;
        network.with_nftables(|socket| {
            let published = publish(socket, &wanted, &owner)
                .and_then(|()| if conf.snat { lead_back(socket, &addresses, &owner) } else { Ok(()) })
                .and_then(|()| conntrack::forget_udp(socket, &udp(&wanted)).map_err(kernel));
            published.map_err(|error| match unpublish(socket, |found| found == owner) {
                Ok(()) => error,
                Err(undo) => error.context(format!("taking ports back failed ({undo}) after")),
            })
        })?;
        Ok(result.clone())
    }

    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let owner = network.owner(target)?;
        // What ADD has told of is found by its key, and only when that is not all of it everything is read.
        let known = known(network, &owner).unwrap_or_default();
        network.with_nftables(|socket| match take_known(socket, &known, &owner)? {
            true => empty(socket, &[LINKS, HAIRPIN], |found| found == owner),
            false => unpublish(socket, |found| found == owner),
        })
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        Conf::read(network)?;
        let result = network.previous()?;
        let ports = ports(&network.conf::<Common>()?.runtime_config.port_mappings)?;
        let wanted = wanted(&addresses(result), &ports, &network.owner(target)?)?;
        network.with_nftables(|socket| {
            for (family, map, elements) in by_set(&wanted) {
                let present = socket.elements(family, TABLE, map).map_err(kernel)?;
                if elements.iter().any(|element| !present.contains(element)) {
                    return Err(CniError::new(Code::INTERNAL, "a host port does not lead to the container"));
                }
            }
            Ok(())
        })
    }

    fn gc(&self, network: &Network<'_>, living: &Living) -> Result<(), CniError> {
        network.with_nftables(|socket| unpublish(socket, |owner| living.misses(owner)))
    }

    fn status(&self, network: &Network<'_>) -> Result<(), CniError> {
        Conf::read(network).map(drop)
    }
}

type Wanted = (Family, &'static str, Element);

/// Those that name a port of the host.
fn ports(mappings: &[PortMapping]) -> Result<Vec<Port>, CniError> {
    let mut ports: Vec<Port> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(CniError::config(format!("portMappings: protocol {other:?} is unknown"))),
        };
        if mapping.container_port == 0 {
            return Err(CniError::config("portMappings: containerPort is missing"));
        }
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| CniError::config(format!("hostIP {text:?} is no address")))?),
        };
        let port = Port { protocol, host_ip, host_port: mapping.host_port, pod_port: mapping.container_port };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// The container's first address of each family.
fn addresses(result: &AddResult) -> Vec<IpAddr> {
    let inside = |interface: &Option<usize>| {
        interface.is_none_or(|index| result.interfaces.get(index).is_some_and(|one| !one.sandbox.is_empty()))
    };
    let first = |v4| result.ips_of(v4).find(|ip| inside(&ip.interface)).map(|ip| ip.address.addr());
    [first(true), first(false)].into_iter().flatten().collect()
}

fn wanted(addresses: &[IpAddr], ports: &[Port], owner: &str) -> Result<Vec<Wanted>, CniError> {
    let reachable = |port: &&Port| addresses.iter().any(|ip| port.covers(Family::of(*ip)));
    if let Some(port) = ports.iter().find(|port| !reachable(port)) {
        let reason = format!("host port {}: the container has no address of the family of hostIP", port.host_port);
        return Err(CniError::config(reason));
    }
    let wanted = hostports::elements(addresses, ports, Some(owner));
    let mut keys = BTreeSet::new();
    match wanted.iter().all(|(family, map, element)| keys.insert((*family == Family::V4, map, &element.key))) {
        true => Ok(wanted),
        false => Err(CniError::config("portMappings: a host port leads to two ports of the container")),
    }
}

fn udp(elements: &[Wanted]) -> Vec<(Family, u16)> {
    elements.iter().filter_map(|(family, _, element)| Some((*family, hostports::udp_port_of(element)?))).collect()
}

fn publish(socket: &mut Nftables, wanted: &[Wanted], owner: &str) -> Result<(), CniError> {
    let mut add = Transaction::default();
    for (family, map, elements) in by_set(wanted) {
        add.add_new_elements(family, TABLE, map, &elements);
    }
    let outcome = match socket.commit(&add) {
        Err(error) if error.not_found() => {
            install(socket)?;
            socket.commit(&add)
        }
        other => other,
    };
    match outcome {
        Err(error) if error.already_exists() => {
            complain_of_others(socket, wanted, owner, error)?;
            // Those of an ADD of ours that was cut short.
            unpublish(socket, |found| found == owner)?;
            socket.commit(&add).map_err(kernel)
        }
        other => other.map_err(kernel),
    }
}

/// Both families' tables, empty or with what they have.
fn install(socket: &mut Nftables) -> Result<(), CniError> {
    let mut transaction = Transaction::default();
    for family in [Family::V4, Family::V6] {
        hostports::write_table(&mut transaction, family, TABLE);
    }
    socket.commit(&transaction).map_err(kernel)
}

/// A port that leads to another container is not taken from it.
fn complain_of_others(
    socket: &mut Nftables,
    wanted: &[Wanted],
    owner: &str,
    error: NetlinkError,
) -> Result<(), CniError> {
    for (family, map, element) in wanted {
        let present = socket.elements(*family, TABLE, map).map_err(kernel)?;
        let Some(other) = present.iter().find(|other| other.key == element.key) else { continue };
        match other.comment.as_deref() {
            Some(other) if other == owner => {}
            other => {
                let whose = other.unwrap_or("somebody");
                let words: Vec<_> = whose.split(' ').collect();
                let whose = words.get(1).copied().unwrap_or(whose);
                return Err(
                    CniError::of(Code::INTERNAL, &error).context(format!("a host port is in use by container {whose}"))
                );
            }
        }
    }
    Ok(())
}

/// Answers find their way: the links that lead to the container are told to the table.
fn lead_back(socket: &mut Nftables, addresses: &[IpAddr], owner: &str) -> Result<(), CniError> {
    let mut routes = host_socket()?;
    let (mut transaction, mut last) = (Transaction::default(), None::<Link>);
    for address in addresses {
        let family = Family::of(*address);
        let Some(index) = routes.link_to(*address).map_err(kernel)? else { continue };
        let link = match last.take().filter(|last| last.index == index) {
            Some(same) => same,
            None => routes.link(index).map_err(kernel)?,
        };
        if family == Family::V4 {
            sysctl::settle("ipv4", &link.name, "route_localnet", 1, link.sysctls.route_localnet)
                .map_err(|error| CniError::of(Code::IO, &error))?;
        }
        // A bridge is everybody's and stays; a link of the container's own goes with it.
        let comment = (link.kind.as_deref() != Some("bridge")).then(|| owner.to_owned());
        let own = |element: Element| Element { comment: comment.clone(), ..element };
        transaction.add_elements(family, TABLE, LINKS, &[own(hostports::link(&link.name))]);
        transaction.add_elements(family, TABLE, HAIRPIN, &hostports::hairpin(&link.name).map(own));
        last = Some(link);
    }
    socket.commit(&transaction).map_err(kernel)
}

/// Many in one message: each message's answer waits in the socket until all are sent.
fn by_set(wanted: &[Wanted]) -> Vec<(Family, &'static str, Vec<Element>)> {
    let mut sets: Vec<(Family, &'static str, Vec<Element>)> = Vec::new();
    for (family, map, element) in wanted {
        match sets.iter_mut().find(|(f, m, _)| (*f, *m) == (*family, *map)) {
            Some((_, _, elements)) => elements.push(element.clone()),
            None => sets.push((*family, map, vec![element.clone()])),
        }
    }
    sets
}

/// Takes away what owners have that `dead` says so of.
fn unpublish(socket: &mut Nftables, dead: impl Fn(&str) -> bool) -> Result<(), CniError> {
    empty(socket, &[ANY, BOUND, LINKS, HAIRPIN], dead)
}

/// The same of some sets, which are read whole.
fn empty(socket: &mut Nftables, sets: &[&str], dead: impl Fn(&str) -> bool) -> Result<(), CniError> {
    let mut udp_ports = Vec::new();
    for family in [Family::V4, Family::V6] {
        for set in sets {
            let elements = socket.elements(family, TABLE, set).map_err(kernel)?;
            let of_dead = |element: &Element| element.comment.as_deref().is_some_and(&dead);
            let elements: Vec<_> = elements.into_iter().filter(of_dead).collect();
            let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
            take(socket, family, set, &keys).map_err(kernel)?;
            let ports = elements.iter().filter(|_| [ANY, BOUND].contains(set)).filter_map(hostports::udp_port_of);
            udp_ports.extend(ports.map(|port| (family, port)));
        }
    }
    conntrack::forget_udp(socket, &udp_ports).map_err(kernel)
}

/// The ports that an ADD has published, by what DEL is told.
fn known(network: &Network<'_>, owner: &str) -> Result<Vec<Wanted>, CniError> {
    let ports = ports(&network.conf::<Common>()?.runtime_config.port_mappings)?;
    wanted(&addresses(network.previous()?), &ports, owner)
}

/// Takes these away, in one message, however many others there are. False when one is not the owner's: then he may have others.
fn take_known(socket: &mut Nftables, known: &[Wanted], owner: &str) -> Result<bool, CniError> {
    let (mut transaction, mut all) = (Transaction::default(), !known.is_empty());
    for (family, map, wanted) in by_set(known) {
        let mut keys = Vec::new();
        for Element { key, .. } in wanted {
            match socket.element(family, TABLE, map, &key).map_err(kernel)? {
                Some(found) if found.comment.as_deref() == Some(owner) => keys.push(key),
                _ => all = false,
            }
        }
        if !keys.is_empty() {
            transaction.delete_elements(family, TABLE, map, &keys);
        }
    }
    match socket.commit(&transaction) {
        // Another call was faster with one of them.
        Err(error) if error.not_found() => return Ok(false),
        other => other.map_err(kernel)?,
    }
    conntrack::forget_udp(socket, &udp(known)).map_err(kernel)?;
    Ok(all)
}

fn take(socket: &mut Nftables, family: Family, set: &str, keys: &[Vec<u8>]) -> Result<(), NetlinkError> {
    let delete = |socket: &mut Nftables, keys: &[Vec<u8>]| {
        let mut transaction = Transaction::default();
        transaction.delete_elements(family, TABLE, set, keys);
        socket.commit(&transaction)
    };
    match delete(socket, keys) {
        // Another call was faster with one of them.
        Err(error) if error.not_found() => {
            for key in keys {
                match delete(socket, std::slice::from_ref(key)) {
                    Err(error) if error.not_found() => {}
                    other => other?,
                }
            }
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Interface, IpConfig};

    fn mapping(text: &str) -> PortMapping {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn mappings_are_read() {
        let read = |text: &str| ports(&[mapping(text)]);
        assert_eq!(read(r#"{"hostPort": 0, "containerPort": 80}"#).unwrap(), []);
        let port = read(r#"{"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "::1"}"#).unwrap();
        assert_eq!((port[0].protocol, port[0].host_ip), (Protocol::Udp, "::1".parse().ok()));
        for bad in [
            r#"{"hostPort": 1, "containerPort": 0}"#,
            r#"{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}"#,
            r#"{"hostPort": 1, "containerPort": 1, "hostIP": "localhost"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_containers_own_addresses_are_led_to() {
        let of = |interface, text: &str| IpConfig { interface, ..IpConfig::new(text.parse().unwrap(), None) };
        let result = AddResult {
            interfaces: vec![
                Interface { name: "br0".into(), ..Interface::default() },
                Interface { name: "eth0".into(), sandbox: "/n".into(), ..Interface::default() },
            ],
            ips: vec![of(Some(0), "10.0.0.1/24"), of(Some(1), "10.0.0.2/24"), of(None, "fd00::2/64")],
            ..AddResult::default()
        };
        assert_eq!(addresses(&result).iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.2", "fd00::2"]);
    }

    #[test]
    fn a_port_leads_to_one_place() {
        let two = [r#"{"hostPort": 1, "containerPort": 1}"#, r#"{"hostPort": 1, "containerPort": 2}"#].map(mapping);
        let addresses = ["10.0.0.2".parse().unwrap()];
        assert!(wanted(&addresses, &ports(&two).unwrap(), "o").is_err());
        let v6 = ports(&[mapping(r#"{"hostPort": 1, "containerPort": 1, "hostIP": "::1"}"#)]).unwrap();
        assert!(wanted(&addresses, &v6, "o").is_err());
    }
}
