//! Which addresses the bridge has, and which routes the container, given what was leased. Pure.

use ipnet::IpNet;

use super::conf::Conf;
use crate::netlink::Route;
use crate::plugins::link::default_gateway;
use crate::types::{self, AddResult, CniError};

/// What is to be.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The bridge's addresses.
    pub(super) gateways: Vec<IpNet>,
    /// The result, but for the interfaces.
    pub(super) result: AddResult,
}

pub(super) fn plan(conf: &Conf, leased: AddResult) -> Result<Plan, CniError> {
    let mut result = leased;
    let mut gateways: Vec<IpNet> = Vec::new();
    for ip in &mut result.ips {
        if !conf.is_gateway {
            continue;
        }
        // By default the first host, as address plugins mean it.
        let gateway = match ip.gateway.or_else(|| default_gateway(ip.address)) {
            Some(gateway) if gateway != ip.address.addr() => gateway,
            _ => return Err(CniError::config(format!("{} leaves no address for the gateway", ip.address))),
        };
        ip.gateway = Some(gateway);
        let net = IpNet::new(gateway, ip.address.prefix_len()).ok();
        gateways.extend(net.filter(|net| !gateways.contains(net)));
    }
    if conf.is_default_gateway {
        for v4 in [true, false] {
            let everywhere = Route::everywhere(v4);
            let gateway = result.ips_of(v4).find_map(|ip| ip.gateway);
            let has = result.routes.iter().any(|route| route.dst == everywhere);
            if let Some(gateway) = gateway.filter(|_| !has) {
                result.routes.push(types::Route::new(everywhere, Some(gateway)));
            }
        }
    }
    if !conf.dns.is_empty() {
        result.dns = conf.dns.clone();
    }
    Ok(Plan { gateways, result })
}

/// The addresses of the bridge that are in the way of one that it has to have. IPv6 subnets may stand beside each other.
pub(super) fn in_the_way(wanted: IpNet, present: &[IpNet]) -> Vec<IpNet> {
    let overlaps = |other: &IpNet| other.contains(&wanted.addr()) || wanted.contains(&other.addr());
    let link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let same_family = |other: &IpNet| other.addr().is_ipv4() == wanted.addr().is_ipv4();
    let others = present.iter().filter(|other| **other != wanted && same_family(other) && !link_local(other));
    others.filter(|other| wanted.addr().is_ipv4() || overlaps(other)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::IpConfig;

    fn leased() -> AddResult {
        let ip = |address: &str, gateway: &str| IpConfig::new(address.parse().unwrap(), gateway.parse().ok());
        AddResult { ips: vec![ip("10.1.0.5/24", "10.1.0.1"), ip("fd00::5/64", "")], ..AddResult::default() }
    }

    #[test]
    fn a_default_gateway_is_a_gateway_with_routes() {
        let conf = Conf { is_gateway: true, is_default_gateway: true, ..Conf::default() };
        let plan = plan(&conf, leased()).unwrap();
        assert_eq!(plan.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.1/24", "fd00::1/64"]);
        let routes: Vec<_> = plan.result.routes.iter().map(|r| format!("{} {:?}", r.dst, r.gw)).collect();
        assert_eq!(routes, ["0.0.0.0/0 Some(10.1.0.1)", "::/0 Some(fd00::1)"]);
        assert_eq!(crate::plugins::link::mac_of(&plan.result).unwrap().to_string(), "0a:58:0a:01:00:05");
    }

    #[test]
    fn a_default_route_that_is_there_stays_the_only_one() {
        let conf = Conf { is_gateway: true, is_default_gateway: true, ..Conf::default() };
        let mut leased = leased();
        leased.routes.push(types::Route::new("0.0.0.0/0".parse().unwrap(), None));
        assert_eq!(plan(&conf, leased).unwrap().result.routes.len(), 2);
    }

    #[test]
    fn without_a_gateway_nothing_is_added() {
        let plan = plan(&Conf::default(), leased()).unwrap();
        assert!(plan.gateways.is_empty() && plan.result.routes.is_empty());
        assert_eq!(plan.result, leased());
    }

    #[test]
    fn a_container_cannot_be_its_own_gateway() {
        let conf = Conf { is_gateway: true, ..Conf::default() };
        let ips = vec![IpConfig::new("10.1.0.1/24".parse().unwrap(), None)];
        assert!(plan(&conf, AddResult { ips, ..AddResult::default() }).is_err());
    }

    #[test]
    fn ipv6_subnets_stand_beside_each_other_and_ipv4_do_not() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let present = nets(&["10.1.0.1/24", "fd00::1/64", "fe80::1/64"]);
        let way = |wanted: &str| in_the_way(wanted.parse().unwrap(), &present);
        assert_eq!(way("10.2.0.1/24"), nets(&["10.1.0.1/24"]));
        assert_eq!(way("10.1.0.1/24"), []);
        assert_eq!(way("fd01::1/64"), []);
        assert_eq!(way("fd00::2/64"), nets(&["fd00::1/64"]));
    }
}
