//! Container networking: what a pod's network is built from.
//!
//! Every module works on its own: no runtime, no daemon, no state but what its caller hands over.

/// Packet filter chains of our own, asserted as a whole through `iptables` and `ip6tables`.
pub mod firewall;
/// Address management: ranges, the next free address, and a store that survives a crash at any step.
pub mod ipam;
/// A synchronous NETLINK_ROUTE socket: links, addresses and routes, in batches, with the kernel's own error text.
pub mod netlink;
/// nftables by raw netlink: tables replaced in one transaction, map elements added and taken in one message.
pub mod nftables;
