//! nf_tables by raw netlink (nfnetlink): what `nft -f` does, without a process.
//!
//! A [`Transaction`] is a list of commands that the kernel carries out all at once or not at all. It knows just the
//! expressions that address translation by maps and sets needs. Elements of a map cost microseconds however many there are, where a
//! rule each would be walked one by one. Keep a [`Nftables`] socket for life: closing one after a deletion waits for an RCU
//! grace period.

mod expression;
mod listing;
mod message;
mod socket;

pub use expression::{Expression, Field, Register};
pub use message::{Element, Hook, SetType, Transaction};
pub use socket::Nftables;

use std::net::IpAddr;

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `ip`
    V4,
    /// `ip6`
    V6,
}

impl Family {
    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `NFPROTO_*`
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// An address as a register holds it.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A link's name as a register holds it: 16 bytes.
pub(crate) fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
