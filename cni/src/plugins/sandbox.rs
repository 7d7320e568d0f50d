//! The container's side: sysctls, addresses and routes of its interface.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv6Net};

use super::link::kernel;
use crate::netlink::{
    AddressMode, Link, LinkChange, MacAddr, Request, Route, Socket, add_address, add_address_as, add_route, change_link,
};
use crate::sysctl;
use crate::types::{self, AddResult, CniError, Code};

/// What is to be done with an interface that is there, down, without addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup {
    /// In its order, with the index of the interface filled in.
    pub(super) requests: Vec<Request>,
    /// Whether it has IPv6 addresses that have to be checked first.
    pub(super) wait_for_duplicates: bool,
}

/// Whether IPv6 addresses are checked for duplicates (`enabledad`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duplicates {
    Detect,
    Trust,
}

/// The interface goes up and gets its addresses and routes. Pure.
pub(super) fn setup(link: u32, mac: Option<MacAddr>, result: &AddResult, duplicates: Duplicates) -> Setup {
    let mut requests = raise(link, mac, result, duplicates);
    let mode = AddressMode::default().detect_duplicates(duplicates == Duplicates::Detect);
    requests.extend(result.ips.iter().map(|ip| add_address_as(link, ip.address, mode)));
    requests.extend(routes(link, result).iter().map(add_route));
    let has_ipv6 = result.ips_of(false).next().is_some();
    Setup { requests, wait_for_duplicates: has_ipv6 && duplicates == Duplicates::Detect }
}

/// The kernel's own link-local address would be checked for duplicates for a second; one made of an Ethernet address that
/// is known to be unique needs no check.
pub(super) fn raise(link: u32, mac: Option<MacAddr>, result: &AddResult, duplicates: Duplicates) -> Vec<Request> {
    let ipv6 = result.ips_of(false).next().is_some();
    let own = mac.filter(|_| ipv6 && duplicates == Duplicates::Trust);
    let mut requests = Vec::new();
    if own.is_some() {
        requests.push(change_link(link, &LinkChange::NoLinkLocal));
    }
    requests.push(change_link(link, &LinkChange::Up));
    requests.extend(own.map(|mac| add_address(link, Ipv6Net::new_assert(mac.link_local(), 64).into())));
    requests
}

/// The routes, with the gateway of an address of the same family where they name none. Pure.
pub(super) fn routes(link: u32, result: &AddResult) -> Vec<Route> {
    result.routes.iter().map(|route| route_of(link, route, result)).collect()
}

fn route_of(link: u32, route: &types::Route, result: &AddResult) -> Route {
    let v4 = route.dst.addr().is_ipv4();
    // A route that says it is of the link's scope has no gateway.
    let implied =
        || result.ips_of(v4).find_map(|ip| ip.gateway).filter(|_| route.scope.is_none_or(|scope| scope < 253));
    Route {
        table: route.table,
        priority: route.priority,
        scope: route.scope,
        mtu: route.mtu,
        advmss: route.advmss,
        ..Route::new(route.dst, route.gw.or_else(implied), link)
    }
}

/// Prepares the namespace for the interface that has just appeared in it, and carries the setup out. Runs inside.
pub(super) fn apply(socket: &mut Socket, link: &Link, setup: &Setup, result: &AddResult) -> Result<(), CniError> {
    let ipv6 = result.ips_of(false).next().is_some();
    if ipv6 {
        set(link, "disable_ipv6", link.sysctls.disable_ipv6)?;
    }
    // A container learns its routes from its runtime alone: a neighbour's router advertisement must not move its default
    // route (the weakness of CVE-2020-10749).
    set(link, "accept_ra", link.sysctls.accept_ra)?;
    socket.execute(&setup.requests).map_err(kernel)?;
    match setup.wait_for_duplicates {
        true => settle(socket, &link.name),
        false => Ok(()),
    }
}

fn set(link: &Link, name: &str, now: Option<i32>) -> Result<(), CniError> {
    sysctl::settle("ipv6", &link.name, name, 0, now).map_err(|error| CniError::of(Code::IO, &error))
}

/// The check takes a second by default, and more when an administrator says so.
const PATIENCE: Duration = Duration::from_secs(10);

fn settle(socket: &mut Socket, name: &str) -> Result<(), CniError> {
    let link = socket.link_by_name(name).map_err(kernel)?.index;
    let end = Instant::now() + PATIENCE;
    loop {
        let addresses = socket.addresses().map_err(kernel)?;
        let mut of_link = addresses.iter().filter(|address| address.link == link);
        if let Some(twice) = of_link.clone().find(|address| address.duplicate) {
            let reason = format!("address {} of {name}: another host has it", twice.net);
            return Err(CniError::new(Code::INTERNAL, reason));
        }
        let Some(open) = of_link.find(|address| address.tentative) else { return Ok(()) };
        if Instant::now() >= end {
            let reason = format!("address {} of {name}: the check for duplicates does not end", open.net);
            return Err(CniError::new(Code::INTERNAL, reason));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What CHECK asks of the interface: it is there, with the Ethernet address, the addresses and the routes of the result.
pub(super) fn check(socket: &mut Socket, name: &str, result: &AddResult) -> Result<Link, CniError> {
    let wrong = |reason: String| CniError::new(Code::INTERNAL, format!("{name}: {reason}"));
    let link = match socket.link_by_name(name) {
        Err(error) if error.not_found() => return Err(wrong("is not there".into())),
        other => other.map_err(kernel)?,
    };
    let expected = result.interfaces.iter().position(|one| one.name == name && !one.sandbox.is_empty());
    let Some(index) = expected else { return Err(wrong("the result does not have it".into())) };
    let (mac, found) = (&result.interfaces[index].mac, link.mac.map(|mac| mac.to_string()).unwrap_or_default());
    if !mac.is_empty() && !mac.eq_ignore_ascii_case(&found) {
        return Err(wrong(format!("its Ethernet address is {found} and was {mac}")));
    }
    if !link.up {
        return Err(wrong("is down".into()));
    }
    let addresses = socket.addresses().map_err(kernel)?;
    let has = |net: IpNet| addresses.iter().any(|address| address.link == link.index && address.net == net);
    if let Some(ip) = result.ips.iter().find(|ip| ip.interface == Some(index) && !has(ip.address)) {
        return Err(wrong(format!("address {} is not there", ip.address)));
    }
    let present = socket.routes().map_err(kernel)?;
    let has = |route: &Route| {
        let same = |other: &&Route| (other.destination, other.gateway) == (route.destination.trunc(), route.gateway);
        present.iter().filter(|other| other.link == link.index).any(|other| same(&other))
    };
    // Other tables are not listed.
    let mut expected = routes(link.index, result).into_iter().filter(|route| route.table.is_none());
    if let Some(route) = expected.find(|route| !has(route)) {
        let by = route.gateway.map(|gateway: IpAddr| format!(" by {gateway}")).unwrap_or_default();
        return Err(wrong(format!("the route to {}{by} is not there", route.destination)));
    }
    Ok(link)
}
