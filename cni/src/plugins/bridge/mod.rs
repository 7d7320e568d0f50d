//! `bridge`: a veth pair between the container and a bridge of the host.
//!
//! This file: the verbs. `conf`: what may be configured. `plan`: which addresses and routes follow from it, pure.
//! `host`: the bridge itself.

mod conf;
mod host;
mod plan;

use self::conf::Conf;
use super::link::{NAME_ATTEMPTS, asked_mac, delete_dead, describe, host_name, host_socket, inside, kernel, mac_of};
use super::request::{Common, Living, Network, Target};
use super::sandbox::{self, Duplicates};
use super::veth::{self, Pair};
use super::{Plugin, delegate};
use crate::masquerade;
use crate::netlink::{Socket, configure_port, raise_link};
use crate::netns::Netns;
use crate::types::{AddResult, CniError, Code, Command, Interface};

pub(super) struct Bridge;

impl Plugin for Bridge {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let conf = Conf::read(network)?;
        let mac = asked_mac(&network.conf::<Common>()?, &conf.mac, target)?;
        let (owner, netns) = (network.owner(target)?, target.netns()?);
        delegate::refuse_second(network, &owner)?;
        let leased = delegate::add(network)?.unwrap_or_default();
        let made = connect(network, &conf, &owner, target, &netns, mac, leased.clone());
        made.map_err(|error| delegate::undo(network, &leased, veth::take_back(network, &owner, error)))
    }

    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let owner = network.owner(target)?;
        veth::delete(&owner, target)?;
        veth::end_masquerade(network, &owner)?;
        delegate::del(network)
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let conf = Conf::read(network)?;
        let result = network.previous()?;
        delegate::pass_on(network, Command::Check)?;
        let (name, owner) = (target.interface.as_str(), network.owner(target)?);
        inside(&target.netns()?, |socket| sandbox::check(socket, name, result))?;
        let mut socket = host_socket()?;
        host::check(&mut socket, &conf, &host_end(&owner, result), result)?;
        if conf.ip_masq {
            network.with_nftables(|socket| {
                for ip in &result.ips {
                    if !masquerade::has(socket, ip.address, &owner).map_err(kernel)? {
                        return Err(CniError::new(Code::INTERNAL, format!("{} is not masqueraded", ip.address)));
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn gc(&self, network: &Network<'_>, living: &Living) -> Result<(), CniError> {
        delete_dead(&mut host_socket()?, living)?;
        veth::end_dead_masquerade(network, living)?;
        delegate::pass_on(network, Command::Gc)
    }

    fn status(&self, network: &Network<'_>) -> Result<(), CniError> {
        Conf::read(network)?;
        delegate::pass_on(network, Command::Status)
    }
}

/// Everything but the addresses' leases.
fn connect(
    network: &Network<'_>,
    conf: &Conf,
    owner: &str,
    target: &Target,
    netns: &Netns,
    mac: Option<crate::netlink::MacAddr>,
    leased: AddResult,
) -> Result<AddResult, CniError> {
    let plan = plan::plan(conf, leased)?;
    let mac = mac.or_else(|| mac_of(&plan.result));
    let mut socket = host_socket()?;
    let bridge = host::ensure(&mut socket, conf, &plan.gateways)?;
    let name = target.interface.as_str();
    let pair = Pair { owner, inside: name, mac, mtu: bridge.mtu, bridge: Some(bridge.index) };
    let port = veth::create(&mut socket, netns, &pair)?;
    // A batch does not stop at a refusal: raised is what is settled.
    let settings = veth::port(conf.hairpin_mode, conf.port_isolation);
    socket.execute(&[configure_port(&port.name, owner, settings), raise_link(&port.name)]).map_err(kernel)?;

    let duplicates = if conf.enable_dad { Duplicates::Detect } else { Duplicates::Trust };
    let found = inside(netns, |socket: &mut Socket| {
        let link = socket.link_by_name(name).map_err(kernel)?;
        if conf.disable_container_interface {
            // Whoever comes next in the chain raises it.
            return Ok(link);
        }
        let setup = sandbox::setup(link.index, link.mac, &plan.result, duplicates);
        sandbox::apply(socket, &link, &setup, &plan.result)?;
        Ok(link)
    })?;
    if conf.ip_masq {
        veth::masquerade_all(network, &plan.result, owner)?;
    }
    let sandbox = netns.path().display().to_string();
    let mut result = plan.result;
    for ip in &mut result.ips {
        ip.interface = Some(2);
    }
    result.interfaces = vec![describe(&bridge, ""), describe(&port, ""), describe(&found, &sandbox)];
    Ok(result)
}

/// The host's end in a result: the one that has the name that the owner's would have, or the second interface, where another
/// program has put it.
fn host_end(owner: &str, result: &AddResult) -> String {
    let names: Vec<_> = (0..NAME_ATTEMPTS).map(|attempt| host_name(owner, attempt)).collect();
    let hosts = || result.interfaces.iter().filter(|one| one.sandbox.is_empty());
    let found: Option<&Interface> = hosts().find(|one| names.contains(&one.name)).or_else(|| hosts().nth(1));
    found.map(|one| one.name.clone()).unwrap_or_default()
}
