//! Framing: one message is one SEQPACKET packet with the file descriptors it speaks of. A message that would not fit
//! well into a socket buffer travels in a sealed memfd, which then is the packet's last fd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message;

use crate::sys::{fd_passing, memfd};

/// Larger messages go in a memfd.
const INLINE_LIMIT: usize = 32 * 1024;
/// The largest message accepted at all; a plan of ten thousand environment variables is far below.
const MESSAGE_LIMIT: u64 = 16 * 1024 * 1024;
/// First byte of a packet: the message follows.
const INLINE: u8 = 0;
/// First byte of a packet: the message is in the last fd.
const IN_MEMFD: u8 = 1;
/// What a receiver's buffer must hold.
pub const PACKET_LIMIT: usize = INLINE_LIMIT + 1;
/// How many fds a sender may pass with a message: the kernel's SCM_MAX_FD less the memfd.
pub const FD_LIMIT: usize = fd_passing::MAX_FDS - 1;

/// A packet that could not be sent, received or understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("socket to the monitor")]
    Io(#[from] io::Error),
    /// The other side closed.
    #[error("the other side closed the connection")]
    Closed,
    /// The packet is not one of this protocol.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The message is not protobuf of the expected type.
    #[error("malformed message")]
    Decode(#[from] prost::DecodeError),
    /// More than the kernel passes at once.
    #[error("{0} file descriptors are more than one message can carry ({FD_LIMIT})")]
    TooManyFds(usize),
}

/// A message made ready to send, so that a full socket costs no second encoding.
#[derive(Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Packet {
    /// Encodes a message; it goes in a memfd if it is large.
    ///
    /// # Errors
    /// `TooManyFds`, or the memfd could not be made.
    pub fn new(message: &impl Message, mut fds: Vec<OwnedFd>) -> Result<Self, FrameError> {
        if fds.len() > FD_LIMIT {
            return Err(FrameError::TooManyFds(fds.len()));
        }
        let len = message.encoded_len();
        let mut bytes = Vec::with_capacity(1 + len.min(INLINE_LIMIT));
        if len <= INLINE_LIMIT {
            bytes.push(INLINE);
            message.encode_raw(&mut bytes);
        } else {
            bytes.push(IN_MEMFD);
            fds.push(memfd::sealed(c"berth-message", &message.encode_to_vec())?);
        }
        Ok(Self { bytes, fds })
    }

    /// Sends without blocking.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full; whatever sendmsg(2) says.
    pub fn send(&self, socket: impl AsFd) -> io::Result<()> {
        if self.fds.is_empty() {
            return fd_passing::send(socket, &self.bytes, &[]);
        }
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(AsFd::as_fd).collect();
        fd_passing::send(socket, &self.bytes, &fds)
    }
}

/// Receives one message without blocking; `buffer` holds at least `PACKET_LIMIT` bytes.
///
/// # Errors
/// `Closed` at the end, `Io` of kind `WouldBlock` when nothing is there.
pub fn receive<M: Message + Default>(socket: impl AsFd, buffer: &mut [u8]) -> Result<(M, Vec<OwnedFd>), FrameError> {
    let (len, fds) = fd_passing::receive(socket, buffer)?;
    if len == 0 && fds.is_empty() {
        return Err(FrameError::Closed);
    }
    decode(&buffer[..len], fds)
}

