//! `ptp`: a veth pair between the container and the host, with a route to each other and no bridge.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::link::{default_gateway, delete_dead, describe, host_socket, inside, kernel};
use super::request::{Living, Network, Target};
use super::sandbox::{self, Duplicates, Setup};
use super::veth::{self, Pair};
use super::{Plugin, delegate};
use crate::netlink::{
    AddressMode, Link, LinkChange, Request, Route, Socket, add_address, add_address_as, add_route, change_link,
};
use crate::netns::Netns;
use crate::sysctl;
use crate::types::{AddResult, CniError, Code, Command, Dns};

pub(super) struct Ptp;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conf {
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    /// 0: the kernel's choice.
    mtu: u32,
    dns: Dns,
}

const DEFAULT_MTU: u32 = 1500;

impl Conf {
    fn read(network: &Network<'_>) -> Result<Self, CniError> {
        let conf: Self = network.conf()?;
        match conf.ip_masq_backend.as_deref() {
            None | Some("nftables") => Ok(conf),
            Some(other) => {
                let msg = format!("ipMasqBackend: {other:?} is not supported by this plugin");
                Err(CniError::new(Code::UNSUPPORTED_FIELD, msg))
            }
        }
    }
}

impl Plugin for Ptp {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let conf = Conf::read(network)?;
        let (owner, netns) = (network.owner(target)?, target.netns()?);
        delegate::refuse_second(network, &owner)?;
        let leased = delegate::add(network)?.ok_or_else(|| CniError::config("ipam: ptp needs addresses"))?;
        connect(network, &conf, &owner, target, &netns, leased.clone())
            .map_err(|error| delegate::undo(network, &leased, veth::take_back(network, &owner, error)))
    }

    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let owner = network.owner(target)?;
        veth::delete(&owner, target)?;
        veth::end_masquerade(network, &owner)?;
        delegate::del(network)
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let result = network.previous()?;
        delegate::pass_on(network, Command::Check)?;
        let name = target.interface.as_str();
        inside(&target.netns()?, |socket| sandbox::check(socket, name, result))?;
        let host = result.interfaces.iter().find(|one| one.sandbox.is_empty());
        let Some(host) = host else { return Err(CniError::new(Code::INTERNAL, "the result has no host's end")) };
        let mut socket = host_socket()?;
        let link = match socket.link_by_name(&host.name) {
            Err(error) if error.not_found() => {
                return Err(CniError::new(Code::INTERNAL, format!("{}: is not there", host.name)));
            }
            other => other.map_err(kernel)?,
        };
        let routes = socket.routes().map_err(kernel)?;
        let has = |ip: IpAddr| routes.iter().any(|it| it.link == link.index && it.destination == IpNet::from(ip));
        match result.ips.iter().find(|ip| !has(ip.address.addr())) {
            None => Ok(()),
            Some(ip) => Err(CniError::new(Code::INTERNAL, format!("{}: no route to {}", link.name, ip.address.addr()))),
        }
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

fn connect(
    network: &Network<'_>,
    conf: &Conf,
    owner: &str,
    target: &Target,
    netns: &Netns,
    leased: AddResult,
) -> Result<AddResult, CniError> {
    let mut result = with_gateways(leased)?;
    if !conf.dns.is_empty() {
        result.dns = conf.dns.clone();
    }
    let name = target.interface.as_str();
    let mtu = if conf.mtu == 0 { DEFAULT_MTU } else { conf.mtu };
    let mac = super::link::mac_of(&result);
    let mut socket = host_socket()?;
    let pair = Pair { owner, inside: name, mac, mtu, bridge: None };
    let host = veth::create(&mut socket, netns, &pair)?;
    socket.execute(&[change_link(host.index, &LinkChange::Alias(owner.into()))]).map_err(kernel)?;
    forward(&mut socket, &host, &result).map_err(|error| CniError::of(Code::IO, &error))?;
    socket.execute(&host_side(&host, &result)).map_err(kernel)?;

    let found = inside(netns, |socket: &mut Socket| {
        let link = socket.link_by_name(name).map_err(kernel)?;
        let setup = container_side(&link, &result);
        sandbox::apply(socket, &link, &setup, &result)?;
        Ok(link)
    })?;
    if conf.ip_masq {
        veth::masquerade_all(network, &result, owner)?;
    }
    for ip in &mut result.ips {
        ip.interface = Some(1);
    }
    result.interfaces = vec![describe(&host, ""), describe(&found, &netns.path().display().to_string())];
    Ok(result)
}

