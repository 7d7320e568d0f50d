//! What others take away: the kernel tells of addresses and packet filter rules that are gone.

use rustix::net::{Protocol, netlink};

use super::NetlinkError;
use super::reply::{Frame, frames};
use super::transport::Transport;

/// rtnetlink(7): changes of addresses, of either family.
const ADDRESS_GROUPS: u32 = libc::RTMGRP_IPV4_IFADDR as u32 | libc::RTMGRP_IPV6_IFADDR as u32;
/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`, as a bit. iptables' rules are rules of nftables, but for its legacy variant's.
const RULE_GROUP: u32 = 1 << (7 - 1);
/// `NFT_MSG_DELTABLE`, `NFT_MSG_DELCHAIN`, `NFT_MSG_DELRULE`, of the subsystem nf_tables. Elements of sets come and go with pods.
const RULE_LOSSES: [u16; 3] = [0x0a02, 0x0a05, 0x0a08];

/// A socket that is told of losses.
#[derive(Debug)]
pub struct Watch {
    transport: Transport,
    losses: &'static [u16],
}

impl Watch {
    /// Addresses of links in the calling thread's network namespace.
    ///
    /// # Errors
    /// socket(2), bind(2).
    pub fn addresses() -> Result<Self, NetlinkError> {
        Self::open(None, ADDRESS_GROUPS, &[libc::RTM_DELADDR])
    }

    /// Tables, chains and rules of nftables.
    ///
    /// # Errors
    /// socket(2), bind(2): EPROTONOSUPPORT without nfnetlink.
    pub fn rules() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::NETFILTER), RULE_GROUP, &RULE_LOSSES)
    }

    fn open(protocol: Option<Protocol>, groups: u32, losses: &'static [u16]) -> Result<Self, NetlinkError> {
        let transport = Transport::open(protocol)?;
        transport.join(groups)?;
        Ok(Self { transport, losses })
    }

    /// Whether something was taken away since this was asked last, unless by the sockets of the `own` ports. Never waits. What the
    /// kernel could not keep for us, or we cannot read, counts as a loss.
    pub fn lost(&mut self, own: &[u32]) -> bool {
        let is_loss = |frame: &Frame<'_>| self.losses.contains(&frame.kind) && !own.contains(&frame.port);
        let mut lost = false;
        while let Some(news) = self.transport.receive_now() {
            let told = news.and_then(|datagram| frames(datagram).ok());
            lost |= told.is_none_or(|frames| frames.iter().any(is_loss));
        }
        lost
    }
}
