//! Addresses of links.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkError;
use super::socket::{Request, Socket};

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

/// An address that a link has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address with its prefix length, host bits kept.
    pub net: IpNet,
    /// It is not known yet whether another host has it (IPv6, duplicate address detection).
    pub tentative: bool,
    /// Another host has it, and so it is of no use.
    pub duplicate: bool,
}

/// How an address is given to a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressMode {
    /// IPv6: the neighbours are asked whether one has it before it can be used. Takes a second and more.
    pub detect_duplicates: bool,
    /// No route to its subnet comes with it.
    pub no_prefix_route: bool,
}

impl AddressMode {
    /// Sets [`AddressMode::detect_duplicates`].
    pub fn detect_duplicates(mut self, on: bool) -> Self {
        self.detect_duplicates = on;
        self
    }

    /// Sets [`AddressMode::no_prefix_route`].
    pub fn no_prefix_route(mut self, on: bool) -> Self {
        self.no_prefix_route = on;
        self
    }
}

/// The message that gives a link an address; it is no error when the link has it. IPv6 addresses are usable at once:
/// whoever hands them out knows that they are unique, so duplicate address detection (RFC 4862, 1 s and more) is skipped.
pub fn add_address(link: u32, net: IpNet) -> Request {
    add_address_as(link, net, AddressMode::default())
}

/// The same in another way.
pub fn add_address_as(link: u32, net: IpNet, mode: AddressMode) -> Request {
    let mut message = message_of(link, net);
    if mode.detect_duplicates {
        message.header.flags.remove(AddressHeaderFlags::Nodad);
    }
    if mode.no_prefix_route {
        let nodad = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        message.attributes.push(AddressAttribute::Flags(nodad | AddressFlags::Noprefixroute));
    }
    if let IpNet::V4(v4) = net
        && let Some(broadcast) = broadcast(v4)
    {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    Request {
        what: format!("add address {net} to link {link}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// The message that takes an address from a link.
pub fn remove_address(link: u32, net: IpNet) -> Request {
    Request {
        what: format!("remove address {net} from link {link}"),
        message: RouteNetlinkMessage::DelAddress(message_of(link, net)),
        flags: 0,
    }
}

/// The request for all addresses of the namespace.
pub fn addresses_dump() -> Request {
    Request {
        what: "list addresses".into(),
        message: RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        flags: 0,
    }
}

impl Socket {
    /// All addresses of all links.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        Ok(self.dump(&addresses_dump())?.into_iter().filter_map(address_of).collect())
    }

    /// The addresses of one link, which costs the same however many links there are.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses_of(&mut self, link: u32) -> Result<Vec<Address>, NetlinkError> {
        let mut request = addresses_dump();
        if let RouteNetlinkMessage::GetAddress(message) = &mut request.message {
            message.header.index = link;
        }
        let answers = self.dump_some(&request)?;
        Ok(answers.into_iter().filter_map(address_of).filter(|address| address.link == link).collect())
    }
}

fn message_of(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    match net.addr() {
        IpAddr::V4(_) => message.header.family = AddressFamily::Inet,
        IpAddr::V6(v6) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
            if v6.is_unicast_link_local() {
                message.header.scope = AddressScope::Link;
            }
        }
    }
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}

/// None for /31 and /32, which have no broadcast address (RFC 3021).
fn broadcast(net: Ipv4Net) -> Option<std::net::Ipv4Addr> {
    (net.prefix_len() < 31).then(|| net.broadcast())
}

fn address_of(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut address) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            _ => {}
        }
    }
    // IPv6 carries no IFA_LOCAL; on a point-to-point IPv4 link IFA_ADDRESS is the other side.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    let tentative = message.header.flags.contains(AddressHeaderFlags::Tentative);
    let duplicate = message.header.flags.contains(AddressHeaderFlags::Dadfailed);
    Some(Address { link: message.header.index, net, tentative, duplicate })
}
