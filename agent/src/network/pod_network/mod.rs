//! The embedded pod network: what is leased, what is connected, whether it is ready.
//!
//! Order of an `add`: addresses are leased in files (that is the intent: it names the pod), then one message makes the link,
//! then one batch configures the pod. A crash after any step leaves leases that `sweep` returns, and links that die with
//! the pod's namespace. Of the locks only `memory` is ever held while another is taken, and `status` takes none.

mod attach;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use cni::ipam::Store;
use cni::netlink::{BridgePort, LinkChange, Socket, Watch, change_link, configure_port, delete_link};
use ipnet::IpNet;

use super::host::{self, BridgeState};
use super::hostport::{HostPort, HostPorts};
use super::isolation::{Isolation, Party};
use super::sandbox::Attachment;
use super::subnets::{Memory, Subnets};
use super::{NetworkConfig, NetworkError};
use crate::model::{PodId, chain};

/// The embedded pod network of a node.
#[derive(Debug)]
pub struct PodNetwork {
    config: NetworkConfig,
    store: Mutex<Store>,
    host: Mutex<Host>,
    ports: Mutex<HostPorts>,
    isolation: Mutex<Isolation>,
    /// Held while the host's side is asserted, and over a change of the pod CIDR.
    memory: Mutex<Memory>,
    subnets: ArcSwap<Subnets>,
    /// What others take away: addresses, and packet filter rules.
    watches: Mutex<[Watch; 2]>,
    /// Why pods cannot be connected; none when they can.
    problem: ArcSwapOption<String>,
}

#[derive(Debug)]
struct Host {
    socket: Socket,
    bridge: Option<BridgeState>,
}

impl PodNetwork {
    /// Loads leases and pod CIDR, and makes bridge, forwarding and masquerade be there. What hinders the latter shows in
    /// [`PodNetwork::status`] and is tried again by [`PodNetwork::reassert`].
    ///
    /// # Errors
    /// When the leases or the remembered CIDR cannot be used: another agent has them, or a disk fails.
    pub async fn open(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        tokio::task::spawn_blocking(move || Self::open_blocking(config).map(Arc::new)).await?
    }

    fn open_blocking(config: NetworkConfig) -> Result<Self, NetworkError> {
        let memory = Memory::open(&config.state_dir, &host::machine_id())?;
        let network = Self {
            store: Mutex::new(Store::open(&config.run_dir)?),
            ports: Mutex::new(HostPorts::open(config.run_dir.join("ports"), &config.bridge)?),
            isolation: Mutex::new(Isolation::new(&config.bridge, !config.icc)?),
            host: Mutex::new(Host { socket: Socket::open()?, bridge: None }),
            subnets: ArcSwap::from_pointee(Subnets::resolve(&config, &memory, host::has_ipv6())?),
            memory: Mutex::new(memory),
            watches: Mutex::new([Watch::addresses()?, Watch::rules()?]),
            problem: ArcSwapOption::empty(),
            config,
        };
        // The reason is kept for status().
        let _ = network.reassert_blocking();
        Ok(network)
    }

    /// Connects a pod. `netlink` is a NETLINK_ROUTE socket made in the pod's namespace `netns`, whose [`pod_sysctls`] are
    /// set. A pod that was connected before keeps its addresses and gets a new link.
    ///
    /// # Errors
    /// When no address is free or the kernel refuses; nothing is left behind then.
    ///
    /// [`pod_sysctls`]: super::pod_sysctls
    pub async fn add(
        self: &Arc<Self>,
        pod: &PodId,
        netns: BorrowedFd<'_>,
        netlink: OwnedFd,
    ) -> Result<Attachment, NetworkError> {
        let netns =
            netns.try_clone_to_owned().map_err(NetworkError::file("duplicate", "the pod's network namespace"))?;
        let (network, pod) = (Arc::clone(self), pod.clone());
        tokio::task::spawn_blocking(move || network.add_blocking(&pod, netns.as_fd(), netlink)).await?
    }

