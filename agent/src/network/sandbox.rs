//! A pod's side: its interface, addresses and routes.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use cni::netlink::{
    LOOPBACK_INDEX, LinkChange, MacAddr, NetlinkError, Request, Route, Socket, add_address, add_route, change_link,
};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::NetworkError;

/// The name of a pod's interface.
pub const POD_INTERFACE: &str = "eth0";

/// A pod learns its routes from the agent alone; a neighbour's router advertisement must not move its default route (the weakness of
/// CVE-2020-10749).
const SYSCTLS: &[(&str, &str)] = &[("net.ipv6.conf.all.accept_ra", "0"), ("net.ipv6.conf.default.accept_ra", "0")];

/// Where pods are kept apart, their ways to each other lead by the node alone, which would tell them of the direct one.
const ISOLATED_SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
];

/// Sysctls for a fresh pod namespace, before [`PodNetwork::add`](super::PodNetwork::add): its interface takes them over when it
/// appears. `icc`: whether pods reach each other.
pub fn pod_sysctls(icc: bool) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    SYSCTLS.iter().chain(if icc { &[][..] } else { ISOLATED_SYSCTLS })
}

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The interface in the pod: `eth0`.
    pub interface: String,
    /// Its other end in the host.
    pub host_interface: String,
    /// The pod's Ethernet address.
    pub mac: String,
    /// Bytes a packet may have.
    pub mtu: u32,
    /// The primary address first; at most one of each address family.
    pub addresses: Vec<IpNet>,
    /// The default gateways, in the order of the addresses.
    pub gateways: Vec<IpAddr>,
}

impl Attachment {
    /// The addresses without their prefix lengths, the primary one first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// A pod without a network has a working `lo` all the same.
///
/// # Errors
/// When `netlink` is no NETLINK_ROUTE socket or the kernel refuses.
pub async fn loopback_up(netlink: OwnedFd) -> Result<(), NetworkError> {
    tokio::task::spawn_blocking(move || {
        Socket::from_fd(netlink)?.execute(&[change_link(LOOPBACK_INDEX, &LinkChange::Up)])?;
        Ok(())
    })
    .await?
}

/// Raises `lo` and the interface and gives it its addresses and routes: one question for its index, one batch.
pub(super) fn configure(pod: &mut Socket, mac: MacAddr, attachment: &Attachment) -> Result<(), NetlinkError> {
    let link = pod.link_by_name(POD_INTERFACE)?.index;
    pod.execute(&batch(link, mac, attachment))
}

fn batch(link: u32, mac: MacAddr, attachment: &Attachment) -> Vec<Request> {
    let ipv6 = attachment.addresses.iter().any(|net| net.addr().is_ipv6());
    let mut batch = vec![change_link(LOOPBACK_INDEX, &LinkChange::Up)];
    if ipv6 {
        // The kernel's own link-local address would be checked for duplicates for a second; ours is known to be unique.
        batch.push(change_link(link, &LinkChange::NoLinkLocal));
    }
    batch.push(change_link(link, &LinkChange::Up));
    if ipv6 {
        batch.push(add_address(link, Ipv6Net::new_assert(mac.link_local(), 64).into()));
    }
    batch.extend(attachment.addresses.iter().map(|net| add_address(link, *net)));
    // A pod that is kept apart has an address and no subnet: the way to its gateway has to be told.
    let far =
        attachment.gateways.iter().filter(|gateway| !attachment.addresses.iter().any(|net| net.contains(*gateway)));
    batch.extend(far.map(|gateway| add_route(&Route::new(IpNet::from(*gateway), None, link))));
    batch.extend(
        attachment
            .gateways
            .iter()
            .map(|gateway| add_route(&Route::new(Route::everywhere(gateway.is_ipv4()), Some(*gateway), link))),
    );
    batch
}
