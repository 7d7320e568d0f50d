//! A netlink socket as such: datagrams out, answers in. What the datagrams mean is its users' business.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_domain, socket_protocol};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, recv, send, socket_with,
};

use super::NetlinkError;
use super::reply::{Frame, frames};

/// The kernel answers with datagrams of at most 32 KiB (netlink_dump caps them there).
const RECEIVE_BUFFER: usize = 32 << 10;
/// The kernel answers before the send returns; waiting means that an answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Explanations in acknowledgements (netlink(7), `NETLINK_EXT_ACK`); neither rustix nor nix names it.
#[derive(Clone, Copy)]
struct ExtAck;
nix::setsockopt_impl!(ExtAck, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, bool, nix::sys::socket::sockopt::SetBool);

/// Acknowledgements without the request's payload (netlink(7), `NETLINK_CAP_ACK`).
#[derive(Clone, Copy)]
struct CapAck;
nix::setsockopt_impl!(CapAck, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, bool, nix::sys::socket::sockopt::SetBool);

/// linux/netlink.h; libc does not name it.
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
/// Listings heed what their request asks for (netlink(7)).
#[derive(Clone, Copy)]
struct StrictCheck;
nix::setsockopt_impl!(StrictCheck, libc::SOL_NETLINK, NETLINK_GET_STRICT_CHK, bool, nix::sys::socket::sockopt::SetBool);

/// An open socket with its receive buffer.
#[derive(Debug)]
pub(crate) struct Transport {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Transport {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(|errno| failed("socket", errno))?;
        Self::from_fd(fd, protocol)
    }

    /// Takes over a socket that must be of the protocol.
    pub(crate) fn from_fd(fd: OwnedFd, protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let family = socket_domain(&fd).map_err(|errno| failed("getsockopt(SO_DOMAIN)", errno))?;
        let found = socket_protocol(&fd).map_err(|errno| failed("getsockopt(SO_PROTOCOL)", errno))?;
        if family != AddressFamily::NETLINK || found != protocol {
            return Err(NetlinkError::NotRoute);
        }
        // Both options only make answers better or shorter; kernels before 4.12 lack them.
        let _ = nix::sys::socket::setsockopt(&fd, ExtAck, &true);
        let _ = nix::sys::socket::setsockopt(&fd, CapAck, &true);
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(|errno| failed("setsockopt(SO_RCVTIMEO)", errno))?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Whether listings heed what they are asked for; before Linux 4.20 they list everything in any case.
    pub(super) fn be_strict(&self, strict: bool) {
        let _ = nix::sys::socket::setsockopt(&self.fd, StrictCheck, &strict);
    }

    /// Has the kernel's news of these groups sent here (bits, netlink(7)).
    pub(crate) fn join(&self, groups: u32) -> Result<(), NetlinkError> {
        bind(&self.fd, &SocketAddrNetlink::new(0, groups)).map_err(|errno| failed("bind", errno))
    }

    /// What the kernel knows this socket by, and tells others who did something; none before the first request.
    pub(crate) fn port(&self) -> Option<u32> {
        let address = SocketAddrNetlink::try_from(getsockname(&self.fd).ok()?).ok()?;
        Some(address.pid()).filter(|port| *port != 0)
    }

    /// A datagram that is there already. `Some(None)`: the kernel had more than it could keep, or than fits.
    pub(crate) fn receive_now(&mut self) -> Option<Option<&[u8]>> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok((_, length)) => return Some(self.buffer.get(..length)),
                Err(Errno::NOBUFS) => return Some(None),
                Err(Errno::INTR) => {}
                // Nothing is there.
                Err(_) => return None,
            }
        }
    }

    /// Sends one datagram. The kernel has dealt with it when this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let sent = send(&self.fd, bytes, SendFlags::empty()).map_err(|errno| failed("send", errno))?;
        match sent == bytes.len() {
            true => Ok(()),
            false => Err(NetlinkError::Socket { operation: "send", source: io::ErrorKind::WriteZero.into() }),
        }
    }

    /// One datagram, handed to `each` message by message.
    pub(crate) fn receive(
        &mut self,
        what: &str,
        mut each: impl FnMut(Frame<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let (_, length) = loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                other => break other.map_err(|errno| failed("recv", errno))?,
            }
        };
        let datagram = self.buffer.get(..length).ok_or_else(|| malformed(what, "datagram over 32 KiB"))?;
        frames(datagram).map_err(|reason| malformed(what, reason))?.into_iter().try_for_each(&mut each)
    }
}

fn failed(operation: &'static str, errno: Errno) -> NetlinkError {
    NetlinkError::Socket { operation, source: errno.into() }
}

pub(crate) fn refused(what: &str, errno: i32, detail: Option<String>) -> NetlinkError {
    NetlinkError::Refused { what: what.into(), detail, source: io::Error::from_raw_os_error(errno) }
}

pub(crate) fn malformed(what: &str, reason: impl Into<String>) -> NetlinkError {
    NetlinkError::Malformed { what: what.into(), reason: reason.into() }
}
