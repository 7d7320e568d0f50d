//! A transaction and its bytes. Pure.

use super::{Expression, Family};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
/// `NFT_SET_MAP`
const SET_MAP: u32 = 8;
/// An attribute's length is 16 bits: so many elements of at most 96 bytes fit into one list.
const ELEMENTS_PER_MESSAGE: usize = 500;

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
}

/// The shape of a map: the parts of its key and of its value, in nft's data types and in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapType {
    key: (u32, u32),
    value: (u32, u32),
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

/// nft writes a concatenation's type as its parts' types, six bits each.
const fn concat(left: (u32, u32), right: (u32, u32)) -> (u32, u32) {
    (left.0 << 6 | right.0, left.1 + right.1)
}

impl MapType {
    /// protocol . port → address . port
    pub const fn port_to_endpoint(family: Family) -> Self {
        Self { key: concat(PROTOCOL, PORT), value: concat(address_type(family), PORT) }
    }

    /// address . protocol . port → address . port
    pub const fn endpoint_to_endpoint(family: Family) -> Self {
        let key = concat(concat(address_type(family), PROTOCOL), PORT);
        Self { key, value: concat(address_type(family), PORT) }
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

    /// An empty map.
    pub fn add_map(&mut self, family: Family, table: &str, map: &str, shape: MapType) {
        let id = self.commands.len() as u32;
        self.push("add map", map, 9, NLM_F_CREATE, family, |body| {
            body.text(1, table);
            body.text(2, map);
            body.number(3, SET_MAP);
            body.number(4, shape.key.0);
            body.number(5, shape.key.1);
            body.number(6, shape.value.0);
            body.number(7, shape.value.1);
            body.number(10, id);
        });
    }

    /// Elements of a map, keys and values as their registers hold them (every part padded to four bytes).
    pub fn add_elements(&mut self, family: Family, table: &str, map: &str, elements: &[(Vec<u8>, Vec<u8>)]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push("add elements to", map, 12, NLM_F_CREATE, family, |body| {
                elements_of(body, table, map, chunk.iter().map(|(key, value)| (key, Some(value))));
            });
        }
    }

    /// Takes elements of a map by their keys; an error when one is not there.
    pub fn delete_elements(&mut self, family: Family, table: &str, map: &str, keys: &[Vec<u8>]) {
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            self.push("delete elements of", map, 14, 0, family, |body| {
                elements_of(body, table, map, chunk.iter().map(|key| (key, None)));
            });
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

fn elements_of<'a>(
    body: &mut Attributes,
    table: &str,
    map: &str,
    elements: impl Iterator<Item = (&'a Vec<u8>, Option<&'a Vec<u8>>)>,
) {
    body.text(1, table);
    body.text(2, map);
    body.nest(3, |list| {
        for (key, value) in elements {
            list.nest(1, |element| {
                element.nest(1, |data| data.bytes(1, key));
                if let Some(value) = value {
                    element.nest(2, |data| data.bytes(1, value));
                }
            });
        }
    });
}

/// Netlink attributes as they are written: length, type, value, padding to four bytes. Numbers are big-endian.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
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
    fn many_elements_are_split_before_a_length_overflows() {
        let mut transaction = Transaction::default();
        let elements = vec![(vec![0; 24], vec![0; 20]); 1200];
        transaction.add_elements(Family::V6, "t", "m", &elements);
        assert_eq!(transaction.names().count(), 3);
        assert!(transaction.commands.iter().all(|command| command.body.len() < usize::from(u16::MAX)));
    }
}
