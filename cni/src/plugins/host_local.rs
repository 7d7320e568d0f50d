//! `host-local`: addresses of this host's own, leased in files. The files are those of the reference plugin.

/// What has to hold for any ranges.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use super::Plugin;
use super::request::{Common, Living, Network, Target};
use crate::conf::IpRange;
use crate::ipam::{Files, Lease, Pool, Range, Store, StoreError};
use crate::types::{AddResult, CniError, Code, Dns, IpConfig, Route};

const DEFAULT_FOLDER: &str = "/var/lib/cni/networks";

pub(super) struct HostLocal;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Ipam {
    /// The first form that a range had: one, in the section itself.
    subnet: Option<IpNet>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
    ranges: Vec<Vec<IpRange>>,
    routes: Vec<Route>,
    data_dir: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
}

impl Plugin for HostLocal {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let (ipam, common): (Ipam, Common) = (network.ipam()?, network.conf()?);
        let pools = pools(&ipam, &common)?;
        let mut wanted = wanted(&common, target)?;
        let dns = dns(&ipam)?;
        let files = open(network, &ipam)?;
        let lease = Lease { owner: target.container.to_string(), interface: target.interface.to_string() };
        let mut result = AddResult { routes: ipam.routes, dns, ..AddResult::default() };
        let leased = lease_all(&files, &pools, &mut wanted, &lease, &mut result);
        match leased {
            Ok(()) => Ok(result),
            Err(error) => {
                let undo = result.ips.iter().try_for_each(|ip| files.release(ip.address.addr()));
                Err(match undo {
                    Ok(()) => error,
                    Err(undo) => error.context(format!("giving back addresses failed ({undo}) after")),
                })
            }
        }
    }

    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let ipam: Ipam = network.ipam()?;
        if !folder(network, &ipam).is_dir() {
            return Ok(());
        }
        let (owner, interface) = (target.container.as_str(), target.interface.as_str());
        // Files of the first versions have no interface.
        let own = |lease: &Lease| lease.owner == owner && [interface, ""].contains(&lease.interface.as_str());
        let files = open(network, &ipam)?;
        // What ADD has given is in its result, one address of each pool. Only when it is not all of it everything is read.
        let mut released = 0;
        for ip in network.previous.iter().flat_map(|previous| &previous.ips) {
            let address = ip.address.addr();
            if files.lease(address).map_err(store_error)?.as_ref().is_some_and(own) {
                files.release(address).map_err(store_error)?;
                released += 1;
            }
        }
        if released > 0 && pools(&ipam, &network.conf()?).is_ok_and(|pools| pools.len() == released) {
            return Ok(());
        }
        read_all(files)?.release_where(own).map(drop).map_err(store_error)
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let ipam: Ipam = network.ipam()?;
        let store = read_all(open(network, &ipam)?)?;
        match store.addresses_of(target.container.as_str()).is_empty() {
            false => Ok(()),
            true => {
                Err(CniError::new(Code::INTERNAL, format!("no address is leased to container {}", target.container)))
            }
        }
    }

    fn gc(&self, network: &Network<'_>, living: &Living) -> Result<(), CniError> {
        let ipam: Ipam = network.ipam()?;
        if !folder(network, &ipam).is_dir() {
            return Ok(());
        }
        let mut store = read_all(open(network, &ipam)?)?;
        let dead = |lease: &Lease| !living.has(&lease.owner, &lease.interface);
        store.release_where(dead).map(drop).map_err(store_error)
    }

    fn status(&self, network: &Network<'_>) -> Result<(), CniError> {
        let ipam: Ipam = network.ipam()?;
        let pools = pools(&ipam, &network.conf()?)?;
        let taken: HashSet<IpAddr> = open(network, &ipam)?.addresses().map_err(store_error)?.into_iter().collect();
        let full = pools.iter().find(|pool| pool.next_free(None, |ip| taken.contains(&ip)).is_none());
        match full.and_then(|pool| pool.ranges().first()) {
            None => Ok(()),
            Some(range) => {
                Err(CniError::new(Code::UNAVAILABLE, format!("every address of {} is leased", range.subnet())))
            }
        }
    }
}

