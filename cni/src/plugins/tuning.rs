//! `tuning`: sysctls of the container's network, and properties of its interface. It is chained behind the plugin that made it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Plugin;
use super::link::{asked_mac, inside, kernel};
use super::request::{Common, Living, Network, Target};
use crate::netlink::{Link, LinkChange, MacAddr, Socket, change_link};
use crate::sysctl;
use crate::types::{AddResult, CniError, Code};

pub(super) struct Tuning;

/// The reference plugin's folder and file names.
const DEFAULT_FOLDER: &str = "/run/cni/tuning";
/// Where an administrator says which sysctls may be set, in regular expressions of Go.
const ALLOWED: &str = "/etc/cni/tuning/allowlist.conf";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Conf {
    sysctl: BTreeMap<String, String>,
    mac: String,
    promisc: bool,
    mtu: u32,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    queue: Option<u32>,
    #[serde(rename = "dataDir")]
    folder: Option<PathBuf>,
}

/// What the interface was like before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Before {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    queue: Option<u32>,
}

impl Plugin for Tuning {
    fn add(&self, network: &Network<'_>, target: &Target) -> Result<AddResult, CniError> {
        let conf: Conf = network.conf()?;
        let mac = asked_mac(&network.conf::<Common>()?, &conf.mac, target)?;
        let mut result = network.previous()?.clone();
        let name = target.interface.as_str();
        let files = files(&conf, name)?;
        let changes = changes(&conf, mac);
        let file = file(&conf, target);
        inside(&target.netns()?, |socket| {
            for (path, value) in &files {
                sysctl::set(path, value).map_err(|error| CniError::of(Code::IO, &error))?;
            }
            if changes.is_empty() {
                return Ok(());
            }
            let link = socket.link_by_name(name).map_err(kernel)?;
            remember(&file, &before(&link, &changes))?;
            let batch: Vec<_> = changes.iter().map(|change| change_link(link.index, change)).collect();
            socket.execute(&batch).map_err(kernel).map_err(|error| put_back(socket, &link, &changes, &file, error))
        })?;
        let own = result.interfaces.iter_mut().find(|one| one.name == name && !one.sandbox.is_empty());
        if let Some(own) = own {
            own.mac = mac.map_or_else(|| own.mac.clone(), |mac| mac.to_string());
            own.mtu = if conf.mtu == 0 { own.mtu } else { conf.mtu };
        }
        Ok(result)
    }

    /// The interface is as it was, for an owner that outlives the container.
    fn del(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let conf: Conf = network.conf()?;
        let file = file(&conf, target);
        let Some(before) = remembered(&file)? else { return Ok(()) };
        if let Some(netns) = target.netns_if_there()? {
            let name = target.interface.as_str();
            inside(&netns, |socket| restore(socket, name, &before))?;
        }
        forget(&file)
    }

    fn check(&self, network: &Network<'_>, target: &Target) -> Result<(), CniError> {
        let conf: Conf = network.conf()?;
        let mac = asked_mac(&network.conf::<Common>()?, &conf.mac, target)?;
        let name = target.interface.as_str();
        let files = files(&conf, name)?;
        let changes = changes(&conf, mac);
        inside(&target.netns()?, |socket| {
            if let Some((path, value)) = files.iter().find(|(path, value)| !sysctl::has(path, value)) {
                return Err(CniError::new(Code::INTERNAL, format!("{} is not {value:?}", path.display())));
            }
            let link = socket.link_by_name(name).map_err(kernel)?;
            match changes.iter().find(|change| !is_in_force(&link, change)) {
                None => Ok(()),
                Some(change) => Err(CniError::new(Code::INTERNAL, format!("{name}: {change:?} is not in force"))),
            }
        })
    }

    fn gc(&self, network: &Network<'_>, living: &Living) -> Result<(), CniError> {
        let conf: Conf = network.conf()?;
        // Networks share the folder, so only a folder that is the network's own can be swept.
        let Some(folder) = conf.folder else { return Ok(()) };
        let listing = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| failed("list", &folder, &error))?,
        };
        for entry in listing {
            let path = entry.map_err(|error| failed("list", &folder, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
            let owner = name.and_then(|name| name.rsplit_once('_'));
            if owner.is_some_and(|(container, interface)| !living.has(container, interface)) {
                forget(&path)?;
            }
        }
        Ok(())
    }
}

/// The files of the sysctls and their values. Pure but for the administrator's file.
fn files(conf: &Conf, interface: &str) -> Result<Vec<(PathBuf, String)>, CniError> {
    if !conf.sysctl.is_empty() && Path::new(ALLOWED).exists() {
        let msg = format!("sysctl: {ALLOWED} restricts them, and this plugin cannot read it");
        return Err(CniError::new(Code::UNSUPPORTED_FIELD, msg));
    }
    conf.sysctl.iter().map(|(key, value)| Ok((sysctl_file(key, interface)?, value.clone()))).collect()
}

/// As in sysctl(8) the separator that comes first is the separator; `IFNAME` is the interface. Only the network's own.
fn sysctl_file(key: &str, interface: &str) -> Result<PathBuf, CniError> {
    let slashes = key.find(['.', '/']).is_some_and(|at| key[at..].starts_with('/'));
    let path: String = match slashes {
        true => key.into(),
        false => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    };
    let parts: Vec<&str> = path.split('/').map(|part| if part == "IFNAME" { interface } else { part }).collect();
    let sound = |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains('\0');
    match parts.len() > 1 && parts[0] == "net" && parts.iter().all(sound) {
        true => Ok(parts.iter().fold(PathBuf::from("/proc/sys"), |path, part| path.join(part))),
        false => Err(CniError::config(format!("sysctl: {key:?} is none of the network's"))),
    }
}

