//! A veth pair: one end in the host, the other in the container, made by one message.

use std::os::fd::AsFd;

use ipnet::IpNet;

use crate::masquerade;
use crate::netlink::{BridgePort, Link, MacAddr, Socket, VethPair, create_veth_pair};
use crate::netns::Netns;
use crate::types::{AddResult, CniError, Code};

use super::link::{self, NAME_ATTEMPTS, delete_host_end, delete_inside, host_name, host_socket, kernel};
use super::request::{Living, Network, Target};

/// What is asked of a pair.
pub(super) struct Pair<'a> {
    pub(super) owner: &'a str,
    pub(super) inside: &'a str,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: u32,
    pub(super) bridge: Option<u32>,
}

/// Makes the pair and returns the host's end, down. A leftover of the same owner is replaced.
pub(super) fn create(socket: &mut Socket, netns: &Netns, pair: &Pair<'_>) -> Result<Link, CniError> {
    for attempt in 0..NAME_ATTEMPTS {
        let name = host_name(pair.owner, attempt);
        let wanted = VethPair {
            name: &name,
            mac: None,
            master: pair.bridge,
            mtu: pair.mtu,
            peer_name: pair.inside,
            peer_mac: pair.mac,
            peer_netns: netns.as_fd(),
        };
        let request = [create_veth_pair(&wanted)];
        match socket.execute(&request) {
            Ok(()) => return socket.link_by_name(&name).map_err(kernel),
            Err(error) if !error.already_exists() => return Err(kernel(error)),
            Err(error) => match socket.link_by_name(&name) {
                Ok(found) if found.alias.as_deref() == Some(pair.owner) => {
                    link::delete(socket, &name)?;
                    socket.execute(&request).map_err(kernel)?;
                    return socket.link_by_name(&name).map_err(kernel);
                }
                Ok(_) => {}
                // Then it is the container's end that is in the way.
                Err(missing) if missing.not_found() => {
                    return Err(kernel(error).context(format!("interface {}", pair.inside)));
                }
                Err(other) => return Err(kernel(other)),
            },
        }
    }
    Err(CniError::new(Code::INTERNAL, "no name is free for the host's end"))
}

/// Deletes the pair, by whichever end is there.
pub(super) fn delete(owner: &str, target: &Target) -> Result<(), CniError> {
    match delete_host_end(&mut host_socket()?, owner)? {
        // And the other end with it.
        true => Ok(()),
        // An interface that another program of the same name made has no such end.
        false => delete_inside(target),
    }
}

/// Masquerades what the addresses of the result send, for their owner.
pub(super) fn masquerade_all(network: &Network<'_>, result: &AddResult, owner: &str) -> Result<(), CniError> {
    network.with_nftables(|socket| masquerade::add_all(socket, &addresses(result), owner).map_err(kernel))
}

/// Masquerades nothing of the owner's any more. What ADD has told of is found by its address; only when that is not all of it
/// everything is read.
pub(super) fn end_masquerade(network: &Network<'_>, owner: &str) -> Result<(), CniError> {
    let known = network.previous.as_ref().map(addresses).unwrap_or_default();
    network.with_nftables(|socket| match masquerade::take(socket, &known, owner).map_err(kernel)? {
        true => Ok(()),
        false => masquerade::remove(socket, |found| found == owner).map_err(kernel),
    })
}

/// Masquerades nothing any more of those who do not live.
pub(super) fn end_dead_masquerade(network: &Network<'_>, living: &Living) -> Result<(), CniError> {
    network.with_nftables(|socket| masquerade::remove(socket, |owner| living.misses(owner)).map_err(kernel))
}

fn addresses(result: &AddResult) -> Vec<IpNet> {
    result.ips.iter().map(|ip| ip.address).collect()
}

/// Undoes what there is of a failed ADD; returns its error.
pub(super) fn take_back(network: &Network<'_>, owner: &str, error: CniError) -> CniError {
    let link = host_socket().and_then(|mut socket| {
        // It may have failed before the link got its alias.
        for attempt in 0..NAME_ATTEMPTS {
            let name = host_name(owner, attempt);
            match socket.link_by_name(&name) {
                Ok(found) if found.alias.is_none() || found.alias.as_deref() == Some(owner) => {
                    return link::delete(&mut socket, &name);
                }
                _ => {}
            }
        }
        Ok(())
    });
    let rules = network.with_nftables(|socket| masquerade::remove(socket, |it| it == owner).map_err(kernel));
    match link.and(rules) {
        Ok(()) => error,
        Err(undo) => CniError { msg: format!("{}; and then taking it back failed: {undo}", error.msg), ..error },
    }
}

/// The settings of a bridge's port.
pub(super) fn port(hairpin: bool, isolated: bool) -> BridgePort {
    BridgePort::default().hairpin(hairpin).isolated(isolated)
}
