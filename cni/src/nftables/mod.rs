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
    pub fn of(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(_) => Self::V4,
            std::net::IpAddr::V6(_) => Self::V6,
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
