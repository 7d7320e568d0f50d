//! The plugins against the kernel, and beside Debian's: for the same configuration the same bytes. Every test runs in a host of
//! its own, a child process in fresh user and network namespaces, so no privileges are needed and nothing of the machine's
//! is met.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod addresses;
mod bridge;
mod chained;
mod in_process;
mod loopback;
mod portmap;
mod ptp;
mod stacked;
mod support;
