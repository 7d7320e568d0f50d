//! Links as plugins name, find and delete them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ipam::Range;
use crate::netlink::{MacAddr, NetlinkError, Socket, delete_link};
use crate::netns::Netns;
use crate::nftables::Family;
use crate::sysctl::{self, SysctlError};
use crate::types::{AddResult, CniError, Code, Interface};

use super::request::{Common, Living, Target, netns_error};

pub(super) fn kernel(error: NetlinkError) -> CniError {
    CniError::of(Code::INTERNAL, &error)
}

pub(super) fn host_socket() -> Result<Socket, CniError> {
    Socket::open().map_err(kernel)
}

/// The host passes on what its pods of these addresses send. Asked of the kernel first: see [`crate::netlink::LinkSysctls`].
pub(super) fn forward(socket: &mut Socket, addresses: impl Iterator<Item = IpAddr>) -> Result<(), SysctlError> {
    let families: Vec<Family> = addresses.map(Family::of).collect();
    if families.contains(&Family::V4) && !socket.forwards(Family::V4).unwrap_or(false) {
        sysctl::forward_ipv4()?;
    }
    if families.contains(&Family::V6) && !socket.forwards(Family::V6).unwrap_or(false) {
        sysctl::forward_ipv6()?;
    }
    Ok(())
}

/// How many names are tried for a host's end before giving up.
pub(super) const NAME_ATTEMPTS: u32 = 8;

/// The name of a veth's end in the host: the same whenever it is asked for, so that DEL finds it when everything else is
/// gone.
pub(super) fn host_name(owner: &str, attempt: u32) -> String {
    format!("veth{:08x}", short_hash(&[owner, &attempt.to_string()]))
}

/// FNV-1a, folded to 32 bits: it must stay the same for ever, and what collides is told apart by the alias.
pub(super) fn short_hash(parts: &[&str]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 32) as u32 ^ hash as u32
}

/// Deletes the owner's link in the host. False when there is none.
pub(super) fn delete_host_end(socket: &mut Socket, owner: &str) -> Result<bool, CniError> {
    for attempt in 0..NAME_ATTEMPTS {
        match socket.link_by_name(&host_name(owner, attempt)) {
            Ok(link) if link.alias.as_deref() == Some(owner) => return delete(socket, &link.name).map(|()| true),
            Ok(_) => {}
            Err(error) if error.not_found() => return Ok(false),
            Err(error) => return Err(kernel(error)),
        }
    }
    Ok(false)
}

/// Deletes the veths in the host whose owner does not live.
pub(super) fn delete_dead(socket: &mut Socket, living: &Living) -> Result<(), CniError> {
    for link in socket.links(None).map_err(kernel)? {
        let dead = link.alias.as_deref().is_some_and(|alias| living.misses(alias));
        if dead && link.kind.as_deref() == Some("veth") {
            delete(socket, &link.name)?;
        }
    }
    Ok(())
}

/// Deletes a link by its name; no error when it is gone.
pub(super) fn delete(socket: &mut Socket, name: &str) -> Result<(), CniError> {
    match socket.execute(&[delete_link(name)]) {
        Err(error) if !error.not_found() => Err(kernel(error)),
        _ => Ok(()),
    }
}

/// Deletes the target's link inside its namespace, if both are there.
pub(super) fn delete_inside(target: &Target) -> Result<(), CniError> {
    let Some(netns) = target.netns_if_there()? else { return Ok(()) };
    inside(&netns, |socket| delete(socket, target.interface.as_str()))
}

/// Does something with a socket of a namespace, inside it.
pub(super) fn inside<T: Send>(
    netns: &Netns,
    work: impl FnOnce(&mut Socket) -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    netns.enter(|| work(&mut host_socket()?)).map_err(netns_error)?
}

/// The Ethernet address that was asked for: by the runtime, by its arguments, or by the configuration.
pub(super) fn asked_mac(common: &Common, configured: &str, target: &Target) -> Result<Option<MacAddr>, CniError> {
    let given = [common.runtime_config.mac.as_deref(), common.args.cni.mac.as_deref(), target.args.get("MAC")];
    let text = given.into_iter().flatten().chain([configured]).find(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| CniError::of(Code::INVALID_CONFIG, &error))).transpose()
}

/// An Ethernet address made of the first IPv4 address, or else of the first IPv6 one: whoever gets the address next gets the
/// same, so no neighbour's cache is ever wrong.
pub(super) fn mac_of(result: &AddResult) -> Option<MacAddr> {
    let first = |v4: bool| result.ips_of(v4).next().map(|ip| ip.address.addr());
    Some(match first(true).or_else(|| first(false))? {
        IpAddr::V4(v4) => MacAddr::of_ipv4(v4),
        IpAddr::V6(v6) => MacAddr::of_ipv6(v6),
    })
}

/// The gateway of a subnet that names none: its first host.
pub(super) fn default_gateway(address: IpNet) -> Option<IpAddr> {
    Range::whole(address).ok().map(|range| range.gateway())
}

/// A link, for a result.
pub(super) fn describe(link: &crate::netlink::Link, sandbox: &str) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: link.mtu,
        sandbox: sandbox.into(),
        ..Interface::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_ever() {
        assert_eq!(short_hash(&["net c1 eth0", "0"]), 0x0995_f12f);
        assert_ne!(short_hash(&["a", "b"]), short_hash(&["ab"]));
    }
}
