//! `loopback`: raises `lo`.

use super::Plugin;
use super::link::{inside, kernel};
use super::request::{Network, Target};
use crate::netlink::{LOOPBACK_INDEX, LinkChange, change_link};
use crate::types::{AddResult, CniError, Code, Interface, IpConfig};

pub(super) struct Loopback;

impl Plugin for Loopback {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let netns = target.netns()?;
        let addresses = inside(&netns, |socket| {
            socket.execute(&[change_link(LOOPBACK_INDEX, &LinkChange::Up)]).map_err(kernel)?;
            socket.addresses().map_err(kernel)
        })?;
        if let Some(previous) = &network.previous {
            return Ok(previous.clone());
        }
        let interface = Interface {
            name: "lo".into(),
            mac: "00:00:00:00:00:00".into(),
            sandbox: netns.path().display().to_string(),
            ..Interface::default()
        };
        let own = addresses.iter().filter(|it| it.link == LOOPBACK_INDEX && it.net.addr().is_loopback());
        let ips = own.map(|it| IpConfig { interface: Some(0), ..IpConfig::new(it.net, None) }).collect();
        Ok(AddResult { interfaces: vec![interface], ips, ..AddResult::default() })
    }

    fn del(&self, _network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let Some(netns) = target.netns_if_there()? else { return Ok(()) };
        let down = change_link(LOOPBACK_INDEX, &LinkChange::Down);
        inside(&netns, |socket| socket.execute(&[down]).map_err(kernel))
    }

    fn check(&self, _network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let lo = inside(&target.netns()?, |socket| socket.link(LOOPBACK_INDEX).map_err(kernel))?;
        if lo.up { Ok(()) } else { Err(CniError::new(Code::INTERNAL, "lo: is down")) }
    }
}
