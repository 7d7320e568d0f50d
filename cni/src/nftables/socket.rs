//! The NETLINK_NETFILTER socket.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Transaction;
use crate::netlink::NetlinkError;
use crate::netlink::reply::Body;
use crate::netlink::transport::{Transport, refused};

/// One at a time in this process, as it is in the kernel, too: so a listing is not changed by our own threads.
static TURN: Mutex<()> = Mutex::new(());

pub(super) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket for transactions. It acts on the network namespace it was made in.
#[derive(Debug)]
pub struct Nftables {
    pub(super) transport: Transport,
    pub(super) sequence: u32,
}

impl Nftables {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// socket(2), setsockopt(2).
    pub fn open() -> Result<Self, NetlinkError> {
        let transport = Transport::open(Some(rustix::net::netlink::NETFILTER))?;
        Ok(Self { transport, sequence: 0 })
    }

    /// What the kernel tells others of who changed something; none before the first transaction.
    pub fn port(&self) -> Option<u32> {
        self.transport.port()
    }

    /// For what else goes over NETLINK_NETFILTER.
    pub(crate) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Carries a transaction out, whole or not at all.
    ///
    /// # Errors
    /// The first command that was refused.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), NetlinkError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let _turn = turn();
        let names: Vec<_> = transaction.names().collect();
        let begin = self.sequence.wrapping_add(1);
        self.sequence = begin.wrapping_add(names.len() as u32 + 1);
        self.transport.send(&transaction.bytes(begin))?;
        let mut outcomes: Vec<Option<(i32, Option<String>)>> = vec![None; names.len()];
        let mut missing = names.len();
        let mut whole = None;
        while missing > 0 && whole.is_none() {
            self.transport.receive(names[0], |frame| {
                let Body::Acknowledgement { errno, detail } = frame.body else { return Ok(()) };
                match frame.sequence.wrapping_sub(begin) as usize {
                    // The batch as such: no such subsystem, no permission, or a failed commit.
                    0 if errno != 0 => whole = Some((errno, detail)),
                    index => {
                        if let Some(slot) = index.checked_sub(1).and_then(|index| outcomes.get_mut(index))
                            && slot.is_none()
                        {
                            *slot = Some((errno, detail));
                            missing -= 1;
                        }
                    }
                }
                Ok(())
            })?;
        }
        if let Some((errno, detail)) = whole {
            return Err(refused("nftables: transaction", errno, detail));
        }
        for (name, outcome) in names.iter().zip(outcomes) {
            if let Some((errno, detail)) = outcome.filter(|(errno, _)| *errno != 0) {
                return Err(refused(name, errno, detail));
            }
        }
        Ok(())
    }
}
