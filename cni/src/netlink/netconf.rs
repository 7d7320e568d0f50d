//! What is true of all links of a namespace: whether packets are passed on.

use super::attributes::{attribute, written};
use super::transport::malformed;
use super::{NetlinkError, Socket};
use crate::nftables::Family;

const RTM_GETNETCONF: u16 = 82;
const NLM_F_REQUEST: u16 = 0x1;
/// `struct nlmsghdr` and `struct netconfmsg`, with its padding
const HEADERS: usize = 20;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// Of all links (`NETCONFA_IFINDEX_ALL`).
const ALL: i32 = -1;

impl Socket {
    /// Whether the namespace passes packets of a family on (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`).
    ///
    /// # Errors
    /// When the kernel does not say; before Linux 3.8, or without that family.
    pub fn forwards(&mut self, family: Family) -> Result<bool, NetlinkError> {
        const WHAT: &str = "ask whether packets are passed on";
        self.get_raw(WHAT, &mut question(family), |answer| {
            forwarding(answer).ok_or_else(|| malformed(WHAT, "the answer does not say it"))
        })
    }
}

fn question(family: Family) -> Vec<u8> {
    // AF_INET and AF_INET6 are NFPROTO_IPV4 and NFPROTO_IPV6.
    let body = [&[family.number(), 0, 0, 0][..], &written(NETCONFA_IFINDEX, &ALL.to_ne_bytes())].concat();
    let mut out = Vec::with_capacity(HEADERS + body.len());
    out.extend(((HEADERS - 4 + body.len()) as u32).to_ne_bytes());
    out.extend(RTM_GETNETCONF.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend([0; 8]);
    out.extend(body);
    out
}

fn forwarding(answer: &[u8]) -> Option<bool> {
    let value = attribute(answer.get(HEADERS..)?, NETCONFA_FORWARDING)?;
    Some(i32::from_ne_bytes(value.try_into().ok()?) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysctl;

    #[test]
    fn the_kernel_says_what_the_sysctls_say() {
        let mut socket = Socket::open().unwrap();
        for (family, path) in
            [(Family::V4, "/proc/sys/net/ipv4/ip_forward"), (Family::V6, "/proc/sys/net/ipv6/conf/all/forwarding")]
        {
            if std::path::Path::new(path).exists() {
                assert_eq!(socket.forwards(family).unwrap(), sysctl::has(path.as_ref(), "1"), "{path}");
            }
        }
        assert_eq!(forwarding(&[0; 30]), None);
    }
}