fn changes(conf: &Conf, mac: Option<MacAddr>) -> Vec<LinkChange> {
    let mut changes: Vec<LinkChange> = mac.map(LinkChange::Mac).into_iter().collect();
    changes.extend(conf.promisc.then_some(LinkChange::Promiscuous(true)));
    changes.extend((conf.mtu != 0).then_some(LinkChange::Mtu(conf.mtu)));
    changes.extend(conf.allmulti.map(LinkChange::AllMulticast));
    changes.extend(conf.queue.map(LinkChange::Queue));
    changes
}

fn is_in_force(link: &Link, change: &LinkChange) -> bool {
    match change {
        LinkChange::Mac(mac) => link.mac == Some(*mac),
        LinkChange::Promiscuous(on) => link.promiscuous == *on,
        LinkChange::Mtu(mtu) => link.mtu == *mtu,
        LinkChange::AllMulticast(on) => link.all_multicast == *on,
        LinkChange::Queue(length) => link.queue == *length,
        _ => true,
    }
}

/// What the link has of that which is about to change.
fn before(link: &Link, changes: &[LinkChange]) -> Before {
    let mut before = Before::default();
    for change in changes {
        match change {
            LinkChange::Mac(_) => before.mac = link.mac.map(|mac| mac.to_string()),
            LinkChange::Promiscuous(_) => before.promisc = Some(link.promiscuous),
            LinkChange::Mtu(_) => before.mtu = Some(link.mtu),
            LinkChange::AllMulticast(_) => before.allmulti = Some(link.all_multicast),
            LinkChange::Queue(_) => before.queue = Some(link.queue),
            _ => {}
        }
    }
    before
}

fn back(before: &Before) -> Result<Vec<LinkChange>, CniError> {
    let mac = before.mac.as_deref().map(str::parse).transpose();
    let mac = mac.map_err(|error| CniError::of(Code::DECODING, &error))?;
    let mut changes: Vec<LinkChange> = mac.map(LinkChange::Mac).into_iter().collect();
    changes.extend(before.promisc.map(LinkChange::Promiscuous));
    changes.extend(before.mtu.map(LinkChange::Mtu));
    changes.extend(before.allmulti.map(LinkChange::AllMulticast));
    changes.extend(before.queue.map(LinkChange::Queue));
    Ok(changes)
}

fn restore(socket: &mut Socket, name: &str, before: &Before) -> Result<(), CniError> {
    let link = match socket.link_by_name(name) {
        Err(error) if error.not_found() => return Ok(()),
        other => other.map_err(kernel)?,
    };
    let batch: Vec<_> = back(before)?.iter().map(|change| change_link(link.index, change)).collect();
    socket.execute(&batch).map_err(kernel)
}

/// A batch does not stop at a refusal: what it did is taken back.
fn put_back(socket: &mut Socket, link: &Link, changes: &[LinkChange], file: &Path, error: CniError) -> CniError {
    match restore(socket, &link.name, &before(link, changes)).and_then(|()| forget(file)) {
        Ok(()) => error,
        Err(undo) => error.context(format!("putting it back failed ({undo}) after")),
    }
}

fn file(conf: &Conf, target: &Target) -> PathBuf {
    let folder = conf.folder.clone().unwrap_or_else(|| DEFAULT_FOLDER.into());
    folder.join(format!("{}_{}.json", target.container, target.interface))
}

fn failed(operation: &str, path: &Path, error: &io::Error) -> CniError {
    CniError::of(Code::IO, error).context(format!("{operation} {}", path.display()))
}

/// The first ADD's stays: a second one would remember what the first has changed.
fn remember(file: &Path, before: &Before) -> Result<(), CniError> {
    if file.exists() {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(|error| failed("create", folder, &error))?;
    let text = serde_json::to_vec(before).map_err(|error| CniError::of(Code::INTERNAL, &error))?;
    fs::write(file, text).map_err(|error| failed("write", file, &error))
}

fn remembered(file: &Path) -> Result<Option<Before>, CniError> {
    match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", file, &error)),
        // A crash while it was written: nothing had been changed.
        Ok(text) => Ok(Some(serde_json::from_slice(&text).unwrap_or_default())),
    }
}

fn forget(file: &Path) -> Result<(), CniError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", file, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_networks_sysctls_are_set() {
        let file = |key: &str| sysctl_file(key, "eth0").ok().map(|path| path.display().to_string());
        assert_eq!(file("net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(file("net/ipv4/conf/eth0.5/mtu").unwrap(), "/proc/sys/net/ipv4/conf/eth0.5/mtu");
        assert_eq!(file("net.ipv4.conf.eth0/5.mtu").unwrap(), "/proc/sys/net/ipv4/conf/eth0.5/mtu");
        assert_eq!(file("net.ipv4.conf.IFNAME.arp_filter").unwrap(), "/proc/sys/net/ipv4/conf/eth0/arp_filter");
        for bad in ["kernel.panic", "net", "", "net/../kernel/panic", "net..core", "/net/x", "../net.x"] {
            assert_eq!(file(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_key_leads_elsewhere(key in "[a-z./]{0,20}") {
            if let Ok(path) = sysctl_file(&format!("net{key}"), "eth0") {
                let names = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
                prop_assert!(names && path.starts_with("/proc/sys/net"));
            }
        }
    }
}
