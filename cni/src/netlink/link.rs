//! Links: veth pairs, bridges and their ports.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoIpVlan, InfoKind,
    InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

pub use netlink_packet_route::link::{IpVlanMode, MacVlanMode};

use super::socket::{Request, Socket};
use super::{MacAddr, NetlinkError};

const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its alias: free text that the kernel keeps with it.
    pub alias: Option<String>,
    /// What made it: `bridge`, `veth`, …; none for a device.
    pub kind: Option<String>,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// See [`BridgePort::isolated`].
    pub isolated: bool,
    /// Its Ethernet address, when it has one.
    pub mac: Option<MacAddr>,
    /// Bytes a packet may have.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it takes all frames.
    pub promiscuous: bool,
    /// Whether it takes all multicast frames.
    pub all_multicast: bool,
    /// How many frames may wait to be sent.
    pub queue: u32,
    /// The link that it stands on, or a veth's other end, by the index that it has in its own namespace.
    pub lower: Option<u32>,
    /// Sysctls of it.
    pub sysctls: LinkSysctls,
}

/// A link's sysctls that are told with it, as numbers; none where the kernel does not know the address family on this link. Looking one up
/// in /proc/sys/net takes the longer the more network namespaces there are (all of their entries share one hash chain).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkSysctls {
    /// `net.ipv4.conf.LINK.route_localnet`
    pub route_localnet: Option<i32>,
    /// `net.ipv6.conf.LINK.disable_ipv6`
    pub disable_ipv6: Option<i32>,
    /// `net.ipv6.conf.LINK.accept_ra`
    pub accept_ra: Option<i32>,
}

/// A veth pair, made by one message: the host's end is a port of a bridge, the other end is in its namespace. Both are down:
/// a link that goes up before its IPv6 mode is settled gets an address first, and raising costs no grace period.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// The host's end, at most 15 bytes.
    pub name: &'a str,
    /// The host's end's Ethernet address; random when none.
    pub mac: Option<MacAddr>,
    /// The bridge the host's end becomes a port of.
    pub master: Option<u32>,
    /// Of both ends, in bytes.
    pub mtu: u32,
    /// The other end's name inside its namespace.
    pub peer_name: &'a str,
    /// The other end's Ethernet address; random when none.
    pub peer_mac: Option<MacAddr>,
    /// The network namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
}

/// A bridge to be made.
#[derive(Debug, Clone)]
pub struct Bridge<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Fixed, because the kernel otherwise takes over the lowest address of the ports, and it changes with them.
    pub mac: MacAddr,
    /// In bytes; fixed too, or the bridge follows its smallest port.
    pub mtu: u32,
}

/// Settings of a bridge's port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgePort {
    /// A frame may leave through the port it came in by: a pod reaches itself through its own host port.
    pub hairpin: bool,
    /// The port talks only to ports that are not isolated, and to the bridge itself.
    pub isolated: bool,
}

impl BridgePort {
    /// Sets [`BridgePort::hairpin`].
    pub fn hairpin(mut self, on: bool) -> Self {
        self.hairpin = on;
        self
    }

    /// Sets [`BridgePort::isolated`].
    pub fn isolated(mut self, on: bool) -> Self {
        self.isolated = on;
        self
    }
}

/// A change to a link that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkChange {
    /// Administratively up.
    Up,
    /// Administratively down. Waits for RCU grace periods.
    Down,
    /// The largest packet, in bytes.
    Mtu(u32),
    /// The Ethernet address.
    Mac(MacAddr),
    /// The port's bridge.
    Master(u32),
    /// Free text, kept with the link.
    Alias(String),
    /// All frames are taken, not only those to its own address.
    Promiscuous(bool),
    /// All multicast frames are taken.
    AllMulticast(bool),
    /// How many frames may wait to be sent.
    Queue(u32),
    /// No link-local IPv6 address is made when the link goes up, and so no router is solicited from it.
    NoLinkLocal,
}