/// One address of each pool: the one that was asked for, or the next free one. That the container has none yet is not looked up,
/// which would be to read every lease: the specification forbids a second ADD, and the interface that is there refuses it.
fn lease_all(
    files: &Files,
    pools: &[Pool],
    wanted: &mut Vec<IpAddr>,
    lease: &Lease,
    result: &mut AddResult,
) -> Result<(), CniError> {
    for (index, pool) in pools.iter().enumerate() {
        let of_pool = |ip: &IpAddr| pool.ranges().iter().any(|range| range.subnet().contains(ip));
        let address = match wanted.iter().position(of_pool) {
            Some(position) => {
                let address = wanted.remove(position);
                take(files, pool, address, lease)?;
                address
            }
            None => files.allocate(index, pool, lease).map_err(store_error)?,
        };
        let Some(range) = pool.range_of(address) else { continue };
        let net = IpNet::new(address, range.subnet().prefix_len());
        let net = net.map_err(|error| CniError::of(Code::INTERNAL, &error))?;
        result.ips.push(IpConfig::new(net, Some(range.gateway())));
    }
    match wanted.as_slice() {
        [] => Ok(()),
        [address, ..] => Err(CniError::config(format!("{address} was asked for and is in no range"))),
    }
}

fn take(files: &Files, pool: &Pool, address: IpAddr, lease: &Lease) -> Result<(), CniError> {
    if pool.range_of(address).is_none() {
        return Err(CniError::config(format!("{address} was asked for and is not handed out: a gateway, or no host")));
    }
    match files.take(address, lease).map_err(store_error)? {
        true => Ok(()),
        false => Err(CniError::config(format!("{address} was asked for and is leased to another container"))),
    }
}

/// The runtime's ranges first, then the old form, then the list.
fn pools(ipam: &Ipam, common: &Common) -> Result<Vec<Pool>, CniError> {
    let single = ipam.subnet.map(|subnet| {
        let (range_start, range_end, gateway) = (ipam.range_start, ipam.range_end, ipam.gateway);
        vec![IpRange { subnet, range_start, range_end, gateway }]
    });
    let sets: Vec<_> = common.runtime_config.ip_ranges.iter().chain(single.iter()).chain(&ipam.ranges).collect();
    if sets.is_empty() {
        return Err(CniError::config("ipam: no range is named: set ranges"));
    }
    let mut pools: Vec<Pool> = Vec::new();
    for set in sets {
        let mut ranges: Vec<Range> = Vec::new();
        for one in set {
            if one.subnet != one.subnet.trunc() {
                let reason = format!("ipam: subnet {} has host bits: {} is meant?", one.subnet, one.subnet.trunc());
                return Err(CniError::config(reason));
            }
            let range = Range::new(one.subnet, one.range_start, one.range_end, one.gateway);
            let range = range.map_err(|error| CniError::of(Code::INVALID_CONFIG, &error).context("ipam"))?;
            let others = pools.iter().flat_map(Pool::ranges).chain(&ranges);
            if let Some(other) = others.into_iter().find(|other| other.overlaps(&range)) {
                let reason = format!("ipam: a range of {} overlaps one of {}", range.subnet(), other.subnet());
                return Err(CniError::config(reason));
            }
            if ranges.first().is_some_and(|first| first.gateway().is_ipv4() != range.gateway().is_ipv4()) {
                return Err(CniError::config("ipam: a set of ranges mixes IPv4 and IPv6"));
            }
            ranges.push(range);
        }
        if ranges.is_empty() {
            return Err(CniError::config("ipam: a set of ranges is empty"));
        }
        pools.push(Pool::new(ranges));
    }
    Ok(pools)
}

