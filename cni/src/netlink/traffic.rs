//! Traffic control: a token bucket that limits what a link sends, and a redirection of what it receives (tc(8)).

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::attributes::written;
use super::socket::Request;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLA_F_NESTED: u16 = 0x8000;
/// The option's attribute of a message (`TCA_OPTIONS`).
const OPTIONS: u16 = 2;
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// What waits longer than this is dropped: 25 ms.
const LATENCY_US: u64 = 25_000;

/// The message that limits what a link sends. `rate` in bytes per second, `burst` in bytes.
pub fn limit_rate(link: u32, rate: u64, burst: u32) -> Request {
    Request {
        what: format!("limit link {link} to {rate} bytes per second"),
        message: RouteNetlinkMessage::NewQueueDiscipline(message(link, TcHandle::ROOT, "tbf", &bucket(rate, burst))),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// The message that gives a link a place for filters of what it receives.
pub fn add_ingress(link: u32) -> Request {
    let mut message = message(link, TcHandle { major: 0xffff, minor: 0xfff1 }, "ingress", &[]);
    message.header.handle = INGRESS;
    Request {
        what: format!("add ingress filters to link {link}"),
        message: RouteNetlinkMessage::NewQueueDiscipline(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// The message that redirects all that a link receives to another link, which sends it as its own.
pub fn redirect_ingress(link: u32, to: u32) -> Request {
    const ETH_P_ALL: u16 = 3;
    let mut message = message(link, INGRESS, "u32", &redirection(to));
    message.header.info = 1 << 16 | u32::from(ETH_P_ALL.to_be());
    Request {
        what: format!("redirect what link {link} receives to link {to}"),
        message: RouteNetlinkMessage::NewTrafficFilter(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

fn message(link: u32, parent: TcHandle, kind: &str, options: &[u8]) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(link).unwrap_or_default();
    message.header.parent = parent;
    message.attributes.push(TcAttribute::Kind(kind.into()));
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS | NLA_F_NESTED, options.to_vec())));
    }
    message
}

/// `struct tc_tbf_qopt` (TCA_TBF_PARMS) with the rate (TCA_TBF_RATE64) and the burst (TCA_TBF_BURST) in full.
fn bucket(rate: u64, burst: u32) -> Vec<u8> {
    const LINKLAYER_ETHERNET: u8 = 1;
    let limit = (rate.saturating_mul(LATENCY_US) / 1_000_000).saturating_add(burst.into());
    let mut parms = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    parms.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    parms.extend([0; 12]); // no peak rate
    parms.extend(u32::try_from(limit).unwrap_or(u32::MAX).to_ne_bytes());
    parms.extend([0; 8]); // buffer and mtu follow from the burst
    let mut out = written(1, &parms);
    if rate > u32::MAX.into() {
        out.extend(written(4, &rate.to_ne_bytes()));
    }
    out.extend(written(6, &burst.to_ne_bytes()));
    out
}

/// A u32 selector that matches everything, with the action mirred.
fn redirection(to: u32) -> Vec<u8> {
    const TERMINAL: u8 = 1;
    const STOLEN: i32 = 4;
    const EGRESS_REDIRECT: i32 = 1;
    // struct tc_u32_sel with one struct tc_u32_key of nothing but zeros
    let mut selector = vec![0; 32];
    selector[0] = TERMINAL;
    selector[2] = 1;
    let mut mirred = vec![0; 8];
    mirred.extend(STOLEN.to_ne_bytes());
    mirred.extend([0; 8]);
    mirred.extend(EGRESS_REDIRECT.to_ne_bytes());
    mirred.extend(to.to_ne_bytes());
    let action = [written(1, b"mirred\0"), written(OPTIONS | NLA_F_NESTED, &written(2, &mirred))].concat();
    let actions = written(1 | NLA_F_NESTED, &action);
    [written(5, &selector), written(7 | NLA_F_NESTED, &actions)].concat()
}
