//! The host's side: bridge, gateway addresses, forwarding, masquerade. Every step may find its work done already.

use std::fs;
use std::path::Path;

use cni::firewall::{Chain, Family, Firewall};
use cni::netlink::{
    Address, Bridge, Link, LinkChange, MacAddr, Socket, add_address, change_link, create_bridge, remove_address,
};
use cni::sysctl;
use ipnet::IpNet;

use super::subnets::{Subnets, machine_bytes};
use super::{NetworkConfig, NetworkError};

/// Marks the bridge as ours: only then are addresses taken off it.
const BRIDGE_ALIAS: &str = "berth pod network";
/// When no default route tells.
const DEFAULT_MTU: u32 = 1500;

/// The bridge as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BridgeState {
    /// Its index.
    pub(super) index: u32,
    /// Of the bridge and of every veth.
    pub(super) mtu: u32,
}

/// The machine's id (machine-id(5)), or what else does not change while the machine is up.
pub(super) fn machine_id() -> String {
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/random/boot_id"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// Whether the host uses IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}

/// Makes the bridge and its addresses be as they should.
///
/// An address of the bridge that is no gateway any more stays as long as a pod has an address beside it: `in_use`.
pub(super) fn assert_bridge(
    socket: &mut Socket,
    config: &NetworkConfig,
    subnets: &Subnets,
    in_use: impl Fn(IpNet) -> bool,
) -> Result<(BridgeState, Vec<IpNet>), NetworkError> {
    check_name(&config.bridge)?;
    let addresses = socket.addresses()?;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => uplink_mtu(socket)?,
    };
    let bridge = find_or_make(socket, config, mtu)?;
    check_overlap(socket, &addresses, &bridge, subnets)?;
    settle_ipv6(&config.bridge)?;

    let mut batch = vec![change_link(bridge.index, &LinkChange::Mtu(mtu)), change_link(bridge.index, &LinkChange::Up)];
    batch.extend(subnets.gateways().map(|net| add_address(bridge.index, net)));
    let mut served: Vec<IpNet> = subnets.gateways().map(|net| net.trunc()).collect();
    for old in stale(&addresses, &bridge, subnets) {
        match in_use(old) {
            true => served.push(old.trunc()),
            false if bridge.alias.as_deref() == Some(BRIDGE_ALIAS) => batch.push(remove_address(bridge.index, old)),
            false => {}
        }
    }
    socket.execute(&batch)?;
    Ok((BridgeState { index: bridge.index, mtu }, served))
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    // dev_valid_name() of the kernel, and no character that means something in an iptables rule.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=15).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['-', '.']) {
        return Ok(());
    }
    let reason = "is no interface name: 1 to 15 letters, digits, '-', '_' or '.'".into();
    Err(NetworkError::Bridge { name: name.into(), reason })
}

fn find_or_make(socket: &mut Socket, config: &NetworkConfig, mtu: u32) -> Result<Link, NetworkError> {
    match socket.link_by_name(&config.bridge) {
        Ok(link) if link.kind.as_deref() == Some("bridge") => return Ok(link),
        Ok(link) => {
            let reason = format!("is there and is no bridge but {}", link.kind.as_deref().unwrap_or("a device"));
            return Err(NetworkError::Bridge { name: config.bridge.clone(), reason });
        }
        Err(error) if error.not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let mac = MacAddr::local(machine_bytes(&machine_id(), &config.bridge));
    socket.execute(&[create_bridge(&Bridge { name: &config.bridge, mac, mtu })])?;
    let index = socket.link_by_name(&config.bridge)?.index;
    socket.execute(&[change_link(index, &LinkChange::Alias(BRIDGE_ALIAS.into()))])?;
    Ok(socket.link(index)?)
}

/// The pod subnets must be nobody else's: podman and docker choose from the same private addresses.
fn check_overlap(
    socket: &mut Socket,
    addresses: &[Address],
    bridge: &Link,
    subnets: &Subnets,
) -> Result<(), NetworkError> {
    for subnet in subnets.gateways().map(|net| net.trunc()) {
        let overlaps = |other: IpNet| other.contains(&subnet) || subnet.contains(&other);
        if let Some(other) = addresses.iter().find(|a| a.link != bridge.index && overlaps(a.net.trunc())) {
            let link = socket.link(other.link).map_or_else(|_| format!("link {}", other.link), |link| link.name);
            return Err(NetworkError::Overlap { subnet, other: other.net, link });
        }
    }
    Ok(())
}

/// Addresses that earlier subnets left on the bridge.
fn stale(addresses: &[Address], bridge: &Link, subnets: &Subnets) -> Vec<IpNet> {
    let link_local = |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.addr().is_unicast_link_local());
    let current: Vec<_> = subnets.gateways().collect();
    addresses
        .iter()
        .filter(|address| address.link == bridge.index)
        .map(|address| address.net)
        .filter(|net| !link_local(net) && !current.contains(net))
        .collect()
}