/// The message that makes a veth pair.
pub fn create_veth_pair(pair: &VethPair<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(pair.peer_name.into()));
    peer.attributes.push(LinkAttribute::Mtu(pair.mtu));
    peer.attributes.extend(pair.peer_mac.map(address));
    peer.attributes.push(LinkAttribute::NetNsFd(pair.peer_netns.as_raw_fd()));

    let mut host = LinkMessage::default();
    host.attributes.push(LinkAttribute::IfName(pair.name.into()));
    host.attributes.push(LinkAttribute::Mtu(pair.mtu));
    host.attributes.extend(pair.mac.map(address));
    host.attributes.extend(pair.master.map(LinkAttribute::Controller));
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Request {
        what: format!("create veth pair {} and {}", pair.name, pair.peer_name),
        message: RouteNetlinkMessage::NewLink(host),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// A link on top of another one, made in a namespace by one message.
#[derive(Debug)]
pub struct Stacked<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// The index of the link below, in the namespace of the socket.
    pub lower: u32,
    /// What it is.
    pub kind: StackedKind,
    /// Its Ethernet address; the kernel's choice when none.
    pub mac: Option<MacAddr>,
    /// Bytes a packet may have; the lower link's when none.
    pub mtu: Option<u32>,
    /// The namespace that it is made in.
    pub netns: BorrowedFd<'a>,
}

/// What stands on top of another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own names, as ip-link(8) has them")]
pub enum StackedKind {
    MacVlan(MacVlanMode),
    IpVlan(IpVlanMode),
    /// A VLAN of this number.
    Vlan(u16),
}

/// The message that makes it, down.
pub fn create_stacked(stacked: &Stacked<'_>) -> Request {
    let (kind, data) = match stacked.kind {
        StackedKind::MacVlan(mode) => (InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])),
        StackedKind::IpVlan(mode) => (InfoKind::IpVlan, InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)])),
        StackedKind::Vlan(id) => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(id)])),
    };
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(stacked.name.into()));
    link.attributes.push(LinkAttribute::Link(stacked.lower));
    link.attributes.extend(stacked.mac.map(address));
    link.attributes.extend(stacked.mtu.map(LinkAttribute::Mtu));
    link.attributes.push(LinkAttribute::NetNsFd(stacked.netns.as_raw_fd()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    Request {
        what: format!("create {:?} link {} on link {}", stacked.kind, stacked.name, stacked.lower),
        message: RouteNetlinkMessage::NewLink(link),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// The message that makes an intermediate functional block, down: what is redirected to it is sent by its queue.
pub fn create_ifb(name: &str, mtu: u32) -> Request {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    link.attributes.push(LinkAttribute::Mtu(mtu));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
    Request {
        what: format!("create ifb link {name}"),
        message: RouteNetlinkMessage::NewLink(link),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// The message that makes a bridge, up, without spanning tree and without a forwarding delay.
pub fn create_bridge(bridge: &Bridge<'_>) -> Request {
    let mut link = LinkMessage::default();
    raise(&mut link);
    link.attributes.push(LinkAttribute::IfName(bridge.name.into()));
    link.attributes.push(LinkAttribute::Mtu(bridge.mtu));
    link.attributes.push(address(bridge.mac));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::ForwardDelay(0)])),
    ]));
    Request {
        what: format!("create bridge {}", bridge.name),
        message: RouteNetlinkMessage::NewLink(link),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// The message that settles a bridge's port, by name, so that nobody has to ask for its index first: its flags, the link's
/// alias, and no IPv6 address of its own, which no port needs and whose route every change of any link would walk past.
pub fn configure_port(name: &str, alias: &str, port: BridgePort) -> Request {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    link.attributes.push(LinkAttribute::IfAlias(alias.into()));
    link.attributes.push(no_link_local());
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(port.hairpin),
            InfoBridgePort::Isolated(port.isolated),
        ])),
    ]));
    Request {
        what: format!("configure bridge port {name}"),
        // NEWLINK without CREATE changes an existing link, and unlike SETLINK it takes the port's attributes.
        message: RouteNetlinkMessage::NewLink(link),
        flags: 0,
    }
}

/// The message that raises a link by its name.
pub fn raise_link(name: &str) -> Request {
    let mut link = LinkMessage::default();
    raise(&mut link);
    link.attributes.push(LinkAttribute::IfName(name.into()));
    Request { what: format!("raise link {name}"), message: RouteNetlinkMessage::SetLink(link), flags: 0 }
}

