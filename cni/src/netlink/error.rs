//! What can go wrong between a request and its acknowledgement.

use std::io;

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The kernel refused one request; `detail` is its extended acknowledgement (`NETLINK_EXT_ACK`).
    #[error("{what}: {source}{}", detail.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// The request's own words for what it was about to do.
        what: String,
        /// The kernel's explanation, when it gave one.
        detail: Option<String>,
        /// The error number of the acknowledgement.
        source: io::Error,
    },
    /// A call on the socket itself failed.
    #[error("netlink socket: {operation}")]
    Socket {
        /// The system call.
        operation: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The socket handed over is of another family or protocol.
    #[error("netlink socket: the descriptor is not a NETLINK_ROUTE socket")]
    NotRoute,
    /// The kernel's answer could not be read.
    #[error("{what}: malformed netlink answer: {reason}")]
    Malformed {
        /// The request that was answered.
        what: String,
        /// Where reading stopped.
        reason: String,
    },
    /// A listing changed while it was read, several times in a row (`NLM_F_DUMP_INTR`).
    #[error("{what}: the listing kept changing while it was read")]
    Interrupted {
        /// The request that was answered.
        what: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, when the kernel refused the request.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the thing to be made is there already (`EEXIST`).
    pub fn already_exists(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::EXIST.raw_os_error())
    }

    /// Whether the thing named is not there (`ENODEV`, `ENOENT`, `ESRCH`, `EADDRNOTAVAIL`).
    pub fn not_found(&self) -> bool {
        use rustix::io::Errno;
        let absent = [Errno::NODEV, Errno::NOENT, Errno::SRCH, Errno::ADDRNOTAVAIL];
        self.errno().is_some_and(|errno| absent.iter().any(|e| e.raw_os_error() == errno))
    }
}