/// The addresses that were asked for: `ips`, `args.cni.ips` and the variable `IP`, each once.
fn wanted(common: &Common, target: &Target) -> Result<Vec<IpAddr>, CniError> {
    let arguments = target.args.get("IP").unwrap_or_default().split(',').map(str::trim);
    let named = common.runtime_config.ips.iter().chain(&common.args.cni.ips).map(String::as_str).chain(arguments);
    let mut wanted = BTreeMap::new();
    for (order, text) in named.filter(|text| !text.is_empty()).enumerate() {
        let plain = text.split('/').next().unwrap_or_default();
        let address: IpAddr =
            plain.parse().map_err(|_| CniError::config(format!("{text:?} was asked for and is no address")))?;
        wanted.entry(address).or_insert(order);
    }
    let mut wanted: Vec<_> = wanted.into_iter().collect();
    wanted.sort_by_key(|(_, order)| *order);
    Ok(wanted.into_iter().map(|(address, _)| address).collect())
}

fn folder(network: &Network<'_>, ipam: &Ipam) -> PathBuf {
    let folder = ipam.data_dir.clone().filter(|path| !path.as_os_str().is_empty());
    folder.unwrap_or_else(|| DEFAULT_FOLDER.into()).join(network.name.as_str())
}

/// Waits for whoever is at it, until the caller's patience ends.
fn open(network: &Network<'_>, ipam: &Ipam) -> Result<Files, CniError> {
    Files::open_until(folder(network, ipam), network.call.deadline).map_err(store_error)
}

fn read_all(files: Files) -> Result<Store, CniError> {
    files.read_all().map_err(store_error)
}

fn store_error(error: StoreError) -> CniError {
    let code = match error {
        StoreError::Locked { .. } => Code::TRY_AGAIN,
        StoreError::File { .. } => Code::IO,
        _ => Code::INTERNAL,
    };
    CniError::of(code, &error)
}

/// resolv.conf(5), as far as a result has words for it.
fn dns(ipam: &Ipam) -> Result<Dns, CniError> {
    let Some(path) = ipam.resolv_conf.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(Dns::default());
    };
    let text = fs::read_to_string(path)
        .map_err(|error| CniError::of(Code::IO, &error).context(format!("resolvConf {}", path.display())))?;
    Ok(parse_resolv_conf(&text))
}

fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search.extend(words),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pools_of(text: &str) -> Result<Vec<Pool>, CniError> {
        let ipam: Ipam = serde_json::from_str(text).map_err(|error| CniError::of(Code::INVALID_CONFIG, &error))?;
        pools(&ipam, &Common::default())
    }

    #[test]
    fn both_forms_of_a_range_are_read() {
        let pools = pools_of(
            r#"{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "gateway": "10.1.0.254",
                "ranges": [[{"subnet": "fd00::/64"}, {"subnet": "fd01::/64"}]]}"#,
        )
        .unwrap();
        assert_eq!(pools.iter().map(|pool| pool.ranges().len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pools[0].next_free(None, |_| false), Some("10.1.0.9".parse().unwrap()));
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        for bad in [
            "{}",
            r#"{"ranges": [[]]}"#,
            r#"{"ranges": [[{"subnet": "10.1.0.5/24"}]]}"#,
            r#"{"ranges": [[{"subnet": "10.1.0.0/31"}]]}"#,
            r#"{"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}"#,
            r#"{"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]}"#,
            r#"{"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "10.1.0.0/24"}]]}"#,
        ] {
            assert!(pools_of(bad).is_err(), "{bad}");
        }
        pools_of(
            r#"{"ranges": [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.9"},
                {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20"}]]}"#,
        )
        .unwrap();
    }

    #[test]
    fn name_servers_are_read() {
        let dns = parse_resolv_conf("# c\nnameserver 1.1.1.1\nsearch a b\noptions ndots:5\nnameserver\n;x\ndomain d\n");
        assert_eq!((dns.nameservers.len(), dns.search.len(), dns.domain.as_str()), (1, 2, "d"));
    }

    proptest! {
        #[test]
        fn any_resolv_conf_is_read(text: String) {
            parse_resolv_conf(&text);
        }
    }
}
