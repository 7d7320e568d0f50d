//! The ports of every pod. A record is written before its elements are made and removed after they are gone, so the table
//! can be made anew from the records at any time; that is also what happens when the kernel's state is not as expected.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use cni::hostports::{self, HAIRPIN, LINKS};
use cni::nftables::{Element, Family, Nftables, Transaction};
use cni::sysctl;
use serde::{Deserialize, Serialize};

use super::HostPort;
use crate::network::NetworkError;

/// One pod's ports and the addresses they lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    addresses: Vec<IpAddr>,
    ports: Vec<HostPort>,
}

const RECORD_VERSION: u32 = 1;

/// An element with its family and its map.
type Placed = (Family, &'static str, Element);

const MAPS: [&str; 2] = [hostports::ANY, hostports::BOUND];

fn table_name(bridge: &str) -> String {
    format!("berth-ports-{bridge}")
}

impl Record {
    fn elements(&self) -> Vec<Placed> {
        let ports: Vec<_> = self.ports.iter().map(HostPort::port).collect();
        hostports::elements(&self.addresses, &ports, None)
    }
}

/// All published ports of the node.
#[derive(Debug)]
pub(in crate::network) struct HostPorts {
    folder: PathBuf,
    bridge: String,
    socket: Nftables,
    records: HashMap<String, Record>,
    /// Whether this process has made the table.
    installed: bool,
}

impl HostPorts {
    /// Reads the records.
    pub(in crate::network) fn open(folder: PathBuf, bridge: &str) -> Result<Self, NetworkError> {
        fs::create_dir_all(&folder).map_err(NetworkError::file("create", &folder))?;
        let mut records = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(NetworkError::file("list", &folder))? {
            let path = entry.map_err(NetworkError::file("list", &folder))?.path();
            let Some(pod) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else {
                // A crash stopped before it was renamed: its pod was never told of its ports.
                fs::remove_file(&path).map_err(NetworkError::file("remove", &path))?;
                continue;
            };
            let text = fs::read(&path).map_err(NetworkError::file("read", &path))?;
            let record = serde_json::from_slice(&text)
                .map_err(|source| NetworkError::DamagedState { path: path.clone(), source })?;
            records.insert(pod.to_owned(), record);
        }
        let socket = Nftables::open()?;
        Ok(Self { folder, bridge: bridge.into(), socket, records, installed: false })
    }

    /// The netlink port that changes its table.
    pub(in crate::network) fn netlink_port(&self) -> Option<u32> {
        self.socket.port()
    }

    /// Makes the kernel's table be what the records say.
    pub(in crate::network) fn assert(&mut self) -> Result<(), NetworkError> {
        if self.records.is_empty() && !self.installed {
            return self.forget();
        }
        self.install()
    }

    /// Leads a pod's ports to its addresses.
    pub(in crate::network) fn publish(
        &mut self,
        pod: &str,
        addresses: &[IpAddr],
        ports: &[HostPort],
    ) -> Result<(), NetworkError> {
        self.unpublish(pod)?;
        if ports.is_empty() {
            return Ok(());
        }
        for (index, port) in ports.iter().enumerate() {
            let others =
                self.records.iter().flat_map(|(pod, record)| record.ports.iter().map(move |p| (p, pod.as_str())));
            let own = ports[..index].iter().map(|p| (p, pod));
            if let Some((_, owner)) = others.chain(own).find(|(other, _)| other.collides(port)) {
                return Err(NetworkError::PortInUse { port: port.host_port, pod: owner.into() });
            }
            if !addresses.iter().any(|ip| port.covers(Family::of(*ip))) {
                return Err(NetworkError::PortUnreachable { port: port.host_port });
            }
        }
        let record = Record { version: RECORD_VERSION, addresses: addresses.to_vec(), ports: ports.to_vec() };
        self.write(pod, &record)?;
        let added = record.elements();
        self.records.insert(pod.into(), record);
        let made = match self.installed {
            true => self.add(&added).or_else(|_| self.install()),
            false => self.install(),
        };
        made.map_err(|error| match self.unpublish(pod) {
            Ok(()) => error,
            Err(undo) => NetworkError::RollbackFailed { error: error.into(), undo: undo.into() },
        })
    }

    /// Takes a pod's ports away; no error when it has none.
    pub(in crate::network) fn unpublish(&mut self, pod: &str) -> Result<(), NetworkError> {
        let Some(record) = self.records.remove(pod) else { return Ok(()) };
        if self.installed {
            let taken = self.take(&record.elements()).or_else(|_| self.install());
            if let Err(error) = taken {
                self.records.insert(pod.into(), record);
                return Err(error);
            }
        }
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetworkError::file("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Takes the ports of all pods that are not alive.
    pub(in crate::network) fn sweep(&mut self, alive: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let dead: Vec<_> = self.records.keys().filter(|pod| !alive(pod)).cloned().collect();
        dead.iter().try_for_each(|pod| self.unpublish(pod))
    }

    fn add(&mut self, elements: &[Placed]) -> Result<(), NetworkError> {
        let mut transaction = Transaction::default();
        for (family, map, element) in elements {
            transaction.add_elements(*family, &table_name(&self.bridge), map, std::slice::from_ref(element));
        }
        Ok(self.socket.commit(&transaction)?)
    }

    fn take(&mut self, elements: &[Placed]) -> Result<(), NetworkError> {
        let mut transaction = Transaction::default();
        for (family, map, element) in elements {
            transaction.delete_elements(*family, &table_name(&self.bridge), map, std::slice::from_ref(&element.key));
        }
        Ok(self.socket.commit(&transaction)?)
    }

    /// Replaces the table as a whole, in one transaction: no packet sees it half made.
    fn install(&mut self) -> Result<(), NetworkError> {
        let table = table_name(&self.bridge);
        let mut transaction = Transaction::default();
        for family in [Family::V4, Family::V6] {
            transaction.replace_table(family, &table);
            hostports::write_table(&mut transaction, family, &table);
            transaction.add_elements(family, &table, LINKS, &[hostports::link(&self.bridge)]);
            transaction.add_elements(family, &table, HAIRPIN, &hostports::hairpin(&self.bridge));
        }
        let placed: Vec<_> = self.records.values().flat_map(Record::elements).collect();
        for (family, map) in [Family::V4, Family::V6].into_iter().flat_map(|family| MAPS.map(|map| (family, map))) {
            let of_map = placed.iter().filter(|(f, m, _)| (*f, *m) == (family, map));
            // Many in one message: each message's answer waits in the socket until all are sent.
            let elements: Vec<_> = of_map.map(|(_, _, element)| element.clone()).collect();
            transaction.add_elements(family, &table, map, &elements);
        }
        self.socket.commit(&transaction)?;
        // Packets from 127.0.0.1 may leave over the bridge; the table's own rule keeps others from entering by it.
        sysctl::set_of("ipv4", &self.bridge, "route_localnet", "1")?;
        self.installed = true;
        Ok(())
    }

    /// Takes away the table of an earlier agent, when nothing is published.
    fn forget(&mut self) -> Result<(), NetworkError> {
        let mut transaction = Transaction::default();
        for family in [Family::V4, Family::V6] {
            transaction.add_table(family, &table_name(&self.bridge));
            transaction.delete_table(family, &table_name(&self.bridge));
        }
        // A kernel without nftables has no table to take away.
        let _ = self.socket.commit(&transaction);
        Ok(())
    }

    fn write(&self, pod: &str, record: &Record) -> Result<(), NetworkError> {
        let (path, new) = (self.path(pod), self.folder.join(format!("{pod}.new")));
        let text =
            serde_json::to_vec(record).map_err(|source| NetworkError::DamagedState { path: new.clone(), source })?;
        fs::write(&new, text).map_err(NetworkError::file("write", &new))?;
        fs::rename(&new, &path).map_err(NetworkError::file("rename", &new))
    }

    fn path(&self, pod: &str) -> PathBuf {
        self.folder.join(format!("{pod}.json"))
    }
}