/// What the default route's link takes, so that no pod sends what the uplink would have to refuse.
fn uplink_mtu(socket: &mut Socket) -> Result<u32, NetworkError> {
    let routes = socket.routes()?;
    let mut uplinks = routes.iter().filter(|route| route.destination.prefix_len() == 0).map(|route| route.link);
    match uplinks.next() {
        Some(index) => Ok(socket.link(index)?.mtu),
        None => Ok(DEFAULT_MTU),
    }
}

/// The bridge is a router: it takes no advertisements, and its addresses are known to be unique.
fn settle_ipv6(bridge: &str) -> Result<(), NetworkError> {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(bridge);
    if !folder.exists() {
        return Ok(());
    }
    for (name, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
        sysctl::set(&folder.join(name), value)?;
    }
    Ok(())
}

/// Whether frames that go from port to port of a bridge pass the host's packet filters, as kube-proxy's rules need it (br_netfilter).
pub(super) fn bridges_are_filtered() -> bool {
    let on = |name: &str| {
        fs::read_to_string(Path::new("/proc/sys/net/bridge").join(name)).is_ok_and(|text| text.trim() == "1")
    };
    on("bridge-nf-call-iptables") && on("bridge-nf-call-ip6tables")
}

/// Packets pass between bridge and uplinks.
pub(super) fn assert_forwarding(subnets: &Subnets) -> Result<(), NetworkError> {
    let any = |v4: bool| subnets.ranges().iter().any(|range| range.gateway().is_ipv4() == v4);
    if any(true) {
        sysctl::forward_ipv4()?;
    }
    if any(false) {
        sysctl::forward_ipv6()?;
    }
    Ok(())
}

/// Masquerade and forwarding rules for every subnet that pods have addresses of.
pub(super) fn assert_firewall(bridge: &str, served: &[IpNet]) -> Result<(), NetworkError> {
    for family in [Family::V4, Family::V6] {
        let nets: Vec<_> = served.iter().filter(|net| net.addr().is_ipv4() == (family == Family::V4)).collect();
        if nets.is_empty() {
            continue;
        }
        let firewall = Firewall::open(family)?;
        firewall.assert(&masquerade(bridge, family, &nets))?;
        firewall.assert(&forward(bridge))?;
    }
    Ok(())
}

/// Only what leaves the pod network gets the host's address: pods see each other, and the host sees pods, as they are.
fn masquerade(bridge: &str, family: Family, nets: &[&IpNet]) -> Chain {
    let multicast = match family {
        Family::V4 => "224.0.0.0/4",
        Family::V6 => "ff00::/8",
    };
    let mut rules: Vec<_> = nets
        .iter()
        .map(|net| format!(r#"-d {net} -m comment --comment "berth: stays in the pod network" -j RETURN"#))
        .collect();
    rules.push(format!(r#"-d {multicast} -m comment --comment "berth: multicast" -j RETURN"#));
    rules.extend(nets.iter().map(|net| {
        format!(r#"-s {net} -m comment --comment "berth: leaves the pod network" -j MASQUERADE --random-fully"#)
    }));
    Chain {
        table: "nat",
        name: format!("BERTH-MASQ-{bridge}"),
        hook: "POSTROUTING",
        condition: r#"-m comment --comment "berth: pod network masquerade""#.into(),
        rules,
    }
}

/// Where the host's policy is to forward nothing, it forwards for pods. Appended, so that an operator's own rules, which
/// come first, stay in force.
fn forward(bridge: &str) -> Chain {
    let rule = |direction: &str, text: &str| format!(r#"{direction} {bridge} -m comment --comment "{text}" -j ACCEPT"#);
    Chain {
        table: "filter",
        name: format!("BERTH-FWD-{bridge}"),
        hook: "FORWARD",
        condition: r#"-m comment --comment "berth: pod network forwarding""#.into(),
        rules: vec![rule("-i", "berth: from pods"), rule("-o", "berth: to pods")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masquerade_spares_every_pod_subnet() {
        let nets = ["10.88.0.0/16", "10.244.1.0/24"].map(|net| net.parse::<IpNet>().unwrap());
        let chain = masquerade("berth0", Family::V4, &nets.iter().collect::<Vec<_>>());
        insta::assert_snapshot!(chain.rules.join("\n"), @r#"
        -d 10.88.0.0/16 -m comment --comment "berth: stays in the pod network" -j RETURN
        -d 10.244.1.0/24 -m comment --comment "berth: stays in the pod network" -j RETURN
        -d 224.0.0.0/4 -m comment --comment "berth: multicast" -j RETURN
        -s 10.88.0.0/16 -m comment --comment "berth: leaves the pod network" -j MASQUERADE --random-fully
        -s 10.244.1.0/24 -m comment --comment "berth: leaves the pod network" -j MASQUERADE --random-fully
        "#);
    }

    #[test]
    fn chain_names_fit() {
        assert!(masquerade(&"b".repeat(15), Family::V6, &[]).name.len() <= 28);
    }

    #[test]
    fn names_that_are_no_interface_are_refused() {
        for bad in ["", "a b", "-j", "b/r", "0123456789abcdef", "br0\n", "..", "b\"r"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("berth0").unwrap();
    }
}
