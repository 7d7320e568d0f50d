//! A transaction and its bytes. Pure.

use super::{Expression, Family};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
/// `NFT_SET_MAP`
const SET_MAP: u32 = 8;
/// An attribute's length is 16 bits: so many elements of at most 350 bytes, with their comments, fit into one list.
const ELEMENTS_PER_MESSAGE: usize = 180;
/// A set's user data: type 0 (byte order of keys), four bytes long, 1 (the host's).
const KEY_IN_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
/// User data is at most 256 bytes (NFT_USERDATA_MAXLEN), with two bytes in front and one behind.
const LONGEST_COMMENT: usize = 253;

/// Where a base chain stands in a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Address translation of what comes in; priority dstnat.
    NatPrerouting,
    /// Address translation of what the host itself sends.
    NatOutput,
    /// Address translation of what goes out; priority srcnat.
    NatPostrouting,
    /// A filter before connection tracking.
    RawPrerouting,
    /// A filter of what the host passes on.
    FilterForward,
}

/// The shape of a set, or of a map when it has a value: the parts of its key and of its value, in nft's data types and in
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetType {
    key: (u32, u32),
    value: Option<(u32, u32)>,
}

/// An element of a set, its parts as registers hold them (every part padded to four bytes).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value, in a map.
    pub value: Option<Vec<u8>>,
    /// Free text of at most 253 bytes, kept with it and shown by `nft list`.
    pub comment: Option<String>,
}

impl Element {
    /// An element of a map.
    pub fn pair(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self { key, value: Some(value), comment: None }
    }
}

/// `ipv4_addr` or `ipv6_addr`, `inet_proto`, `inet_service` of nft, and the bytes each takes in registers.
const fn address_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (7, 4),
        Family::V6 => (8, 16),
    }
}
const PROTOCOL: (u32, u32) = (12, 4);
const PORT: (u32, u32) = (13, 4);
const LINK_NAME: (u32, u32) = (41, 16);

/// nft writes a concatenation's type as its parts' types, six bits each.
const fn concat(left: (u32, u32), right: (u32, u32)) -> (u32, u32) {
    (left.0 << 6 | right.0, left.1 + right.1)
}

impl SetType {
    /// protocol . port → address . port
    pub const fn port_to_endpoint(family: Family) -> Self {
        Self { key: concat(PROTOCOL, PORT), value: Some(concat(address_type(family), PORT)) }
    }

    /// address . protocol . port → address . port
    pub const fn endpoint_to_endpoint(family: Family) -> Self {
        let key = concat(concat(address_type(family), PROTOCOL), PORT);
        Self { key, value: Some(concat(address_type(family), PORT)) }
    }

    /// Addresses.
    pub const fn addresses(family: Family) -> Self {
        Self { key: address_type(family), value: None }
    }

    /// address . address
    pub const fn address_pairs(family: Family) -> Self {
        Self { key: concat(address_type(family), address_type(family)), value: None }
    }

    /// Names of links, 16 bytes each.
    pub const fn link_names() -> Self {
        Self { key: LINK_NAME, value: None }
    }

    /// link's name . link's name
    pub const fn link_pairs() -> Self {
        Self { key: concat(LINK_NAME, LINK_NAME), value: None }
    }
}

/// Commands that take effect together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    commands: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Command {
    what: String,
    kind: u16,
    flags: u16,
    family: u8,
    body: Vec<u8>,
}

impl Transaction {
    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// An empty table, whatever was there before.
    pub fn replace_table(&mut self, family: Family, table: &str) {
        self.add_table(family, table);
        self.delete_table(family, table);
        self.add_table(family, table);
    }

    /// A table; no error when it is there.
    pub fn add_table(&mut self, family: Family, table: &str) {
        self.push("add table", table, 0, NLM_F_CREATE, family, |body| body.text(1, table));
    }

