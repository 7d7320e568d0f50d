//! Routes.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetlinkError;
use super::socket::{Request, Socket};

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

/// A unicast route over one link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Where to; a prefix length of 0 is the default route.
    pub destination: IpNet,
    /// By whom; directly over the link when none.
    pub gateway: Option<IpAddr>,
    /// The link's index.
    pub link: u32,
    /// What the host calls itself on this way, unless it has bound to an address.
    pub source: Option<IpAddr>,
    /// The table; none: the main one.
    pub table: Option<u32>,
    /// Lower is preferred; none: the kernel's default.
    pub priority: Option<u32>,
    /// `RT_SCOPE_*`; none: what fits the gateway.
    pub scope: Option<u8>,
    /// Bytes a packet may have on this way.
    pub mtu: Option<u32>,
    /// The largest TCP segment that is asked for, in bytes.
    pub advmss: Option<u32>,
}

impl Route {
    /// A route of the main table.
    pub fn new(destination: IpNet, gateway: Option<IpAddr>, link: u32) -> Self {
        let (source, table, priority, scope, mtu, advmss) = (None, None, None, None, None, None);
        Self { destination, gateway, link, source, table, priority, scope, mtu, advmss }
    }

    /// The destination of a default route.
    pub fn everywhere(v4: bool) -> IpNet {
        match v4 {
            true => Ipv4Net::default().into(),
            false => Ipv6Net::default().into(),
        }
    }
}

/// The message that adds a route, in place of one to the same destination.
pub fn add_route(route: &Route) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = match route.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.destination.prefix_len();
    // Tables above 255 are named by an attribute.
    message.header.table = match route.table {
        None => RouteHeader::RT_TABLE_MAIN,
        Some(table) => u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
    };
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match (route.scope, route.gateway) {
        (Some(scope), _) => scope.into(),
        (None, Some(_)) => RouteScope::Universe,
        (None, None) => RouteScope::Link,
    };
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.push(RouteAttribute::Oif(route.link));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(route.table.map(RouteAttribute::Table));
    message.attributes.extend(route.priority.map(RouteAttribute::Priority));
    let metrics: Vec<_> =
        route.mtu.map(RouteMetric::Mtu).into_iter().chain(route.advmss.map(RouteMetric::Advmss)).collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let by = route.gateway.map(|gateway| format!(" by {gateway}")).unwrap_or_default();
    Request {
        what: format!("add route to {}{by} over link {}", route.destination, route.link),
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

impl Socket {
    /// The routes of the main table that lead over one link each, IPv4 and IPv6.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let request = Request {
            what: "list routes".into(),
            message: RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            flags: 0,
        };
        Ok(self.dump(&request)?.into_iter().filter_map(route_of).collect())
    }
}

impl Socket {
    /// The link by which an address is reached; none when it is not.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn link_to(&mut self, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        if address.is_ipv6() {
            // The route itself: with it the kernel tells a source address, for which it looks at those of all links.
            message.header.flags |= RouteFlags::FibMatch;
        }
        let net = IpNet::from(address);
        message.header.destination_prefix_length = net.prefix_len();
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let what = format!("look up the route to {address}");
        let request = Request { what, message: RouteNetlinkMessage::GetRoute(message), flags: 0 };
        match self.get(&request) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => {
                Ok(route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(libc::ENETUNREACH) || error.errno() == Some(libc::EHOSTUNREACH) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0u8; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let (mut destination, mut gateway, mut link, mut source, mut priority) = (any, None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = ip(to)?,
            RouteAttribute::Gateway(by) => gateway = ip(by),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(value) => priority = Some(*value),
            _ => {}
        }
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { source, priority, ..Route::new(destination, gateway, link?) })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}
