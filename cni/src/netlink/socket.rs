//! The socket: batches out, acknowledgements and listings in.

use std::os::fd::OwnedFd;

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::NetlinkError;
use super::reply::Body;
use super::transport::{Transport, malformed, refused};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

/// Every acknowledgement takes its place in the socket's receive buffer (208 KiB by default) before the send returns.
const MESSAGES_PER_SEND: usize = 64;
/// How often a listing that changed while it was read is read again.
const DUMP_ATTEMPTS: usize = 8;

/// One message to the kernel, with words for what it does, which stand in the error if it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub(super) what: String,
    pub(super) message: RouteNetlinkMessage,
    /// `NLM_F_*` beyond those the socket adds itself.
    pub(super) flags: u16,
}

/// A NETLINK_ROUTE socket. It acts on the network namespace it was *made* in, whoever uses it: a socket made inside a pod
/// and passed on configures the pod, without its user ever entering the namespace.
#[derive(Debug)]
pub struct Socket {
    transport: Transport,
    sequence: u32,
}

impl Socket {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// socket(2), setsockopt(2).
    pub fn open() -> Result<Self, NetlinkError> {
        // NETLINK_ROUTE is protocol 0, which rustix spells None.
        Ok(Self { transport: Transport::open(None)?, sequence: 0 })
    }

    /// Takes over a socket made elsewhere, bound or not.
    ///
    /// # Errors
    /// [`NetlinkError::NotRoute`] when it is no NETLINK_ROUTE socket; setsockopt(2).
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetlinkError> {
        Ok(Self { transport: Transport::from_fd(fd, None)?, sequence: 0 })
    }

    /// Sends all requests in one system call (64 in one, to be exact) and waits for every acknowledgement. The kernel
    /// carries them out in order and does not stop at one it refuses.
    ///
    /// # Errors
    /// The first request that was refused.
    pub fn execute(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        requests.chunks(MESSAGES_PER_SEND).try_for_each(|chunk| self.execute_chunk(chunk))
    }

    fn execute_chunk(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        let first = self.send(requests, NLM_F_ACK)?;
        let mut outcomes: Vec<Option<(i32, Option<String>)>> = vec![None; requests.len()];
        let mut missing = requests.len();
        while missing > 0 {
            self.transport.receive(&requests[0].what, |frame| {
                let index = frame.sequence.wrapping_sub(first) as usize;
                if let (Body::Acknowledgement { errno, detail }, Some(slot)) = (frame.body, outcomes.get_mut(index))
                    && slot.is_none()
                {
                    *slot = Some((errno, detail));
                    missing -= 1;
                }
                Ok(())
            })?;
        }
        for (request, outcome) in requests.iter().zip(outcomes) {
            if let Some((errno, detail)) = outcome.filter(|(errno, _)| *errno != 0) {
                return Err(refused(&request.what, errno, detail));
            }
        }
        Ok(())
    }

    /// Sends one question and returns its one answer.
    ///
    /// # Errors
    /// When the kernel refuses it or its answer cannot be read.
    pub(super) fn get(&mut self, request: &Request) -> Result<RouteNetlinkMessage, NetlinkError> {
        let sequence = self.send(std::slice::from_ref(request), 0)?;
        self.answer(&request.what, sequence, |bytes| parse(&request.what, bytes))
    }

    /// The same of a question that is bytes already, but for its sequence number, and whose answer `read` knows.
    ///
    /// # Errors
    /// As for [`Socket::get`].
    pub(super) fn get_raw<T>(
        &mut self,
        what: &str,
        question: &mut [u8],
        read: impl Fn(&[u8]) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        if let Some(place) = question.get_mut(8..12) {
            place.copy_from_slice(&self.sequence.to_ne_bytes());
        }
        self.transport.send(question)?;
        self.answer(what, self.sequence, read)
    }

    fn answer<T>(
        &mut self,
        what: &str,
        sequence: u32,
        read: impl Fn(&[u8]) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        loop {
            let mut answer = None;
            self.transport.receive(what, |frame| {
                if frame.sequence != sequence {
                    return Ok(());
                }
                match frame.body {
                    Body::Data(bytes) => answer = Some(read(bytes)?),
                    Body::Acknowledgement { errno: 0, .. } | Body::Done { .. } => {}
                    Body::Acknowledgement { errno, detail } => return Err(refused(what, errno, detail)),
                }
                Ok(())
            })?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }

    /// Sends one listing request and returns all of its answers.
    ///
    /// # Errors
    /// When the kernel refuses it, its answers cannot be read, or the listing never holds still.
    pub(super) fn dump(&mut self, request: &Request) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(answers) = self.dump_once(request)? {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Interrupted { what: request.what.clone() })
    }

    /// The same of what the request's header names, as far as the kernel can tell it apart: the answers may be more.
    ///
    /// # Errors
    /// As for [`Socket::dump`].
    pub(super) fn dump_some(&mut self, request: &Request) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.transport.be_strict(true);
        let answers = self.dump(request);
        self.transport.be_strict(false);
        answers
    }

    /// `None` when the listing changed meanwhile.
    fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let sequence = self.send(std::slice::from_ref(request), NLM_F_DUMP)?;
        let (mut answers, mut done, mut interrupted) = (Vec::new(), false, false);
        while !done {
            self.transport.receive(&request.what, |frame| {
                if frame.sequence != sequence {
                    return Ok(());
                }
                interrupted |= frame.interrupted;
                match frame.body {
                    Body::Data(bytes) => answers.push(parse(&request.what, bytes)?),
                    Body::Done { errno: 0 } | Body::Acknowledgement { errno: 0, .. } => done = true,
                    Body::Done { errno } => return Err(refused(&request.what, errno, None)),
                    Body::Acknowledgement { errno, detail } => return Err(refused(&request.what, errno, detail)),
                }
                Ok(())
            })?;
        }
        Ok((!interrupted).then_some(answers))
    }

    /// Returns the sequence number of the first request; the others follow it.
    fn send(&mut self, requests: &[Request], flags: u16) -> Result<u32, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * requests.len());
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | flags | request.flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.message.clone()));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.transport.send(&bytes)?;
        Ok(first)
    }
}

fn parse(what: &str, bytes: &[u8]) -> Result<RouteNetlinkMessage, NetlinkError> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
        .map_err(|error| malformed(what, error.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => Ok(inner),
        _ => Err(malformed(what, "unexpected kind of message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_socket_is_refused() {
        let family = rustix::net::AddressFamily::UNIX;
        let fd = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
        assert!(matches!(Socket::from_fd(fd), Err(NetlinkError::NotRoute)));
    }

    #[test]
    fn the_kernel_answers_an_unprivileged_question() {
        let mut socket = Socket::open().unwrap();
        let lo = socket.link(super::super::LOOPBACK_INDEX).unwrap();
        assert_eq!(lo.name, "lo");
        let all = socket.addresses().unwrap();
        let of_lo: Vec<_> = all.iter().filter(|address| address.link == lo.index).cloned().collect();
        assert_eq!(socket.addresses_of(lo.index).unwrap(), of_lo);
        assert_eq!(socket.addresses_of(i32::MAX as u32).unwrap_or_default(), []);
        assert_eq!(socket.addresses().unwrap().len(), all.len(), "and all are listed again");
        let error = socket.link_by_name("no-such-link").unwrap_err();
        assert!(error.not_found(), "{error}");
    }
}
