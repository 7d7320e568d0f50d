//! A veth pair: one end in the host, the other in the container, made by one message.

use std::os::fd::AsFd;

use crate::masquerade;
use crate::netlink::{BridgePort, Link, MacAddr, Socket, VethPair, create_veth_pair};
use crate::netns::Netns;
use crate::types::{CniError, Code};

use super::link::{NAME_ATTEMPTS, delete, host_name, host_socket, kernel, nftables};

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
                Ok(link) if link.alias.as_deref() == Some(pair.owner) => {
                    delete(socket, &name)?;
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

/// Undoes what there is of a failed ADD; returns its error.
pub(super) fn take_back(owner: &str, error: CniError) -> CniError {
    let link = host_socket().and_then(|mut socket| {
        // It may have failed before the link got its alias.
        for attempt in 0..NAME_ATTEMPTS {
            let name = host_name(owner, attempt);
            match socket.link_by_name(&name) {
                Ok(link) if link.alias.is_none() || link.alias.as_deref() == Some(owner) => {
                    return delete(&mut socket, &name);
                }
                _ => {}
            }
        }
        Ok(())
    });
    let rules = nftables().and_then(|mut socket| masquerade::remove(&mut socket, |it| it == owner).map_err(kernel));
    match link.and(rules) {
        Ok(()) => error,
        Err(undo) => CniError { msg: format!("{}; and then taking it back failed: {undo}", error.msg), ..error },
    }
}

/// The settings of a bridge's port.
pub(super) fn port(hairpin: bool, isolated: bool) -> BridgePort {
    BridgePort::default().hairpin(hairpin).isolated(isolated)
}
