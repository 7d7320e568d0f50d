//! The bridge itself.

use std::fs::File;
use std::io::Read;

use ipnet::IpNet;

use super::conf::Conf;
use super::plan;
use crate::netlink::{
    self, Link, LinkChange, MacAddr, Socket, add_address, change_link, create_bridge, remove_address,
};
use crate::plugins::link::{forward, kernel};
use crate::sysctl::{self, SysctlError};
use crate::types::{AddResult, CniError, Code};

const DEFAULT_MTU: u32 = 1500;

/// Makes the bridge be there, up, with the gateways' addresses.
pub(super) fn ensure(socket: &mut Socket, conf: &Conf, gateways: &[IpNet]) -> Result<Link, CniError> {
    let bridge = find_or_make(socket, conf)?;
    let mut batch = Vec::new();
    if !bridge.up {
        batch.push(change_link(bridge.index, &LinkChange::Up));
    }
    if conf.mtu != 0 && conf.mtu != bridge.mtu {
        batch.push(change_link(bridge.index, &LinkChange::Mtu(conf.mtu)));
    }
    if conf.promisc_mode && !bridge.promiscuous {
        batch.push(change_link(bridge.index, &LinkChange::Promiscuous(true)));
    }
    if !gateways.is_empty() {
        batch.extend(addresses(socket, conf, &bridge, gateways)?);
    }
    socket.execute(&batch).map_err(kernel)?;
    let of_gateways = gateways.iter().map(IpNet::addr);
    forward(socket, of_gateways).map_err(|error| CniError::of(Code::IO, &error))?;
    socket.link(bridge.index).map_err(kernel)
}

fn find_or_make(socket: &mut Socket, conf: &Conf) -> Result<Link, CniError> {
    let name = conf.bridge.as_str();
    for _ in 0..2 {
        match socket.link_by_name(name) {
            Ok(link) if link.kind.as_deref() == Some("bridge") => return Ok(link),
            Ok(link) => {
                let kind = link.kind.as_deref().unwrap_or("a device");
                return Err(CniError::config(format!("bridge: {name} is there and is no bridge but {kind}")));
            }
            Err(error) if error.not_found() => {}
            Err(error) => return Err(kernel(error)),
        }
        let mtu = if conf.mtu == 0 { DEFAULT_MTU } else { conf.mtu };
        let made = socket.execute(&[create_bridge(&netlink::Bridge { name, mac: random_mac()?, mtu })]);
        match made {
            Ok(()) => settle_ipv6(name).map_err(|error| CniError::of(Code::IO, &error))?,
            // Another call was faster.
            Err(error) if error.already_exists() => {}
            Err(error) => return Err(kernel(error)),
        }
    }
    socket.link_by_name(name).map_err(kernel)
}

/// Fixed from the start: the kernel would otherwise change it with the ports.
fn random_mac() -> Result<MacAddr, CniError> {
    let mut bytes = [0; 5];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.map_err(|error| CniError::of(Code::IO, &error).context("/dev/urandom"))?;
    Ok(MacAddr::local(bytes))
}

/// The bridge is a router: it takes no advertisements, and its addresses are known to be unique.
fn settle_ipv6(bridge: &str) -> Result<(), SysctlError> {
    ["accept_ra", "accept_dad"].iter().try_for_each(|name| sysctl::set_of("ipv6", bridge, name, "0"))
}

fn addresses(
    socket: &mut Socket,
    conf: &Conf,
    bridge: &Link,
    gateways: &[IpNet],
) -> Result<Vec<netlink::Request>, CniError> {
    if gateways.iter().any(|net| net.addr().is_ipv6()) {
        let now = bridge.sysctls.disable_ipv6;
        sysctl::settle("ipv6", &bridge.name, "disable_ipv6", 0, now).map_err(|error| CniError::of(Code::IO, &error))?;
    }
    let present = socket.addresses_of(bridge.index).map_err(kernel)?;
    let present: Vec<IpNet> = present.iter().map(|it| it.net).collect();
    let mut batch = Vec::new();
    for gateway in gateways.iter().filter(|gateway| !present.contains(gateway)) {
        for other in plan::in_the_way(*gateway, &present) {
            if gateways.contains(&other) {
                continue;
            }
            if !conf.force_address {
                let reason = format!("bridge {} has the address {other} and not {gateway}", bridge.name);
                return Err(CniError::config(format!("{reason}: remove it, or set forceAddress")));
            }
            batch.push(remove_address(bridge.index, other));
        }
        batch.push(add_address(bridge.index, *gateway));
    }
    Ok(batch)
}

/// The host's end is a port of the bridge, and the bridge has the gateways' addresses.
pub(super) fn check(socket: &mut Socket, conf: &Conf, port: &str, result: &AddResult) -> Result<(), CniError> {
    let wrong = |reason: String| CniError::new(Code::INTERNAL, reason);
    let missing = |name: &str, error: crate::netlink::NetlinkError| match error.not_found() {
        true => wrong(format!("{name}: is not there")),
        false => kernel(error),
    };
    let bridge = socket.link_by_name(&conf.bridge).map_err(|error| missing(&conf.bridge, error))?;
    let port = socket.link_by_name(port).map_err(|error| missing(port, error))?;
    if port.master != Some(bridge.index) {
        return Err(wrong(format!("{}: is no port of {}", port.name, bridge.name)));
    }
    if !port.up || !bridge.up {
        return Err(wrong(format!("{} or {}: is down", port.name, bridge.name)));
    }
    if !conf.is_gateway {
        return Ok(());
    }
    let addresses = socket.addresses().map_err(kernel)?;
    let has = |gateway| addresses.iter().any(|it| it.link == bridge.index && it.net.addr() == gateway);
    match result.ips.iter().filter_map(|ip| ip.gateway).find(|gateway| !has(*gateway)) {
        Some(gateway) => Err(wrong(format!("{}: does not have the address {gateway}", bridge.name))),
        None => Ok(()),
    }
}