    /// Leads ports of the node to a connected pod, in place of those that led to it before; with none it does nothing.
    /// [`PodNetwork::remove`] takes them back.
    ///
    /// # Errors
    /// [`NetworkError::PortInUse`], [`NetworkError::PortUnreachable`], or when the kernel refuses; then none is published.
    pub async fn publish(
        self: &Arc<Self>,
        pod: &PodId,
        attachment: &Attachment,
        ports: Vec<HostPort>,
    ) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let (network, pod, addresses) = (Arc::clone(self), pod.clone(), attachment.ips().collect::<Vec<_>>());
        tokio::task::spawn_blocking(move || lock(&network.ports).publish(pod.as_str(), &addresses, &ports)).await?
    }

    /// Where pods are kept apart: lets a connected one talk to those it names that name it. [`PodNetwork::remove`] takes it back.
    ///
    /// # Errors
    /// When the kernel refuses; then it talks to nobody.
    pub async fn admit(
        self: &Arc<Self>,
        pod: &PodId,
        party: Option<Party>,
        addresses: Vec<IpAddr>,
    ) -> Result<(), NetworkError> {
        let Some(party) = party.filter(|_| !self.config.icc) else { return Ok(()) };
        let (network, pod) = (Arc::clone(self), pod.clone());
        tokio::task::spawn_blocking(move || Ok(lock(&network.isolation).admit(&pod, party, addresses)?)).await?
    }

    /// Returns a pod's addresses and host ports; no error when it has none. Its link is left to die with its namespace, which costs
    /// nobody a wait.
    ///
    /// # Errors
    /// When a lease cannot be removed.
    pub async fn remove(self: &Arc<Self>, pod: &PodId) -> Result<(), NetworkError> {
        let (network, pod) = (Arc::clone(self), pod.clone());
        tokio::task::spawn_blocking(move || {
            // The ports first: an address that is free again must not be reached by them, nor have anybody's friends.
            lock(&network.ports).unpublish(pod.as_str())?;
            lock(&network.isolation).dismiss(&pod)?;
            lock(&network.store).release_owner(pod.as_str())?;
            Ok(())
        })
        .await?
    }

    /// Deletes a pod's link; no error when it has none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn cut(self: &Arc<Self>, pod: &PodId) -> Result<(), NetworkError> {
        let (network, pod) = (Arc::clone(self), pod.clone());
        tokio::task::spawn_blocking(move || network.delete_links(|alias| alias == pod.as_str())).await?
    }

    /// Returns the addresses and deletes the links of all pods that are not alive.
    ///
    /// # Errors
    /// When a lease or a link cannot be removed.
    pub async fn sweep(self: &Arc<Self>, live: &HashSet<PodId>) -> Result<(), NetworkError> {
        let (network, live) = (Arc::clone(self), live.clone());
        tokio::task::spawn_blocking(move || network.sweep_blocking(&live)).await?
    }

    /// Takes over the pod CIDR that kubelet names: `v4`, `v6`, or both with a comma; empty changes nothing. Pods keep the
    /// addresses they have. What hinders the host's side shows in [`PodNetwork::status`].
    ///
    /// # Errors
    /// [`NetworkError::InvalidCidr`], or when it cannot be remembered.
    pub async fn set_pod_cidr(self: &Arc<Self>, cidr: &str) -> Result<(), NetworkError> {
        let (network, cidr) = (Arc::clone(self), cidr.trim().to_owned());
        tokio::task::spawn_blocking(move || network.set_pod_cidr_blocking(&cidr)).await?
    }

    /// Makes bridge, addresses, forwarding and masquerade be there again, whoever took them away.
    ///
    /// # Errors
    /// What [`PodNetwork::status`] tells from then on.
    pub async fn reassert(self: &Arc<Self>) -> Result<(), NetworkError> {
        let network = Arc::clone(self);
        tokio::task::spawn_blocking(move || network.reassert_blocking()).await?
    }

    /// Makes it be there again when it is not ready, or when somebody took addresses or rules away since this was called last. To be
    /// called now and then: while all is well it costs two system calls.
    pub async fn tend(self: &Arc<Self>) {
        let network = Arc::clone(self);
        let tended = tokio::task::spawn_blocking(move || {
            if network.has_lost_something() || network.status().is_err() {
                // The reason is what status() tells from then on.
                let _ = network.reassert_blocking();
            }
        });
        // The agent goes down.
        let _ = tended.await;
    }

    fn has_lost_something(&self) -> bool {
        let own = [lock(&self.ports).netlink_port(), lock(&self.isolation).netlink_port()];
        let own: Vec<u32> = own.into_iter().flatten().collect();
        let [addresses, rules] = &mut *lock(&self.watches);
        // Both are asked, so that neither fills up.
        let lost = [addresses.lost(&own), rules.lost(&own)];
        lost.contains(&true)
    }

    /// Whether pods can be connected, and why not. From memory.
    ///
    /// # Errors
    /// The reason, for the message of the condition NetworkReady.
    pub fn status(&self) -> Result<(), String> {
        match &*self.problem.load() {
            None => Ok(()),
            Some(reason) => Err(reason.to_string()),
        }
    }

    /// How a pod's end is on the bridge. Where pods are kept apart the table of `isolation` sees what goes from port to port, or, if
    /// frames are kept from it, none may. Not both: on its way to a port of the node, which leads to another pod, a packet that
    /// the filters have seen goes from port to port too.
    fn port(&self) -> BridgePort {
        BridgePort::default().hairpin(true).isolated(!self.config.icc && !host::bridges_are_filtered())
    }

    /// The agent before this one may have had another mind about who reaches whom, and somebody about the filtering of bridges. And a
    /// bridge that somebody deleted has let go of its ports, which the new one takes on: those of `owners`, who have our addresses.
    fn settle_ports(&self, host: &mut Host, owners: &HashSet<String>) -> Result<(), NetworkError> {
        let Some(bridge) = host.bridge else { return Ok(()) };
        let port = self.port();
        let links = host.socket.links(None)?;
        let of_pods = links.iter().filter_map(|link| link.alias.as_deref().map(|alias| (link, alias)));
        let mut batch = Vec::new();
        for (link, alias) in of_pods.filter(|(_, alias)| owners.contains(*alias)) {
            match link.master {
                None => batch.push(change_link(link.index, &LinkChange::Master(bridge.index))),
                Some(master) if master == bridge.index && link.isolated != port.isolated => {}
                Some(_) => continue,
            }
            batch.push(configure_port(&link.name, alias, port));
        }
        match host.socket.execute(&batch) {
            // A namespace died meanwhile.
            Err(error) if error.not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    fn reassert_blocking(&self) -> Result<(), NetworkError> {
        let memory = lock(&self.memory);
        self.assert_host(&memory)
    }

    /// The memory's guard shows that no other assertion runs.
    fn assert_host(&self, _memory: &MutexGuard<'_, Memory>) -> Result<(), NetworkError> {
        let subnets = self.subnets.load_full();
        let outcome = self.assert_bridge(&subnets).and_then(|served| {
            host::assert_forwarding(&subnets)?;
            let firewall = host::assert_firewall(&self.config.bridge, &served);
            let isolated = lock(&self.isolation).assert().map_err(NetworkError::from);
            firewall.and(lock(&self.ports).assert()).and(isolated)
        });
        self.problem.store(outcome.as_ref().err().map(|error| Arc::new(chain(error))));
        outcome
    }

    fn assert_bridge(&self, subnets: &Subnets) -> Result<Vec<IpNet>, NetworkError> {
        let (leased, owners): (Vec<IpAddr>, HashSet<String>) =
            lock(&self.store).leases().iter().map(|(address, lease)| (*address, lease.owner.clone())).unzip();
        let in_use = |net: IpNet| leased.iter().any(|address| net.contains(address));
        let mut host = lock(&self.host);
        let (bridge, served) =
            host::assert_bridge(&mut host.socket, &self.config, subnets, in_use).inspect_err(|_| host.bridge = None)?;
        host.bridge = Some(bridge);
        self.settle_ports(&mut host, &owners)?;
        Ok(served)
    }

    fn set_pod_cidr_blocking(&self, cidr: &str) -> Result<(), NetworkError> {
        if cidr.is_empty() {
            return Ok(());
        }
        let mut memory = lock(&self.memory);
        let next = memory.with_pod_cidr(cidr)?;
        if next == *memory {
            return Ok(());
        }
        let subnets = Subnets::resolve(&self.config, &next, host::has_ipv6())?;
        next.write(&self.config.state_dir)?;
        *memory = next;
        self.subnets.store(Arc::new(subnets));
        // The reason is kept for status().
        let _ = self.assert_host(&memory);
        Ok(())
    }

    fn sweep_blocking(&self, live: &HashSet<PodId>) -> Result<(), NetworkError> {
        lock(&self.ports).sweep(|pod| live.contains(pod))?;
        let swept = lock(&self.store).sweep(|owner| live.contains(owner)).map(drop);
        self.delete_links(|alias| alias.parse::<PodId>().is_ok_and(|pod| !live.contains(&pod)))?;
        Ok(swept?)
    }

    /// By their aliases, which name pods.
    fn delete_links(&self, which: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let mut host = lock(&self.host);
        let Some(bridge) = host.bridge else { return Ok(()) };
        let ports = host.socket.links(Some(bridge.index))?;
        let links = ports.iter().filter(|port| port.alias.as_deref().is_some_and(&which));
        let batch: Vec<_> = links.map(|port| delete_link(&port.name)).collect();
        match host.socket.execute(&batch) {
            // Its namespace died meanwhile.
            Err(error) if error.not_found() => Ok(()),
            other => Ok(other?),
        }
    }
}

/// A panic of another thread leaves nothing here half changed that the next step would not repair.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
