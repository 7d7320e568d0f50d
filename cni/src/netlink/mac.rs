//! Ethernet addresses.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr([u8; 6]);

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address: expected six hexadecimal bytes separated by colons")]
pub struct InvalidMac(String);

impl MacAddr {
    /// From its six bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// A locally administered unicast address that carries an IPv4 address in its last four bytes. Whoever gets the IP
    /// address next gets the same Ethernet address, so no neighbour's cache is ever wrong about it.
    pub const fn of_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x0a, 0x58, a, b, c, d])
    }

    /// The same for a pod with only an IPv6 address: its last four bytes.
    pub const fn of_ipv6(address: Ipv6Addr) -> Self {
        let o = address.octets();
        Self([0x0a, 0x5a, o[12], o[13], o[14], o[15]])
    }

    /// A locally administered unicast address out of any 40 bits.
    pub const fn local(bytes: [u8; 5]) -> Self {
        Self([0x0a, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]])
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// The link-local IPv6 address made of it (RFC 4291, appendix A: modified EUI-64).
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            u16::from_be_bytes([a ^ 2, b]),
            u16::from_be_bytes([c, 0xff]),
            u16::from_be_bytes([0xfe, d]),
            u16::from_be_bytes([e, f]),
        )
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn link_local_is_modified_eui_64() {
        let mac: MacAddr = "00:25:96:12:34:56".parse().unwrap();
        assert_eq!(mac.link_local(), "fe80::225:96ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn made_addresses_are_local_and_unicast() {
        for mac in [MacAddr::of_ipv4(Ipv4Addr::new(10, 88, 0, 7)), MacAddr::local([0xff; 5])] {
            assert_eq!(mac.bytes()[0] & 0b11, 0b10, "{mac}");
        }
        assert_eq!(MacAddr::of_ipv4(Ipv4Addr::new(10, 88, 0, 7)).to_string(), "0a:58:0a:58:00:07");
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["", "0a:58", "0a:58:0a:58:00:07:01", "0a:58:0a:58:00:7", "0a:58:0a:58:00:+7", "zz:58:0a:58:00:07"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_agree(bytes: [u8; 6]) {
            let mac = MacAddr::new(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>(), Ok(mac));
        }
    }
}