    /// Takes a table with all that is in it; an error when there is none.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.push("delete table", table, 2, 0, family, |body| body.text(1, table));
    }

    /// A base chain, accepting what falls through.
    pub fn add_chain(&mut self, family: Family, table: &str, chain: &str, hook: Hook) {
        let (kind, number, priority): (_, u32, i32) = match hook {
            Hook::NatPrerouting => ("nat", 0, -100),
            Hook::NatOutput => ("nat", 3, -100),
            Hook::NatPostrouting => ("nat", 4, 100),
            Hook::RawPrerouting => ("filter", 0, -300),
            Hook::FilterForward => ("filter", 2, 0),
        };
        self.push("add chain", chain, 3, NLM_F_CREATE, family, |body| {
            body.text(1, table);
            body.text(3, chain);
            body.nest(4, |hook| {
                hook.number(1, number);
                hook.number(2, priority as u32);
            });
            body.text(7, kind);
        });
    }

    /// A rule at the end of a chain.
    pub fn add_rule(&mut self, family: Family, table: &str, chain: &str, rule: &[Expression]) {
        self.push("add rule to", chain, 6, NLM_F_CREATE | NLM_F_APPEND, family, |body| {
            body.text(1, table);
            body.text(2, chain);
            body.nest(4, |list| rule.iter().for_each(|expression| expression.write(list)));
        });
    }

    /// Takes all rules out of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.push("empty chain", chain, 8, 0, family, |body| {
            body.text(1, table);
            body.text(2, chain);
        });
    }

    /// A set or map, empty; one that is there keeps its elements.
    pub fn add_set(&mut self, family: Family, table: &str, set: &str, shape: SetType) {
        let id = self.commands.len() as u32;
        self.push("add set", set, 9, NLM_F_CREATE, family, |body| {
            body.text(1, table);
            body.text(2, set);
            body.number(3, if shape.value.is_some() { SET_MAP } else { 0 });
            body.number(4, shape.key.0);
            body.number(5, shape.key.1);
            if let Some(value) = shape.value {
                body.number(6, value.0);
                body.number(7, value.1);
            }
            body.number(10, id);
            if shape.key == LINK_NAME {
                // nft reads a text backwards unless it is told that keys are in the host's order.
                body.bytes(13, &KEY_IN_HOST_ORDER);
            }
        });
    }

    /// Elements of a set. One that is there already is no error, and keeps its comment.
    pub fn add_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.add_elements_with(NLM_F_CREATE, family, table, set, elements);
    }

    /// Elements of a set; an error when one is there.
    pub fn add_new_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.add_elements_with(NLM_F_CREATE | NLM_F_EXCL, family, table, set, elements);
    }

    /// Elements of a set, in place of those with the same keys.
    pub fn replace_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        let keys: Vec<_> = elements.iter().map(|element| element.key.clone()).collect();
        self.add_elements(family, table, set, elements);
        self.delete_elements(family, table, set, &keys);
        self.add_elements(family, table, set, elements);
    }

    fn add_elements_with(&mut self, flags: u16, family: Family, table: &str, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push("add elements to", set, 12, flags, family, |body| elements_of(body, table, set, chunk));
        }
    }

    /// Takes elements of a set by their keys; an error when one is not there.
    pub fn delete_elements(&mut self, family: Family, table: &str, set: &str, keys: &[Vec<u8>]) {
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            let elements: Vec<_> = chunk.iter().map(|key| Element { key: key.clone(), ..Element::default() }).collect();
            self.push("delete elements of", set, 14, 0, family, |body| elements_of(body, table, set, &elements));
        }
    }

    fn push(
        &mut self,
        verb: &str,
        name: &str,
        kind: u16,
        flags: u16,
        family: Family,
        write: impl FnOnce(&mut Attributes),
    ) {
        let mut body = Attributes::default();
        write(&mut body);
        self.commands.push(Command {
            what: format!("nftables: {verb} {name}"),
            kind: NFNL_SUBSYS_NFTABLES << 8 | kind,
            flags,
            family: family.number(),
            body: body.0,
        });
    }

    /// What each acknowledged message does, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.commands.iter().map(|command| command.what.as_str())
    }

    /// The datagram: begin, the commands, each to be acknowledged and numbered from `first` + 1, end.
    pub(super) fn bytes(&self, first: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sequence = first;
        let mut message = |kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]| {
            out.extend(((20 + body.len()) as u32).to_ne_bytes());
            out.extend(kind.to_ne_bytes());
            out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
            out.extend(sequence.to_ne_bytes());
            out.extend(0u32.to_ne_bytes());
            // struct nfgenmsg: family, version, resource
            out.extend([family, 0]);
            out.extend(resource.to_be_bytes());
            out.extend(body);
            sequence = sequence.wrapping_add(1);
        };
        message(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES, &[]);
        for command in &self.commands {
            message(command.kind, command.flags | NLM_F_ACK, command.family, 0, &command.body);
        }
        message(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES, &[]);
        out
    }
}

pub(super) fn elements_of(body: &mut Attributes, table: &str, set: &str, elements: &[Element]) {
    body.text(1, table);
    body.text(2, set);
    body.nest(3, |list| {
        for Element { key, value, comment } in elements {
            list.nest(1, |element| {
                element.nest(1, |data| data.bytes(1, key));
                if let Some(value) = value {
                    element.nest(2, |data| data.bytes(1, value));
                }
                if let Some(comment) = comment {
                    element.bytes(6, &user_data(comment));
                }
            });
        }
    });
}

/// nft's own form: type 0 (a comment), length, text with a NUL.
fn user_data(comment: &str) -> Vec<u8> {
    let text = &comment.as_bytes()[..comment.len().min(LONGEST_COMMENT)];
    [&[0, text.len() as u8 + 1][..], text, &[0]].concat()
}

/// The comment in an element's user data.
pub(super) fn comment_of(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == 0 {
            let text = value.split(|byte| *byte == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
        data = rest;
    }
    None
}

/// Netlink attributes as they are written: length, type, value, padding to four bytes. Numbers are big-endian.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    pub(super) fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Attributes)) {
        let mut inner = Attributes::default();
        write(&mut inner);
        self.bytes(kind | NLA_F_NESTED, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut out = Attributes::default();
        out.nest(3, |inner| inner.text(1, "ab"));
        let expected =
            [&12u16.to_ne_bytes()[..], &0x8003u16.to_ne_bytes(), &7u16.to_ne_bytes(), &1u16.to_ne_bytes(), b"ab\0\0"];
        assert_eq!(out.0, expected.concat());
    }

    #[test]
    fn a_comment_is_read_as_it_was_written() {
        assert_eq!(comment_of(&user_data("c1 eth0")).as_deref(), Some("c1 eth0"));
        assert_eq!(comment_of(&[1, 2, 9, 9, 0, 3, b'a', b'b', 0]).as_deref(), Some("ab"));
        for damaged in [&[][..], &[0], &[0, 200, 1], &[1, 0]] {
            assert_eq!(comment_of(damaged), None);
        }
    }

    #[test]
    fn many_elements_are_split_before_a_length_overflows() {
        let mut transaction = Transaction::default();
        let comment = Some("c".repeat(300));
        let elements = vec![Element { comment, ..Element::pair(vec![0; 24], vec![0; 20]) }; 400];
        transaction.add_elements(Family::V6, "t", "m", &elements);
        assert_eq!(transaction.names().count(), 3);
        assert!(transaction.commands.iter().all(|command| command.body.len() < usize::from(u16::MAX)));
    }
}
