//! `static`: the addresses that the configuration or the runtime names. It keeps nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::Plugin;
use super::request::{Common, Network, Target};
use crate::types::{AddResult, CniError, Code, Dns, IpConfig, Route};

pub(super) struct Static;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: String,
    #[serde(default)]
    gateway: Option<IpAddr>,
}

impl Plugin for Static {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        plan(&network.ipam()?, &network.conf()?, target)
    }

    fn del(&self, _network: &Network<'_>, _target: &Target) -> Result<(), CniError> {
        Ok(())
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let expected = plan(&network.ipam()?, &network.conf()?, target)?;
        let previous = network.previous()?;
        let is_there = |ip: &&IpConfig| previous.ips.iter().any(|other| other.address == ip.address);
        match expected.ips.iter().find(|ip| !is_there(ip)) {
            None => Ok(()),
            Some(ip) => Err(CniError::new(Code::INTERNAL, format!("static: the result does not have {}", ip.address))),
        }
    }
}

/// What the runtime names (`ips`, then `args.cni.ips`, then `IP` and `GATEWAY`) takes the place of the configuration's.
fn plan(ipam: &Ipam, common: &Common, target: &Target) -> Result<AddResult, CniError> {
    let gateways: Vec<IpAddr> = list(target.args.get("GATEWAY")).map(gateway).collect::<Result<_, _>>()?;
    let gateway_of = |net: &IpNet| gateways.iter().find(|gateway| net.contains(*gateway)).copied();
    let runtime = &common.runtime_config.ips;
    let arguments: Vec<String> = list(target.args.get("IP")).map(str::to_owned).collect();
    let named = [runtime, &common.args.cni.ips, &arguments].into_iter().find(|list| !list.is_empty());
    let ips: Vec<IpConfig> = match named {
        Some(named) => {
            let ip = |text: &String| address(text).map(|net| IpConfig::new(net, gateway_of(&net)));
            named.iter().map(ip).collect::<Result<_, _>>()?
        }
        None => {
            let ip = |one: &Address| address(&one.address).map(|net| IpConfig::new(net, one.gateway));
            ipam.addresses.iter().map(ip).collect::<Result<_, _>>()?
        }
    };
    Ok(AddResult { ips, routes: ipam.routes.clone(), dns: ipam.dns.clone(), ..AddResult::default() })
}

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn address(text: &str) -> Result<IpNet, CniError> {
    text.parse().map_err(|_| CniError::config(format!("static: {text:?} is no address with a prefix length")))
}

fn gateway(text: &str) -> Result<IpAddr, CniError> {
    text.parse().map_err(|_| CniError::config(format!("static: gateway {text:?} is no address")))
}