/// The message that changes one property of a link.
pub fn change_link(index: u32, change: &LinkChange) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    match change {
        LinkChange::Up => raise(&mut link),
        LinkChange::Down => link.header.change_mask = LinkFlags::Up,
        LinkChange::Mtu(mtu) => link.attributes.push(LinkAttribute::Mtu(*mtu)),
        LinkChange::Mac(mac) => link.attributes.push(address(*mac)),
        LinkChange::Master(master) => link.attributes.push(LinkAttribute::Controller(*master)),
        LinkChange::Alias(alias) => link.attributes.push(LinkAttribute::IfAlias(alias.clone())),
        LinkChange::Promiscuous(on) => flag(&mut link, LinkFlags::Promisc, *on),
        LinkChange::AllMulticast(on) => flag(&mut link, LinkFlags::Allmulti, *on),
        LinkChange::Queue(length) => link.attributes.push(LinkAttribute::TxQueueLen(*length)),
        LinkChange::NoLinkLocal => link.attributes.push(no_link_local()),
    }
    Request { what: format!("set link {index} {change:?}"), message: RouteNetlinkMessage::SetLink(link), flags: 0 }
}

/// The message that deletes a link, and with a veth its other end. Waits for RCU grace periods: where a namespace is
/// about to die anyway, let it take its links along.
pub fn delete_link(name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    Request { what: format!("delete link {name}"), message: RouteNetlinkMessage::DelLink(link), flags: 0 }
}

fn raise(link: &mut LinkMessage) {
    flag(link, LinkFlags::Up, true);
}

fn flag(link: &mut LinkMessage, flag: LinkFlags, on: bool) {
    link.header.flags.set(flag, on);
    link.header.change_mask |= flag;
}

fn no_link_local() -> LinkAttribute {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
}

fn address(mac: MacAddr) -> LinkAttribute {
    LinkAttribute::Address(mac.bytes().to_vec())
}

impl Socket {
    /// The link of an index.
    ///
    /// # Errors
    /// [`NetlinkError::not_found`] when there is none.
    pub fn link(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let mut query = LinkMessage::default();
        query.header.index = index;
        self.get_link(format!("get link {index}"), query)
    }

    /// The link of a name.
    ///
    /// # Errors
    /// [`NetlinkError::not_found`] when there is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfName(name.into()));
        self.get_link(format!("get link {name}"), query)
    }

    /// All links, or only the ports of one bridge.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&mut self, ports_of: Option<u32>) -> Result<Vec<Link>, NetlinkError> {
        let mut query = LinkMessage::default();
        query.attributes.extend(ports_of.map(LinkAttribute::Controller));
        let request = Request { what: "list links".into(), message: RouteNetlinkMessage::GetLink(query), flags: 0 };
        let answers = self.dump(&request)?;
        // Kernels before 4.6 ignore the filter.
        let wanted = |link: &Link| ports_of.is_none() || link.master == ports_of;
        Ok(answers.into_iter().filter_map(link_of).filter(wanted).collect())
    }

    fn get_link(&mut self, what: String, query: LinkMessage) -> Result<Link, NetlinkError> {
        let request = Request { what, message: RouteNetlinkMessage::GetLink(query), flags: 0 };
        let answer = self.get(&request)?;
        link_of(answer).ok_or_else(|| NetlinkError::Malformed { what: request.what, reason: "not a link".into() })
    }
}

fn sysctls_of(specs: &[AfSpecUnspec]) -> LinkSysctls {
    let mut sysctls = LinkSysctls::default();
    for spec in specs {
        match spec {
            AfSpecUnspec::Inet(v4) => {
                for one in v4 {
                    if let AfSpecInet::DevConf(conf) = one {
                        sysctls.route_localnet = Some(conf.route_localnet);
                    }
                }
            }
            AfSpecUnspec::Inet6(v6) => {
                for one in v6 {
                    if let AfSpecInet6::DevConf(conf) = one {
                        sysctls.disable_ipv6 = Some(conf.disable_ipv6);
                        sysctls.accept_ra = Some(conf.accept_ra);
                    }
                }
            }
            _ => {}
        }
    }
    sysctls
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        kind: None,
        master: None,
        isolated: false,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        promiscuous: message.header.flags.contains(LinkFlags::Promisc),
        all_multicast: message.header.flags.contains(LinkFlags::Allmulti),
        queue: 0,
        lower: None,
        sysctls: LinkSysctls::default(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(length) => link.queue = length,
            LinkAttribute::Link(index) => link.lower = Some(index).filter(|index| *index != 0),
            LinkAttribute::AfSpecUnspec(specs) => link.sysctls = sysctls_of(&specs),
            LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddr::new),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                            link.isolated = port.contains(&InfoBridgePort::Isolated(true));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}
