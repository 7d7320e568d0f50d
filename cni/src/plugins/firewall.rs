//! `firewall`: where the host's policy is to forward nothing, it forwards for the container. It is chained behind the plugin that
//! gave it addresses.
//!
//! By iptables, because a policy of iptables can be answered by a rule of iptables alone. The chains are the reference plugin's;
//! the container's rules name their owner besides, so that DEL and GC find them without a result.

use serde::Deserialize;

use super::Plugin;
use super::link::{host_socket, kernel};
use super::request::{Living, Network, Target};
use crate::firewall::{Family, Firewall, FirewallError, Place};
use crate::types::{AddResult, CniError, Code};

pub(super) struct Firewalling;

const TABLE: &str = "filter";
const FORWARD: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conf {
    backend: String,
    #[serde(rename = "iptablesAdminChainName")]
    admin_chain: String,
    ingress_policy: String,
}

impl Default for Conf {
    fn default() -> Self {
        Self { backend: String::new(), admin_chain: "CNI-ADMIN".into(), ingress_policy: String::new() }
    }
}

impl Conf {
    fn read(network: &Network<'_>) -> Result<Self, CniError> {
        let conf: Self = network.conf()?;
        let unsupported = |field: &str, value: &str| {
            let msg = format!("{field}: {value:?} is not supported by this plugin");
            Err(CniError::new(Code::UNSUPPORTED_FIELD, msg))
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        let name = conf.admin_chain.as_str();
        if !(1..=28).contains(&name.len()) || !name.bytes().all(plain) || name.starts_with('-') {
            return Err(CniError::config(format!("iptablesAdminChainName: {name:?} is no name of a chain")));
        }
        match (conf.backend.as_str(), conf.ingress_policy.as_str()) {
            ("" | "iptables", "" | "open" | "same-bridge") => Ok(conf),
            ("" | "iptables", policy) => unsupported("ingressPolicy", policy),
            (backend, _) => unsupported("backend", backend),
        }
    }

    fn isolates(&self) -> bool {
        self.ingress_policy == "same-bridge"
    }
}

impl Plugin for Firewalling {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let conf = Conf::read(network)?;
        let (owner, result) = (network.owner(target)?, network.previous()?);
        for (firewall, v4) in firewalls(result)? {
            let made = accept(&firewall, &conf, result, v4, &owner).and_then(|()| match conf.isolates() {
                true => isolate(&firewall, &bridge(result, v4)?),
                false => Ok(()),
            });
            made.map_err(|error| match remove(&|found| found == owner) {
                Ok(()) => error,
                Err(undo) => error.context(format!("taking rules back failed ({undo}) after")),
            })?;
        }
        Ok(result.clone())
    }

    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let owner = network.owner(target)?;
        remove(&|found| found == owner)?;
        // Those that the reference plugin made.
        let Some(result) = &network.previous else { return Ok(()) };
        for (firewall, v4) in firewalls(result)? {
            let present = firewall.rules(TABLE, FORWARD).map_err(failed)?;
            for rule in rules(result, v4, None).iter().filter(|rule| present.contains(rule)) {
                firewall.delete_rule(TABLE, FORWARD, rule).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let conf = Conf::read(network)?;
        let (owner, result) = (network.owner(target)?, network.previous()?);
        for (firewall, v4) in firewalls(result)? {
            let mut wanted = vec![("FORWARD", jump_to_forward()), (FORWARD, jump_to_admin(&conf))];
            wanted.extend(rules(result, v4, Some(&owner)).into_iter().map(|rule| (FORWARD, rule)));
            if conf.isolates() {
                wanted.push(("FORWARD", jump_to_stage_1()));
                wanted.extend(isolation(&bridge(result, v4)?).into_iter().map(|(chain, rule, _)| (chain, rule)));
            }
            for (chain, rule) in wanted {
                if !firewall.rules(TABLE, chain).map_err(failed)?.contains(&rule) {
                    return Err(CniError::new(Code::INTERNAL, format!("{chain} does not have the rule {rule}")));
                }
            }
        }
        Ok(())
    }

    fn gc(&self, _network: &Network<'_>, living: &Living) -> Result<(), CniError> {
        remove(&|owner| living.misses(owner))
    }

    fn status(&self, network: &Network<'_>) -> Result<(), CniError> {
        Conf::read(network)?;
        let found = Firewall::open(Family::V4).map(drop);
        found.map_err(|error| CniError { code: Code::UNAVAILABLE, ..failed(error) })
    }
}

fn failed(error: FirewallError) -> CniError {
    CniError::of(Code::INTERNAL, &error)
}

/// Of each family that the container has addresses of.
fn firewalls(result: &AddResult) -> Result<Vec<(Firewall, bool)>, CniError> {
    let families = [(Family::V4, true), (Family::V6, false)];
    let used = families.into_iter().filter(|(_, v4)| result.ips_of(*v4).next().is_some());
    used.map(|(family, v4)| Ok((Firewall::open(family).map_err(failed)?, v4))).collect()
}

fn jump_to_forward() -> String {
    format!(r#"-m comment --comment "CNI firewall plugin rules" -j {FORWARD}"#)
}

fn jump_to_admin(conf: &Conf) -> String {
    format!(r#"-m comment --comment "CNI firewall plugin admin overrides" -j {}"#, conf.admin_chain)
}

fn jump_to_stage_1() -> String {
    format!(r#"-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)" -j {STAGE_1}"#)
}

/// The container's rules, as `iptables -S` prints them.
fn rules(result: &AddResult, v4: bool, owner: Option<&str>) -> Vec<String> {
    let comment = owner.map(|owner| format!(r#"-m comment --comment "{owner}" "#)).unwrap_or_default();
    let of = |ip: &crate::types::IpConfig| {
        let address = ipnet::IpNet::from(ip.address.addr());
        [
            format!("-d {address} {comment}-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
            format!("-s {address} {comment}-j ACCEPT"),
        ]
    };
    result.ips_of(v4).flat_map(of).collect()
}

fn accept(firewall: &Firewall, conf: &Conf, result: &AddResult, v4: bool, owner: &str) -> Result<(), CniError> {
    for chain in [FORWARD, &conf.admin_chain] {
        firewall.ensure_chain(TABLE, chain).map_err(failed)?;
    }
    firewall.ensure_rule(TABLE, "FORWARD", &jump_to_forward(), Place::First).map_err(failed)?;
    firewall.ensure_rule(TABLE, FORWARD, &jump_to_admin(conf), Place::First).map_err(failed)?;
    for rule in rules(result, v4, Some(owner)) {
        firewall.ensure_rule(TABLE, FORWARD, &rule, Place::Last).map_err(failed)?;
    }
    Ok(())
}

/// The rules of one bridge: what comes in by it and leaves by another isolated one is dropped.
fn isolation(bridge: &str) -> [(&'static str, String, Place); 4] {
    let comment = r#"-m comment --comment "CNI firewall plugin rules""#;
    [
        (STAGE_1, format!("-i {bridge} ! -o {bridge} {comment} -j {STAGE_2}"), Place::First),
        (STAGE_1, format!("{comment} -j RETURN"), Place::Last),
        (STAGE_2, format!("-o {bridge} {comment} -j DROP"), Place::First),
        (STAGE_2, format!("{comment} -j RETURN"), Place::Last),
    ]
}

fn isolate(firewall: &Firewall, bridge: &str) -> Result<(), CniError> {
    for chain in [STAGE_1, STAGE_2] {
        firewall.ensure_chain(TABLE, chain).map_err(failed)?;
    }
    for (chain, rule, place) in isolation(bridge) {
        firewall.ensure_rule(TABLE, chain, &rule, place).map_err(failed)?;
    }
    // Before the containers are accepted.
    let (stage, forward) = (jump_to_stage_1(), jump_to_forward());
    let present = firewall.rules(TABLE, "FORWARD").map_err(failed)?;
    let at = |rule: &String| present.iter().position(|other| other == rule);
    if at(&stage).is_some() && at(&stage) > at(&forward) {
        firewall.delete_rule(TABLE, "FORWARD", &stage).map_err(failed)?;
    }
    firewall.ensure_rule(TABLE, "FORWARD", &stage, Place::First).map_err(failed)
}

/// The bridge that leads to the container.
fn bridge(result: &AddResult, v4: bool) -> Result<String, CniError> {
    let mut socket = host_socket()?;
    for ip in result.ips_of(v4) {
        let Some(index) = socket.link_to(ip.address.addr()).map_err(kernel)? else { continue };
        let link = socket.link(index).map_err(kernel)?;
        if link.kind.as_deref() == Some("bridge") {
            return Ok(link.name);
        }
    }
    // A bridge without addresses has no route to its containers; the result names it first.
    let mut hosts = result.interfaces.iter().filter(|one| one.sandbox.is_empty());
    let named =
        hosts.find_map(|one| socket.link_by_name(&one.name).ok().filter(|it| it.kind.as_deref() == Some("bridge")));
    named
        .map(|link| link.name)
        .ok_or_else(|| CniError::config("ingressPolicy: same-bridge: the container is on no bridge"))
}

/// Takes away the rules of owners that `dead` says so of. A host without the command has no rules.
fn remove(dead: &dyn Fn(&str) -> bool) -> Result<(), CniError> {
    for family in [Family::V4, Family::V6] {
        let firewall = match Firewall::open(family) {
            Err(FirewallError::NotInstalled(_)) => continue,
            other => other.map_err(failed)?,
        };
        for rule in firewall.rules(TABLE, FORWARD).map_err(failed)? {
            if owner_of(&rule).is_some_and(dead) {
                let deleted = firewall.delete_rule(TABLE, FORWARD, &rule);
                // Another call may have been faster.
                let gone = || firewall.rules(TABLE, FORWARD).is_ok_and(|rules| !rules.contains(&rule));
                deleted.or_else(|error| if gone() { Ok(()) } else { Err(failed(error)) })?;
            }
        }
    }
    Ok(())
}

fn owner_of(rule: &str) -> Option<&str> {
    rule.split_once(r#"--comment ""#)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::IpConfig;

    #[test]
    fn rules_read_back_as_they_are_written() {
        let ips = vec![
            IpConfig::new("10.9.0.2/24".parse().unwrap(), None),
            IpConfig::new("fd00::2/64".parse().unwrap(), None),
        ];
        let result = AddResult { ips, ..AddResult::default() };
        assert_eq!(
            rules(&result, true, Some("net c1 eth0")),
            [
                r#"-d 10.9.0.2/32 -m comment --comment "net c1 eth0" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"#,
                r#"-s 10.9.0.2/32 -m comment --comment "net c1 eth0" -j ACCEPT"#,
            ]
        );
        let plain = rules(&result, false, None);
        assert_eq!(plain[1], "-s fd00::2/128 -j ACCEPT");
        assert_eq!(owner_of(&rules(&result, false, Some("a b c"))[0]), Some("a b c"));
        assert_eq!(owner_of(&plain[0]), None);
    }
}
