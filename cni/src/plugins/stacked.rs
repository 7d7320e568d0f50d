//! `macvlan`, `ipvlan` and `vlan`: a link on top of one of the host's, made in the container by one message.

use std::os::fd::AsFd;

use serde::Deserialize;

use super::link::{asked_mac, delete_inside, describe, host_socket, inside, kernel};
use super::request::{Common, Network, Target};
use super::sandbox::{self, Duplicates};
use super::{Plugin, delegate};
use crate::netlink::{self, IpVlanMode, Link, MacAddr, MacVlanMode, NetlinkError, Socket, StackedKind, create_stacked};
use crate::netns::Netns;
use crate::sysctl;
use crate::types::{AddResult, CniError, Code, Command, Dns};

/// One of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stacked {
    MacVlan,
    IpVlan,
    Vlan,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conf {
    /// The link below; by default that of the default route, but for `vlan`.
    master: String,
    mode: String,
    /// 0: the lower link's.
    mtu: u32,
    vlan_id: u16,
    mac: String,
    /// The link below is the container's too.
    link_in_container: bool,
    dns: Dns,
}

/// What is to be made.
#[derive(Debug)]
struct Plan {
    kind: StackedKind,
    mac: Option<MacAddr>,
    conf: Conf,
}

impl Plugin for Stacked {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let plan = self.plan(network, target)?;
        let netns = target.netns()?;
        let leased = delegate::add(network)?;
        let given = leased.clone().or_else(|| self.given_before(network)).unwrap_or_default();
        let made = self.connect(&plan, target, &netns, given);
        made.map_err(|error| delegate::undo(network, &leased.unwrap_or_default(), error))
    }

    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        delete_inside(target)?;
        delegate::del(network)
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let plan = self.plan(network, target)?;
        let result = network.previous()?;
        delegate::pass_on(network, Command::Check)?;
        let netns = target.netns()?;
        let name = target.interface.as_str();
        let link = inside(&netns, |socket| sandbox::check(socket, name, result))?;
        if link.kind.as_deref() != Some(self.kind_name()) {
            let kind = link.kind.unwrap_or_default();
            return Err(CniError::new(Code::INTERNAL, format!("{name}: is {kind:?} and no {}", self.kind_name())));
        }
        let find = |socket: &mut Socket| self.lower(socket, &plan.conf);
        let lower = match plan.conf.link_in_container {
            true => inside(&netns, find)?,
            false => find(&mut host_socket()?)?,
        };
        match link.lower == Some(lower.index) {
            true => Ok(()),
            false => Err(CniError::new(Code::INTERNAL, format!("{name}: does not stand on {}", lower.name))),
        }
    }

    fn gc(&self, network: &Network<'_>, _living: &super::request::Living) -> Result<(), CniError> {
        // The links are the containers' own and go with them.
        delegate::pass_on(network, Command::Gc)
    }

    fn status(&self, network: &Network<'_>) -> Result<(), CniError> {
        let conf: Conf = network.conf()?;
        if !conf.link_in_container {
            let found = self.lower(&mut host_socket()?, &conf);
            found.map_err(|error| CniError { code: Code::UNAVAILABLE, ..error })?;
        }
        delegate::pass_on(network, Command::Status)
    }
}

