//! Sockets that outlive a call.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use crate::netlink::NetlinkError;
use crate::nftables::Nftables;

/// The socket for rules, kept from call to call: closing one waits until the kernel has freed what was deleted last (RCU grace periods,
/// 25 ms), and holds up everybody else's transactions meanwhile. One is enough, as the kernel takes one transaction at a time.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Option<Kept>>);

#[derive(Debug)]
struct Kept {
    socket: Nftables,
    /// The network namespace that it acts on, by device and inode.
    namespace: (u64, u64),
}

impl Sockets {
    /// Does something with the socket of the calling thread's namespace. Others wait for the end of it.
    pub(super) fn with_nftables<T>(&self, work: impl FnOnce(&mut Nftables) -> T) -> Result<T, NetlinkError> {
        const OWN: &str = "/proc/thread-self/ns/net";
        let failed = |source| NetlinkError::Socket { operation: "look at the network namespace", source };
        let namespace = fs::metadata(OWN).map(|it| (it.dev(), it.ino())).map_err(failed)?;
        // Whoever panicked has left an unread answer at worst, which is passed over by its number.
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match guard.take().filter(|kept| kept.namespace == namespace) {
            Some(kept) => kept,
            None => Kept { socket: Nftables::open()?, namespace },
        };
        Ok(work(&mut guard.insert(kept).socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::Family;

    #[test]
    fn the_socket_is_the_same_from_call_to_call() {
        let sockets = Sockets::default();
        let port =
            || sockets.with_nftables(|socket| (socket.element(Family::V4, "t", "s", &[0; 4]).is_ok(), socket.port()));
        let (first, second) = (port().unwrap(), port().unwrap());
        assert!(first.1.is_some());
        assert_eq!(first, second);
    }
}
