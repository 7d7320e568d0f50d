//! rtnetlink(7) as a container runtime uses it: few messages, many of them in one send, every one acknowledged.
//!
//! A [`Request`] is a message and a name for what it does; a [`Socket`] sends a batch of them and collects the answers.
//! Requests are plain data, so what a caller is about to do can be looked at before it is done. Changing a link after it
//! was made waits for RCU grace periods (8 to 16 ms each), so whatever the create message can carry belongs there.

mod address;
pub(crate) mod attributes;
mod error;
mod link;
mod mac;
mod netconf;
pub(crate) mod reply;
mod route;
mod socket;
mod traffic;
pub(crate) mod transport;
mod watch;

pub use address::{Address, AddressMode, add_address, add_address_as, addresses_dump, remove_address};
pub use error::NetlinkError;
pub use link::{
    Bridge, BridgePort, IpVlanMode, Link, LinkChange, LinkSysctls, MacVlanMode, Stacked, StackedKind, VethPair,
    change_link, configure_port, create_bridge, create_ifb, create_stacked, create_veth_pair, delete_link, raise_link,
};
pub use mac::{InvalidMac, MacAddr};
pub use route::{Route, add_route};
pub use socket::{Request, Socket};
pub use traffic::{add_ingress, limit_rate, redirect_ingress};
pub use watch::Watch;

/// The index of `lo` in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;