impl Stacked {
    fn kind_name(self) -> &'static str {
        match self {
            Self::MacVlan => "macvlan",
            Self::IpVlan => "ipvlan",
            Self::Vlan => "vlan",
        }
    }

    fn plan(self, network: &Network<'_>, target: &Target) -> Result<Plan, CniError> {
        let conf: Conf = network.conf()?;
        let mac = match self {
            Self::MacVlan => asked_mac(&network.conf::<Common>()?, &conf.mac, target)?,
            Self::IpVlan | Self::Vlan => None,
        };
        Ok(Plan { kind: self.kind(&conf)?, mac, conf })
    }

    fn kind(self, conf: &Conf) -> Result<StackedKind, CniError> {
        Ok(match self {
            Self::MacVlan => StackedKind::MacVlan(match conf.mode.as_str() {
                "" | "bridge" => MacVlanMode::Bridge,
                "private" => MacVlanMode::Private,
                "vepa" => MacVlanMode::Vepa,
                "passthru" => MacVlanMode::Passthrough,
                other => return Err(CniError::config(format!("mode: macvlan has no {other:?}"))),
            }),
            Self::IpVlan => StackedKind::IpVlan(match conf.mode.as_str() {
                "" | "l2" => IpVlanMode::L2,
                "l3" => IpVlanMode::L3,
                "l3s" => IpVlanMode::L3S,
                other => return Err(CniError::config(format!("mode: ipvlan has no {other:?}"))),
            }),
            Self::Vlan if conf.master.is_empty() => return Err(CniError::config("master: is missing")),
            Self::Vlan if conf.vlan_id > 4094 => return Err(CniError::config("vlanId: is not between 0 and 4094")),
            Self::Vlan => StackedKind::Vlan(conf.vlan_id),
        })
    }

    /// `ipvlan` may be chained behind a plugin that has given addresses.
    fn given_before(self, network: &Network<'_>) -> Option<AddResult> {
        let previous = network.previous.as_ref().filter(|_| self == Self::IpVlan)?;
        Some(AddResult { interfaces: Vec::new(), ..previous.clone() })
    }

    fn connect(self, plan: &Plan, target: &Target, netns: &Netns, leased: AddResult) -> Result<AddResult, CniError> {
        let name = target.interface.as_str();
        match plan.conf.link_in_container {
            true => inside(netns, |socket| self.create(socket, plan, name, netns))?,
            false => self.create(&mut host_socket()?, plan, name, netns)?,
        }
        let found = inside(netns, |socket| {
            let configured = configure(socket, name, &leased);
            configured.map_err(|error| match super::link::delete(socket, name) {
                Ok(()) => error,
                Err(undo) => error.context(format!("deleting {name} failed ({undo}) after")),
            })
        })?;
        let mut result = leased;
        for ip in &mut result.ips {
            ip.interface = Some(0);
        }
        if !plan.conf.dns.is_empty() {
            result.dns = plan.conf.dns.clone();
        }
        result.interfaces = vec![describe(&found, &netns.path().display().to_string())];
        Ok(result)
    }

    fn create(self, socket: &mut Socket, plan: &Plan, name: &str, netns: &Netns) -> Result<(), CniError> {
        let lower = self.lower(socket, &plan.conf)?;
        if plan.conf.mtu > lower.mtu {
            let reason = format!("mtu: {} is more than the {} of {}", plan.conf.mtu, lower.mtu, lower.name);
            return Err(CniError::config(reason));
        }
        let stacked = netlink::Stacked {
            name,
            lower: lower.index,
            kind: plan.kind,
            mac: plan.mac,
            mtu: Some(plan.conf.mtu).filter(|mtu| *mtu != 0),
            netns: netns.as_fd(),
        };
        socket.execute(&[create_stacked(&stacked)]).map_err(|error| self.explain(error))
    }

    /// The kernel says only that it does not know the kind.
    fn explain(self, error: NetlinkError) -> CniError {
        let unknown = error.errno() == Some(libc::EOPNOTSUPP);
        let error = kernel(error);
        match unknown {
            true => error.context(format!("this kernel has no {}", self.kind_name())),
            false => error,
        }
    }

    /// The link below.
    fn lower(self, socket: &mut Socket, conf: &Conf) -> Result<Link, CniError> {
        if !conf.master.is_empty() {
            return match socket.link_by_name(&conf.master) {
                Err(error) if error.not_found() => {
                    Err(CniError::config(format!("master: there is no {}", conf.master)))
                }
                other => other.map_err(kernel),
            };
        }
        let routes = socket.routes().map_err(kernel)?;
        match routes.iter().find(|route| route.destination.prefix_len() == 0) {
            Some(route) => socket.link(route.link).map_err(kernel),
            None => Err(CniError::config("master: is missing, and there is no default route to take it from")),
        }
    }
}

/// Addresses of a network that others are on too, so they are checked for duplicates; and the neighbours are told.
fn configure(socket: &mut Socket, name: &str, result: &AddResult) -> Result<Link, CniError> {
    for (family, sysctl) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
        sysctl::set_of(family, name, sysctl, "1").map_err(|error| CniError::of(Code::IO, &error))?;
    }
    let link = socket.link_by_name(name).map_err(kernel)?;
    let setup = sandbox::setup(link.index, link.mac, result, Duplicates::Detect);
    sandbox::apply(socket, &link, &setup, result)?;
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(plugin: Stacked, text: &str) -> Option<StackedKind> {
        plugin.kind(&serde_json::from_str(text).unwrap()).ok()
    }

    #[test]
    fn modes_are_the_kernels() {
        assert_eq!(kind(Stacked::MacVlan, "{}"), Some(StackedKind::MacVlan(MacVlanMode::Bridge)));
        assert_eq!(
            kind(Stacked::MacVlan, r#"{"mode":"passthru"}"#),
            Some(StackedKind::MacVlan(MacVlanMode::Passthrough))
        );
        assert_eq!(kind(Stacked::MacVlan, r#"{"mode":"l2"}"#), None);
        assert_eq!(kind(Stacked::IpVlan, "{}"), Some(StackedKind::IpVlan(IpVlanMode::L2)));
        assert_eq!(kind(Stacked::IpVlan, r#"{"mode":"l3s"}"#), Some(StackedKind::IpVlan(IpVlanMode::L3S)));
        assert_eq!(kind(Stacked::IpVlan, r#"{"mode":"bridge"}"#), None);
        assert_eq!(kind(Stacked::Vlan, r#"{"master":"eth0","vlanId":5}"#), Some(StackedKind::Vlan(5)));
        assert_eq!(kind(Stacked::Vlan, r#"{"vlanId":5}"#), None);
        assert_eq!(kind(Stacked::Vlan, r#"{"master":"eth0","vlanId":4095}"#), None);
    }
}
