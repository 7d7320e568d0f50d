//! The kernel's answers, read from bytes. Pure: any bytes give frames or an error, never a panic.

/// Length of a `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The acknowledgement carries only the header of the request (`NETLINK_CAP_ACK`).
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes follow the acknowledgement (`NETLINK_EXT_ACK`).
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The kernel's explanation, a NUL-terminated string.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// Which request it answers.
    pub(crate) sequence: u32,
    /// The port of the socket whose request it answers or tells of; 0 for what the kernel did of itself.
    pub(crate) port: u32,
    /// The listing it belongs to changed meanwhile.
    pub(crate) interrupted: bool,
    pub(crate) body: Body<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// `errno` 0 is success.
    Acknowledgement { errno: i32, detail: Option<String> },
    /// The end of a listing, with the listing's own `errno`.
    Done { errno: i32 },
    /// The whole message, header included.
    Data(&'a [u8]),
}

/// Splits one datagram into its messages.
pub(crate) fn frames(mut datagram: &[u8]) -> Result<Vec<Frame<'_>>, String> {
    let mut frames = Vec::new();
    while !datagram.is_empty() {
        let length = word(datagram, 0).ok_or("truncated header")? as usize;
        if length < HEADER || length > datagram.len() {
            return Err(format!("message of {length} bytes in {} bytes", datagram.len()));
        }
        let (message, _) = datagram.split_at(length);
        frames.push(frame(message)?);
        datagram = datagram.get(align(length)..).unwrap_or_default();
    }
    Ok(frames)
}

fn frame(message: &[u8]) -> Result<Frame<'_>, String> {
    let kind = half(message, 4).ok_or("truncated header")?;
    let flags = half(message, 6).ok_or("truncated header")?;
    let sequence = word(message, 8).ok_or("truncated header")?;
    let port = word(message, 12).ok_or("truncated header")?;
    let body = match kind {
        NLMSG_ERROR => {
            let errno = errno(message).ok_or("acknowledgement without an error number")?;
            Body::Acknowledgement { errno, detail: detail(message, flags, errno) }
        }
        NLMSG_DONE => Body::Done { errno: errno(message).unwrap_or(0) },
        _ => Body::Data(message),
    };
    Ok(Frame { kind, sequence, port, interrupted: flags & NLM_F_DUMP_INTR != 0, body })
}

/// The positive error number of an acknowledgement (the kernel sends it negated).
fn errno(message: &[u8]) -> Option<i32> {
    word(message, HEADER).map(|raw| (raw as i32).wrapping_neg())
}

/// The text of the extended acknowledgement: behind the echoed request, which is whole only when it failed uncapped.
fn detail(message: &[u8], flags: u16, errno: i32) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed = HEADER + 4;
    let echoed_length = match flags & NLM_F_CAPPED != 0 || errno == 0 {
        true => HEADER,
        false => word(message, echoed)? as usize,
    };
    let mut attributes = message.get(echoed.checked_add(align(echoed_length))?..)?;
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        if kind & 0x3fff == NLMSGERR_ATTR_MSG {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(align(length)..).unwrap_or_default();
    }
    None
}

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn an_acknowledgement_carries_the_kernels_words() {
        let text = b"Device does not exist\0";
        let mut payload = (-19i32).to_ne_bytes().to_vec();
        payload.extend(message(19, 0, 7, &[0; 16])); // the echoed request, whole
        payload.extend(((4 + text.len()) as u16).to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(text);
        let whole = message(NLMSG_ERROR, NLM_F_ACK_TLVS, 7, &payload);
        let expected = Body::Acknowledgement { errno: 19, detail: Some("Device does not exist".into()) };
        assert_eq!(
            frames(&whole).unwrap(),
            [Frame { kind: NLMSG_ERROR, sequence: 7, port: 0, interrupted: false, body: expected }]
        );
    }

    #[test]
    fn several_messages_of_one_datagram_are_told_apart() {
        let ack = |sequence| message(NLMSG_ERROR, NLM_F_CAPPED, sequence, &[0; 20]);
        let datagram = [ack(1), ack(2), message(NLMSG_DONE, NLM_F_DUMP_INTR, 3, &[0; 4])].concat();
        let sequences: Vec<_> = frames(&datagram).unwrap().iter().map(|f| (f.sequence, f.interrupted)).collect();
        assert_eq!(sequences, [(1, false), (2, false), (3, true)]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut short = message(NLMSG_ERROR, 0, 1, &[0; 20]);
        short[0] = 8;
        assert!(frames(&short).is_err());
        short[0] = 255;
        assert!(frames(&short).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = frames(&bytes);
        }

        #[test]
        fn no_acknowledgement_makes_it_panic(flags: u16, payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = frames(&message(NLMSG_ERROR, flags, 1, &payload));
        }
    }
}
