//! Container networking: the CNI specification for those who call plugins and for those who are called, and what a
//! pod's network is built from.
//!
//! Every module works on its own: no runtime, no daemon, no state but what its caller hands over. From the top down:
//! [`client`] calls plugins by the lists that [`conf`] finds; both speak in [`types`].

/// One call of a plugin, and who carries it out.
pub mod call;
/// The runtime's side: ADD, DEL, CHECK, GC, STATUS and VERSION, with records of what was added.
pub mod client;
/// Network configuration: lists of plugins on disk, capability arguments.
pub mod conf;
/// Connection tracking by raw netlink: what is remembered about a UDP port is forgotten.
pub mod conntrack;
/// Packet filter chains of our own, asserted as a whole through `iptables` and `ip6tables`.
pub mod firewall;
/// Doors for `cni/fuzz`: a parser's input, and what has to hold for any; nothing at all in an ordinary build.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
/// Ports of the host that lead to pods: a table of nftables, its maps and their elements.
pub mod hostports;
/// Address management: ranges, the next free address, and a store that survives a crash at any step.
pub mod ipam;
/// Pods behind one link do not reach each other: a table of nftables, and its pairs of exceptions.
pub mod isolation;
/// What leaves a pod network gets the host's address: sets of pods in nftables.
pub mod masquerade;
/// A synchronous NETLINK_ROUTE socket: links, addresses and routes, in batches, with the kernel's own error text.
pub mod netlink;
/// Network namespaces by their paths.
pub mod netns;
/// nftables by raw netlink: tables replaced in one transaction, map elements added and taken in one message.
pub mod nftables;
/// The plugins: bridge, ptp, portmap and the others. By name, in this process.
pub mod plugins;
/// Sysctls of the network.
pub mod sysctl;
/// The specification's words: versions, results, errors, names.
pub mod types;
