//! `bandwidth`: limits on a container's traffic, by token buckets on the host's side of its pair of links. It is chained behind
//! the plugin that made the pair.

use serde::Deserialize;

use super::Plugin;
use super::link::{delete, describe, host_socket, inside, kernel, short_hash};
use super::request::{Common, Living, Network, Target};
use crate::conf;
use crate::netlink::{
    Link, LinkChange, Socket, add_ingress, change_link, create_ifb, limit_rate, raise_link, redirect_ingress,
};
use crate::types::{AddResult, CniError, Code};

pub(super) struct Bandwidth;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conf {
    #[serde(flatten)]
    limits: conf::Bandwidth,
    shaped_subnets: Vec<String>,
    unshaped_subnets: Vec<String>,
}

/// A bucket: bytes per second, and bytes.
type Bucket = (u64, u32);

impl Plugin for Bandwidth {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let (ingress, egress) = limits(network)?;
        let result = network.previous()?;
        if ingress.is_none() && egress.is_none() {
            return Ok(result.clone());
        }
        let mut socket = host_socket()?;
        let host = host_end(&mut socket, target, result)?;
        if let Some((rate, burst)) = ingress {
            socket.execute(&[limit_rate(host.index, rate, burst)]).map_err(kernel)?;
        }
        let mut result = result.clone();
        if let Some(egress) = egress {
            let owner = network.owner(target)?;
            let name = block_name(&owner);
            match limit_egress(&mut socket, &host, &name, &owner, egress) {
                Ok(block) => result.interfaces.push(describe(&block, "")),
                Err(error) => {
                    return Err(match delete(&mut socket, &name) {
                        Ok(()) => error,
                        Err(undo) => error.context(format!("deleting {name} failed ({undo}) after")),
                    });
                }
            }
        }
        Ok(result)
    }

    /// The buckets go with the pair; only the block that what the container sends goes through is left.
    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        delete(&mut host_socket()?, &block_name(&network.owner(target)?))
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let (_, egress) = limits(network)?;
        let mut socket = host_socket()?;
        host_end(&mut socket, target, network.previous()?)?;
        if egress.is_none() {
            return Ok(());
        }
        let name = block_name(&network.owner(target)?);
        match socket.link_by_name(&name) {
            Ok(link) if link.up => Ok(()),
            Ok(_) => Err(CniError::new(Code::INTERNAL, format!("{name}: is down"))),
            Err(error) if error.not_found() => Err(CniError::new(Code::INTERNAL, format!("{name}: is not there"))),
            Err(error) => Err(kernel(error)),
        }
    }

    fn gc(&self, _network: &Network<'_>, living: &Living) -> Result<(), CniError> {
        let mut socket = host_socket()?;
        for link in socket.links(None).map_err(kernel)? {
            let dead = link.alias.as_deref().is_some_and(|alias| living.misses(alias));
            if dead && link.kind.as_deref() == Some("ifb") {
                delete(&mut socket, &link.name)?;
            }
        }
        Ok(())
    }
}

/// What the runtime says goes before what the configuration says.
fn limits(network: &Network<'_>) -> Result<(Option<Bucket>, Option<Bucket>), CniError> {
    let conf: Conf = network.conf()?;
    if !conf.shaped_subnets.is_empty() || !conf.unshaped_subnets.is_empty() {
        let msg = "shapedSubnets, unshapedSubnets: are not supported by this plugin";
        return Err(CniError::new(Code::UNSUPPORTED_FIELD, msg));
    }
    let limits = network.conf::<Common>()?.runtime_config.bandwidth.unwrap_or(conf.limits);
    Ok((
        bucket("ingress", limits.ingress_rate, limits.ingress_burst)?,
        bucket("egress", limits.egress_rate, limits.egress_burst)?,
    ))
}

/// From bits to bytes; a rate without a burst would let nothing through.
fn bucket(direction: &str, rate: u64, burst: u64) -> Result<Option<Bucket>, CniError> {
    let wrong = |reason: &str| CniError::config(format!("{direction}Rate and {direction}Burst: {reason}"));
    match (rate / 8, burst / 8) {
        _ if rate == 0 && burst == 0 => Ok(None),
        (0, _) | (_, 0) => Err(wrong("both must be set, to at least 8 bits")),
        (rate, burst) => match u32::try_from(burst) {
            Ok(burst) if burst <= i32::MAX as u32 => Ok(Some((rate, burst))),
            _ => Err(wrong("the burst is too large")),
        },
    }
}

/// Up to 15 bytes.
fn block_name(owner: &str) -> String {
    format!("bwp{:08x}", short_hash(&[owner]))
}

/// The other end of the container's interface, which has to be in the host.
fn host_end(socket: &mut Socket, target: &Target, result: &AddResult) -> Result<Link, CniError> {
    let name = target.interface.as_str();
    let own = inside(&target.netns()?, |socket| socket.link_by_name(name).map_err(kernel))?;
    let other = own.lower.filter(|_| own.kind.as_deref() == Some("veth"));
    let other =
        other.ok_or_else(|| CniError::config(format!("{name} is no pair of links, so it has no end in the host")))?;
    let link = socket.link(other).map_err(kernel)?;
    // An index means something in its own namespace only: the result has to know the link too.
    match result.interfaces.iter().any(|one| one.sandbox.is_empty() && one.name == link.name) {
        true => Ok(link),
        false => Err(CniError::config(format!("the other end of {name} is not in the host"))),
    }
}

/// What the host receives from the container is sent on by a block, which has the bucket: only sending can be limited.
fn limit_egress(
    socket: &mut Socket,
    host: &Link,
    name: &str,
    owner: &str,
    (rate, burst): Bucket,
) -> Result<Link, CniError> {
    // One that an ADD that was cut short has left has another pair's traffic.
    delete(socket, name)?;
    socket.execute(&[create_ifb(name, host.mtu)]).map_err(kernel)?;
    let block = socket.link_by_name(name).map_err(kernel)?;
    let alias = change_link(block.index, &LinkChange::Alias(owner.into()));
    socket.execute(&[alias, raise_link(name), limit_rate(block.index, rate, burst)]).map_err(kernel)?;
    match socket.execute(&[add_ingress(host.index)]) {
        Err(error) if !error.already_exists() => return Err(kernel(error)),
        _ => {}
    }
    socket.execute(&[redirect_ingress(host.index, block.index)]).map_err(kernel)?;
    socket.link(block.index).map_err(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_in_pairs_and_in_bits() {
        assert_eq!(bucket("ingress", 0, 0).unwrap(), None);
        assert_eq!(bucket("ingress", 8_000, 16_000).unwrap(), Some((1_000, 2_000)));
        assert_eq!(bucket("ingress", 80_000_000_000, 8).unwrap(), Some((10_000_000_000, 1)));
        for (rate, burst) in [(8, 0), (0, 8), (7, 8), (8, 7), (8, 1 << 40)] {
            assert!(bucket("egress", rate, burst).is_err(), "{rate} {burst}");
        }
    }
}
