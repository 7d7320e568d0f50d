//! Ranges of addresses and the choice of the next free one. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A run of addresses of one subnet that may be handed out: never the network's own address, the broadcast address or
/// the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNet,
    first: IpAddr,
    last: IpAddr,
    gateway: IpAddr,
}

/// A range that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address range in {subnet}: {reason}")]
pub struct InvalidRange {
    subnet: IpNet,
    reason: &'static str,
}

impl Range {
    /// The whole of a subnet; its first host is the gateway.
    ///
    /// # Errors
    /// When the subnet has no room for a gateway and one more host.
    pub fn whole(subnet: IpNet) -> Result<Self, InvalidRange> {
        Self::new(subnet, None, None, None)
    }

    /// A part of a subnet. By default `first` and `gateway` are the first host and `last` is the last host.
    ///
    /// # Errors
    /// When the subnet is too small, or a bound or the gateway lies outside it, or the bounds are crossed.
    pub fn new(
        subnet: IpNet,
        first: Option<IpAddr>,
        last: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Self, InvalidRange> {
        let subnet = subnet.trunc();
        let invalid = |reason| InvalidRange { subnet, reason };
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(invalid("too small: a gateway and a host need a prefix of at most /30 (IPv6: /126)"));
        }
        let lowest = step(subnet.network(), 1);
        let highest = match subnet {
            IpNet::V4(v4) => step(v4.broadcast().into(), -1),
            IpNet::V6(v6) => v6.broadcast().into(),
        };
        let first = first.unwrap_or(lowest);
        let last = last.unwrap_or(highest);
        let gateway = gateway.unwrap_or(lowest);
        if !subnet.contains(&first) || !subnet.contains(&last) || first < lowest || last > highest {
            return Err(invalid("a bound is not one of the subnet's hosts"));
        }
        if first > last {
            return Err(invalid("the last address comes before the first"));
        }
        if gateway.is_ipv4() != first.is_ipv4() {
            return Err(invalid("the gateway is of the other address family"));
        }
        Ok(Self { subnet, first, last, gateway })
    }

    /// The subnet around the range.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The address that is not handed out because the host has it.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Whether both would hand out the same address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// Whether the range would ever hand this address out.
    pub fn offers(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && self.first <= address
            && address <= self.last
            && address != self.gateway
    }
}

/// One address is chosen from a pool: its ranges in order, round robin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    ranges: Vec<Range>,
}

impl Pool {
    /// A pool of ranges; they should be of one address family and not overlap.
    pub fn new(ranges: Vec<Range>) -> Self {
        Self { ranges }
    }

    /// Its ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// The range that would hand out this address.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.offers(address))
    }

    /// The next address after `last` that is not taken, going around once; none when all are. Starting behind the address
    /// handed out last leaves a released one alone for as long as possible: its old owner's namespace, connections and
    /// neighbours may still be dying.
    pub fn next_free(&self, last: Option<IpAddr>, mut taken: impl FnMut(IpAddr) -> bool) -> Option<IpAddr> {
        let start = last.and_then(|last| self.ranges.iter().position(|range| range.offers(last)).map(|i| (i, last)));
        let mut free = |range: &Range, from: IpAddr, to: IpAddr| {
            let mut address = from;
            loop {
                if address != range.gateway && !taken(address) {
                    return Some(address);
                }
                if address >= to {
                    return None;
                }
                address = step(address, 1);
            }
        };
        let Some((index, last)) = start else {
            return self.ranges.iter().find_map(|range| free(range, range.first, range.last));
        };
        let (before, after) = self.ranges.split_at(index);
        let (current, after) = after.split_first()?;
        let rest = (last < current.last).then(|| free(current, step(last, 1), current.last)).flatten();
        rest.or_else(|| after.iter().chain(before).find_map(|range| free(range, range.first, range.last)))
            .or_else(|| free(current, current.first, last))
    }
}

