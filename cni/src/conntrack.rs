//! Connection tracking by raw netlink (ctnetlink): what is remembered about a UDP port is forgotten.
//!
//! A datagram that came before its port led to a pod made an entry, which keeps those after it on the old way for as long as they
//! keep coming; so entries go whenever a port begins or ceases to lead somewhere.

use crate::netlink::NetlinkError;
use crate::netlink::attributes::{attribute, written};
use crate::netlink::reply::Body;
use crate::netlink::transport::{Transport, refused};
use crate::nftables::{Family, Nftables};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
/// `struct nlmsghdr` and `struct nfgenmsg`
const HEADERS: usize = 20;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_ZONE: u16 = 18;
const UDP: u8 = 17;

/// Forgets the entries of UDP datagrams to these ports, of whatever address. Costs nothing when there are no ports. By the socket of
/// nftables, which is of the same protocol: closing one of its own would wait for what nftables deleted last.
///
/// # Errors
/// When the kernel cannot be asked, or refuses.
pub fn forget_udp(socket: &mut Nftables, ports: &[(Family, u16)]) -> Result<(), NetlinkError> {
    let transport = socket.transport();
    for family in [Family::V4, Family::V6] {
        let of_family: Vec<_> = ports.iter().filter(|(of, _)| *of == family).map(|(_, port)| *port).collect();
        if of_family.is_empty() {
            continue;
        }
        for entry in list(transport, family, &of_family)? {
            match delete(transport, family, &entry) {
                // It has just timed out.
                Err(error) if error.not_found() => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// The attributes that name an entry for its deletion.
type Entry = Vec<u8>;

fn list(transport: &mut Transport, family: Family, ports: &[u16]) -> Result<Vec<Entry>, NetlinkError> {
    const WHAT: &str = "conntrack: list entries";
    transport.send(&message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, family, &[]))?;
    let (mut entries, mut done) = (Vec::new(), false);
    while !done {
        transport.receive(WHAT, |frame| {
            match frame.body {
                Body::Data(bytes) => entries.extend(entry_of(bytes.get(HEADERS..).unwrap_or_default(), ports)),
                Body::Done { errno: 0 } | Body::Acknowledgement { errno: 0, .. } => done = true,
                // A kernel that has tracked nothing yet has nothing to forget.
                Body::Done { errno: libc::EOPNOTSUPP | libc::ENOENT | libc::EINVAL } => done = true,
                Body::Acknowledgement { errno: libc::EOPNOTSUPP | libc::ENOENT | libc::EINVAL, .. } => done = true,
                Body::Done { errno } => return Err(refused(WHAT, errno, None)),
                Body::Acknowledgement { errno, detail } => return Err(refused(WHAT, errno, detail)),
            }
            Ok(())
        })?;
    }
    Ok(entries)
}

/// An entry's name, if it is one of UDP to one of the ports. Pure.
fn entry_of(attributes: &[u8], ports: &[u16]) -> Option<Entry> {
    let tuple = attribute(attributes, CTA_TUPLE_ORIG)?;
    let protocol = attribute(tuple, CTA_TUPLE_PROTO)?;
    let port = attribute(protocol, CTA_PROTO_DST_PORT)?.try_into().ok().map(u16::from_be_bytes)?;
    if attribute(protocol, CTA_PROTO_NUM)? != [UDP] || !ports.contains(&port) {
        return None;
    }
    let mut entry = written(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple);
    entry.extend(attribute(attributes, CTA_ZONE).map(|zone| written(CTA_ZONE, zone)).unwrap_or_default());
    Some(entry)
}

fn delete(transport: &mut Transport, family: Family, entry: &[u8]) -> Result<(), NetlinkError> {
    const WHAT: &str = "conntrack: delete an entry";
    transport.send(&message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, family, entry))?;
    let mut outcome = None;
    while outcome.is_none() {
        transport.receive(WHAT, |frame| {
            if let Body::Acknowledgement { errno, detail } = frame.body {
                outcome = Some((errno, detail));
            }
            Ok(())
        })?;
    }
    match outcome {
        Some((errno, detail)) if errno != 0 => Err(refused(WHAT, errno, detail)),
        _ => Ok(()),
    }
}

fn message(kind: u16, flags: u16, family: Family, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADERS + body.len());
    out.extend(((HEADERS + body.len()) as u32).to_ne_bytes());
    out.extend((NFNL_SUBSYS_CTNETLINK << 8 | kind).to_ne_bytes());
    out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family.number(), 0, 0, 0]);
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(protocol: u8, port: u16) -> Vec<u8> {
        let proto = [written(CTA_PROTO_NUM, &[protocol]), written(CTA_PROTO_DST_PORT, &port.to_be_bytes())].concat();
        written(CTA_TUPLE_ORIG | NLA_F_NESTED, &written(CTA_TUPLE_PROTO | NLA_F_NESTED, &proto))
    }

    #[test]
    fn only_udp_to_the_ports_is_forgotten() {
        assert_eq!(entry_of(&entry(UDP, 53), &[53]), Some(entry(UDP, 53)));
        assert_eq!(entry_of(&entry(UDP, 54), &[53]), None);
        assert_eq!(entry_of(&entry(6, 53), &[53]), None);
        let zoned = [entry(UDP, 53), written(CTA_ZONE, &[0, 7])].concat();
        assert_eq!(entry_of(&zoned, &[53]), Some(zoned.clone()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_none(bytes: Vec<u8>) {
            let _ = entry_of(&bytes, &[0]);
        }
    }
}