/// Every address has a gateway, which the host's end has: by default the first host.
fn with_gateways(leased: AddResult) -> Result<AddResult, CniError> {
    let mut result = leased;
    for ip in &mut result.ips {
        match ip.gateway.or_else(|| default_gateway(ip.address)).filter(|gateway| *gateway != ip.address.addr()) {
            Some(gateway) => ip.gateway = Some(gateway),
            None => return Err(CniError::config(format!("{} leaves no address for the gateway", ip.address))),
        }
    }
    Ok(result)
}

/// The host is a router between the pairs.
fn forward(socket: &mut Socket, host: &Link, result: &AddResult) -> Result<(), sysctl::SysctlError> {
    super::link::forward(socket, result.ips.iter().map(|ip| ip.address.addr()))?;
    if result.ips_of(false).next().is_some() {
        sysctl::settle("ipv6", &host.name, "disable_ipv6", 0, host.sysctls.disable_ipv6)?;
    }
    sysctl::settle("ipv6", &host.name, "accept_ra", 0, host.sysctls.accept_ra)
}

/// The host's end has the gateways' addresses, alone, and a route to each of the container's. Pure.
fn host_side(host: &Link, result: &AddResult) -> Vec<Request> {
    let mut batch = vec![change_link(host.index, &LinkChange::Up)];
    let gateways = result.ips.iter().filter_map(|ip| ip.gateway).map(IpNet::from);
    batch.extend(gateways.map(|gateway| add_address(host.index, gateway)));
    let pods = result.ips.iter().map(|ip| IpNet::from(ip.address.addr()));
    batch.extend(pods.map(|pod| add_route(&Route::new(pod, None, host.index))));
    batch
}

/// Only the gateway is on the container's link: the rest of its subnet is behind the gateway. Pure.
fn container_side(link: &Link, result: &AddResult) -> Setup {
    let mut requests = sandbox::raise(link.index, link.mac, result, Duplicates::Trust);
    let mode = AddressMode::default().no_prefix_route(true);
    requests.extend(result.ips.iter().map(|ip| add_address_as(link.index, ip.address, mode)));
    for ip in &result.ips {
        let source = Some(ip.address.addr());
        let Some(gateway) = ip.gateway else { continue };
        let to_gateway = Route { source, ..Route::new(IpNet::from(gateway), None, link.index) };
        let subnet = Route { source, ..Route::new(ip.address.trunc(), Some(gateway), link.index) };
        requests.extend([add_route(&to_gateway), add_route(&subnet)]);
    }
    requests.extend(sandbox::routes(link.index, result).iter().map(add_route));
    Setup { requests, wait_for_duplicates: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::IpConfig;

    #[test]
    fn a_gateway_is_the_first_host_unless_named() {
        let ip = |address: &str, gateway: &str| IpConfig::new(address.parse().unwrap(), gateway.parse().ok());
        let leased = |ips| AddResult { ips, ..AddResult::default() };
        let result = with_gateways(leased(vec![ip("10.1.0.5/24", ""), ip("fd00::5/64", "fd00::9")])).unwrap();
        let gateways: Vec<_> = result.ips.iter().map(|ip| ip.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.1.0.1", "fd00::9"]);
        assert!(with_gateways(leased(vec![ip("10.1.0.1/24", "")])).is_err());
        assert!(with_gateways(leased(vec![ip("10.1.0.1/32", "")])).is_err());
    }
}