/// The address `by` further on; the caller knows that there is one.
fn step(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add_signed(by.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add_signed(by.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_whole_subnet_keeps_its_own_addresses_back() {
        let range = Range::whole(net("10.1.0.99/29")).unwrap();
        let pool = Pool::new(vec![range]);
        let mut taken = HashSet::new();
        while let Some(address) = pool.next_free(None, |a| taken.contains(&a)) {
            taken.insert(address);
        }
        let expected: HashSet<IpAddr> = (98..=102).map(|n| ip(&format!("10.1.0.{n}"))).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_released_address_comes_last() {
        let pool = Pool::new(vec![Range::whole(net("10.1.0.0/29")).unwrap()]);
        let next = |last: &str| pool.next_free(Some(ip(last)), |_| false);
        assert_eq!(next("10.1.0.2"), Some(ip("10.1.0.3")));
        assert_eq!(next("10.1.0.6"), Some(ip("10.1.0.2")));
    }

    #[test]
    fn ranges_follow_each_other() {
        let range =
            |first: &str, last: &str| Range::new(net("fd00::/64"), Some(ip(first)), Some(ip(last)), None).unwrap();
        let pool = Pool::new(vec![range("fd00::10", "fd00::11"), range("fd00::20", "fd00::20")]);
        let mut last = None;
        let mut order = Vec::new();
        for _ in 0..4 {
            last = pool.next_free(last, |_| false);
            order.push(last.unwrap().to_string());
        }
        assert_eq!(order, ["fd00::10", "fd00::11", "fd00::20", "fd00::10"]);
    }

    #[test]
    fn impossible_ranges_are_refused() {
        for small in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127"] {
            assert!(Range::whole(net(small)).is_err(), "{small}");
        }
        let bounds = |first: &str, last: &str| Range::new(net("10.1.0.0/24"), Some(ip(first)), Some(ip(last)), None);
        assert!(bounds("10.1.0.9", "10.1.0.8").is_err());
        assert!(bounds("10.1.0.0", "10.1.0.8").is_err());
        assert!(bounds("10.1.0.9", "10.1.0.255").is_err());
        assert!(bounds("10.2.0.9", "10.1.0.10").is_err());
        assert!(bounds("fd00::1", "10.1.0.10").is_err());
        assert!(Range::new(net("10.1.0.0/24"), None, None, Some(ip("fd00::1"))).is_err());
        assert!(Range::whole(net("0.0.0.0/0")).is_ok());
    }

    fn subnets() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 24u8..=30).prop_map(|(a, p)| IpNet::new(Ipv4Addr::from(a).into(), p).unwrap()),
            (any::<u128>(), 120u8..=126).prop_map(|(a, p)| IpNet::new(Ipv6Addr::from(a).into(), p).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn every_address_is_handed_out_once_and_no_reserved_one(subnet in subnets(), last in any::<u8>()) {
            let range = Range::whole(subnet).unwrap();
            let hosts = 1usize << (subnet.max_prefix_len() - subnet.prefix_len());
            // IPv4: network, gateway, broadcast; IPv6: network (the router anycast address) and gateway.
            let reserved = if subnet.addr().is_ipv4() { 3 } else { 2 };
            let pool = Pool::new(vec![range.clone()]);
            let mut taken = HashSet::new();
            let mut last = Some(step(subnet.network(), (last % 64) as i8));
            while let Some(address) = pool.next_free(last, |a| taken.contains(&a)) {
                prop_assert!(subnet.contains(&address) && address != range.gateway());
                prop_assert!(address != subnet.network());
                if subnet.addr().is_ipv4() { prop_assert!(address != subnet.broadcast()); }
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), hosts - reserved);
        }

        #[test]
        fn a_single_free_address_is_always_found(subnet in subnets(), last in any::<u8>(), free in any::<u8>()) {
            let range = Range::whole(subnet).unwrap();
            let hosts: Vec<_> = subnet.hosts().filter(|h| range.offers(*h)).collect();
            let free = hosts[free as usize % hosts.len()];
            let last = hosts[last as usize % hosts.len()];
            let found = Pool::new(vec![range]).next_free(Some(last), |a| a != free);
            prop_assert_eq!(found, Some(free));
        }
    }
}
