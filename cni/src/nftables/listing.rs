//! What is there: sets of a table, elements of a set.

use super::message::{Attributes, comment_of, elements_of};
use super::socket::turn;
use super::{Element, Family, Nftables};
use crate::netlink::NetlinkError;
use crate::netlink::attributes::{attribute, attributes};
use crate::netlink::reply::Body;
use crate::netlink::transport::refused;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETSET: u16 = 10;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
/// `struct nlmsghdr` and `struct nfgenmsg`
const HEADERS: usize = 20;
/// `nfgenmsg.res_id`: the number of the ruleset, which every commit raises.
const GENERATION: std::ops::Range<usize> = 18..20;
/// How often a listing is begun anew.
const MOST_ATTEMPTS: usize = 100;

impl Nftables {
    /// The names of a table's sets and maps; none when there is no table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn sets(&mut self, family: Family, table: &str) -> Result<Vec<String>, NetlinkError> {
        let bodies = self.dump("nftables: list sets", NFT_MSG_GETSET, family, &[table])?;
        Ok(bodies.iter().filter_map(|body| attribute(body, 2)).map(text).collect())
    }

    /// The elements of a set or map; none when it is not there.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let bodies = self.dump("nftables: list elements", NFT_MSG_GETSETELEM, family, &[table, set])?;
        let lists = bodies.iter().map(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default());
        Ok(lists.flat_map(attributes).filter_map(|(_, element)| element_of(element)).collect())
    }

    /// The element of a key; none when it, its set or its table is not there.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn element(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        key: &[u8],
    ) -> Result<Option<Element>, NetlinkError> {
        const WHAT: &str = "nftables: look up an element";
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let wanted = Element { key: key.to_vec(), ..Element::default() };
        let mut body = Attributes::default();
        elements_of(&mut body, table, set, &[wanted]);
        self.transport.send(&request(NFT_MSG_GETSETELEM, NLM_F_REQUEST, family, sequence, &body.into_bytes()))?;
        let (mut answered, mut found) = (false, None);
        while !answered {
            self.transport.receive(WHAT, |frame| {
                if frame.sequence != sequence {
                    return Ok(());
                }
                answered = true;
                match frame.body {
                    Body::Data(bytes) => {
                        let list = attribute(bytes.get(HEADERS..).unwrap_or_default(), NFTA_SET_ELEM_LIST_ELEMENTS);
                        found = attributes(list.unwrap_or_default()).find_map(|(_, element)| element_of(element));
                        Ok(())
                    }
                    Body::Acknowledgement { errno: 0 | libc::ENOENT, .. } | Body::Done { .. } => Ok(()),
                    Body::Acknowledgement { errno, detail } => Err(refused(WHAT, errno, detail)),
                }
            })?;
        }
        Ok(found)
    }

    /// Asks for a listing, until one is whole; `names` are the request's first attributes.
    fn dump(&mut self, what: &str, kind: u16, family: Family, names: &[&str]) -> Result<Vec<Vec<u8>>, NetlinkError> {
        for _ in 0..MOST_ATTEMPTS {
            // In this process nobody changes anything meanwhile.
            let _turn = turn();
            if let Some(bodies) = self.try_dump(what, kind, family, names)? {
                return Ok(bodies);
            }
        }
        Err(refused(what, libc::EAGAIN, Some("the rules keep changing while they are listed".into())))
    }

    /// None when something was changed meanwhile: the kernel goes on by a count of what it has told, so elements may be missing.
    fn try_dump(
        &mut self,
        what: &str,
        kind: u16,
        family: Family,
        names: &[&str],
    ) -> Result<Option<Vec<Vec<u8>>>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut body = Attributes::default();
        for (kind, name) in (1..).zip(names) {
            body.text(kind, name);
        }
        self.transport.send(&request(kind, NLM_F_REQUEST | NLM_F_DUMP, family, sequence, &body.into_bytes()))?;
        let (mut done, mut interrupted, mut generation, mut bodies) = (false, false, None, Vec::new());
        while !done {
            self.transport.receive(what, |frame| {
                if frame.sequence != sequence {
                    return Ok(());
                }
                interrupted |= frame.interrupted;
                match frame.body {
                    Body::Data(bytes) => {
                        let told = bytes.get(GENERATION).map(<[u8]>::to_vec);
                        interrupted |= generation.get_or_insert_with(|| told.clone()) != &told;
                        bodies.push(bytes.get(HEADERS..).unwrap_or_default().to_vec());
                    }
                    Body::Done { errno: 0 } | Body::Acknowledgement { errno: 0, .. } => done = true,
                    Body::Done { errno: libc::ENOENT } | Body::Acknowledgement { errno: libc::ENOENT, .. } => {
                        done = true
                    }
                    Body::Done { errno } => return Err(refused(what, errno, None)),
                    Body::Acknowledgement { errno, detail } => return Err(refused(what, errno, detail)),
                }
                Ok(())
            })?;
        }
        Ok((!interrupted).then_some(bodies))
    }
}

fn request(kind: u16, flags: u16, family: Family, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADERS + body.len());
    out.extend(((HEADERS + body.len()) as u32).to_ne_bytes());
    out.extend((NFNL_SUBSYS_NFTABLES << 8 | kind).to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([family.number(), 0, 0, 0]);
    out.extend(body);
    out
}

fn text(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn element_of(element: &[u8]) -> Option<Element> {
    let data = |kind| attribute(element, kind).and_then(|data| attribute(data, 1)).map(<[u8]>::to_vec);
    Some(Element { key: data(1)?, value: data(2), comment: attribute(element, 6).and_then(comment_of) })
}
