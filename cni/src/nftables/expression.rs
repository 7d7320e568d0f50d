//! The expressions of a rule. Registers are counted in 32-bit words from 0 to 15.

use super::Family;
use super::message::Attributes;

/// A 32-bit register; longer values take the ones behind it as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// `NFT_REG32_00` is 8; number 0 is the verdict.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What a packet or its context tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The transport protocol's number, 1 byte.
    Protocol,
    /// The name of the link the packet came in by, 16 bytes.
    InputName,
    /// The name of the link it goes out by, 16 bytes.
    OutputName,
    /// The network header's source address, whole or its first bytes.
    Source(Family, u8),
    /// The network header's destination address, whole or its first bytes.
    Destination(Family, u8),
    /// The transport header's destination port, 2 bytes.
    DestinationPort,
    /// The connection's status bits (`IPS_*`), 4 bytes in the host's order.
    ConnectionStatus,
    /// The kind of the destination address (`RTN_*`), 4 bytes in the host's order.
    DestinationType,
}

/// One step of a rule; a step that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Puts a field into registers.
    Load(Field, Register),
    /// Matches when the registers hold these bytes.
    Equal(Register, Vec<u8>),
    /// Matches when they do not.
    NotEqual(Register, Vec<u8>),
    /// Masks registers, in place.
    And(Register, Vec<u8>),
    /// Matches when the map has the key in `.1`; its value goes into the registers from `.2` on.
    Lookup(String, Register, Register),
    /// Matches when the set has the key in the register.
    Member(String, Register),
    /// The destination becomes the address and the port in these registers.
    DestinationNat(Family, Register, Register),
    /// The source becomes the address of the link the packet goes out by.
    Masquerade,
    /// The packet is dropped.
    Drop,
    /// The packet passes this chain.
    Accept,
}

/// Verdicts (`linux/netfilter.h`).
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

impl Expression {
    pub(super) fn write(&self, out: &mut Attributes) {
        match self {
            Self::Load(field, register) => load(*field, *register, out),
            Self::Equal(register, bytes) => compare(0, *register, bytes, out),
            Self::NotEqual(register, bytes) => compare(1, *register, bytes, out),
            Self::And(register, mask) => expression("bitwise", out, |data| {
                data.number(1, register.number());
                data.number(2, register.number());
                data.number(3, mask.len() as u32);
                data.nest(4, |value| value.bytes(1, mask));
                data.nest(5, |value| value.bytes(1, &vec![0; mask.len()]));
            }),
            Self::Lookup(map, key, value) => expression("lookup", out, |data| {
                data.text(1, map);
                data.number(2, key.number());
                data.number(3, value.number());
            }),
            Self::Member(set, key) => expression("lookup", out, |data| {
                data.text(1, set);
                data.number(2, key.number());
            }),
            Self::DestinationNat(family, address, port) => expression("nat", out, |data| {
                data.number(1, 1); // NFT_NAT_DNAT
                data.number(2, family.number().into());
                data.number(3, address.number());
                data.number(5, port.number());
            }),
            Self::Masquerade => expression("masq", out, |_| {}),
            Self::Drop => verdict(NF_DROP, out),
            Self::Accept => verdict(NF_ACCEPT, out),
        }
    }
}

fn load(field: Field, register: Register, out: &mut Attributes) {
    let meta = |key: u32, out: &mut Attributes| {
        expression("meta", out, |data| {
            data.number(1, register.number());
            data.number(2, key);
        });
    };
    let payload = |base: u32, offset: u32, length: u8, out: &mut Attributes| {
        expression("payload", out, |data| {
            data.number(1, register.number());
            data.number(2, base);
            data.number(3, offset);
            data.number(4, length.into());
        });
    };
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    match field {
        Field::Protocol => meta(16, out),
        Field::InputName => meta(6, out),
        Field::OutputName => meta(7, out),
        Field::Source(Family::V4, length) => payload(NETWORK, 12, length, out),
        Field::Source(Family::V6, length) => payload(NETWORK, 8, length, out),
        Field::Destination(Family::V4, length) => payload(NETWORK, 16, length, out),
        Field::Destination(Family::V6, length) => payload(NETWORK, 24, length, out),
        Field::DestinationPort => payload(TRANSPORT, 2, 2, out),
        Field::ConnectionStatus => expression("ct", out, |data| {
            data.number(1, register.number());
            data.number(2, 2); // NFT_CT_STATUS
        }),
        Field::DestinationType => expression("fib", out, |data| {
            data.number(1, register.number());
            data.number(2, 3); // NFT_FIB_RESULT_ADDRTYPE
            data.number(3, 2); // NFTA_FIB_F_DADDR
        }),
    }
}

fn verdict(code: u32, out: &mut Attributes) {
    expression("immediate", out, |data| {
        data.number(1, 0); // NFT_REG_VERDICT
        data.nest(2, |value| value.nest(2, |verdict| verdict.number(1, code)));
    });
}

fn compare(operation: u32, register: Register, bytes: &[u8], out: &mut Attributes) {
    expression("cmp", out, |data| {
        data.number(1, register.number());
        data.number(2, operation);
        data.nest(3, |value| value.bytes(1, bytes));
    });
}

fn expression(name: &str, out: &mut Attributes, data: impl FnOnce(&mut Attributes)) {
    // NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA }
    out.nest(1, |element| {
        element.text(1, name);
        element.nest(2, data);
    });
}