/// Understands one packet.
///
/// # Errors
/// `Malformed` or `Decode`.
pub fn decode<M: Message + Default>(packet: &[u8], mut fds: Vec<OwnedFd>) -> Result<(M, Vec<OwnedFd>), FrameError> {
    match packet.split_first() {
        Some((&INLINE, body)) => Ok((M::decode(body)?, fds)),
        Some((&IN_MEMFD, [])) => {
            let memfd = fds.pop().ok_or(FrameError::Malformed("the message's memfd is missing"))?;
            let body = memfd::read_sealed(&memfd, MESSAGE_LIMIT)?;
            Ok((M::decode(body.as_slice())?, fds))
        }
        _ => Err(FrameError::Malformed("unknown kind of packet")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::libcontainer::plan::{InitPlan, ProcessPlan};
    use crate::monitor::protocol::{Answer, Call, Create, Request, Stop};
    use crate::sys::unix_socket;

    fn over_a_socket(request: &Request, fds: Vec<OwnedFd>) -> (Request, Vec<OwnedFd>) {
        let (ours, theirs) = unix_socket::pair().unwrap();
        Packet::new(request, fds).unwrap().send(&ours).unwrap();
        receive(&theirs, &mut vec![0; PACKET_LIMIT]).unwrap()
    }

    fn create(env_bytes: usize) -> Request {
        let process = ProcessPlan { env: vec![vec![b'x'; env_bytes]], ..ProcessPlan::default() };
        let plan = InitPlan { process, ..InitPlan::default() };
        Request { id: 7, call: Some(Call::Create(Create { plan, record_dir_fd: 1, ..Create::default() })) }
    }

    #[test]
    fn small_and_large_messages_arrive_with_their_fds() {
        for len in [0, INLINE_LIMIT - 100, INLINE_LIMIT, 3 << 20] {
            let (pipe, other) = std::io::pipe().unwrap();
            let (received, fds) = over_a_socket(&create(len), vec![pipe.into(), other.into()]);
            assert!(received == create(len), "{len}");
            assert_eq!(fds.len(), 2, "{len}: the memfd is not handed on");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let unsealed = rustix::fs::memfd_create(c"x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let decode = decode::<Request>;
        assert!(matches!(decode(&[], Vec::new()), Err(FrameError::Malformed(_))));
        assert!(matches!(decode(&[9, 1, 2], Vec::new()), Err(FrameError::Malformed(_))));
        assert!(matches!(decode(&[IN_MEMFD], Vec::new()), Err(FrameError::Malformed(_))));
        assert!(
            matches!(decode(&[IN_MEMFD], vec![unsealed]), Err(FrameError::Io(_))),
            "it could change while it is read"
        );
        let fds = (0..=FD_LIMIT).map(|_| std::io::pipe().unwrap().0.into()).collect();
        assert!(matches!(Packet::new(&create(0), fds), Err(FrameError::TooManyFds(_))));
    }

    #[test]
    fn the_end_is_seen() {
        let (ours, theirs) = unix_socket::pair().unwrap();
        let mut buffer = vec![0; PACKET_LIMIT];
        let error = receive::<Request>(&theirs, &mut buffer).unwrap_err();
        assert!(matches!(error, FrameError::Io(error) if error.kind() == io::ErrorKind::WouldBlock));
        drop(ours);
        assert!(matches!(receive::<Request>(&theirs, &mut buffer), Err(FrameError::Closed)));
    }

    proptest! {
        /// Neither side trusts the other's bytes with more than an error.
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), inline: bool) {
            if let (true, Some(first)) = (inline, bytes.first_mut()) {
                *first = INLINE;
            }
            let _ = decode::<Request>(&bytes, Vec::new());
            let _ = decode::<Answer>(&bytes, Vec::new());
        }

        /// A message cut off or with one byte changed is another message or an error.
        #[test]
        fn damaged_messages_never_panic(cut in 0usize..200, at in 0usize..200, byte: u8) {
            let stop = Stop { id: "c".repeat(64), signal: 15, grace_ms: u64::MAX };
            let mut bytes = vec![INLINE];
            Request { id: u64::MAX, call: Some(Call::Stop(stop)) }.encode(&mut bytes).unwrap();
            bytes.truncate(cut.max(1));
            if let Some(place) = bytes.get_mut(at.max(1)) {
                *place = byte;
            }
            let _ = decode::<Request>(&bytes, Vec::new());
        }
    }
}
