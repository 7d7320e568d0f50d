//! The networks that pods can be in: the embedded one, and those of CNI plugins. Which one a new pod gets is settled here, and
//! nobody above knows of two.
//!
//! A pod leaves the network that it was added by, whatever has become of the configuration since: each of the two knows its own
//! pods, by records that are written before anything is done, and has nothing to say of others.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use cri_api::v1::{DnsConfig, PodSandboxConfig};
use ipnet::IpNet;

use super::plugin_network::{Found, PluginConfig, PluginNetwork, PodFacts, path_of};
use super::subnets::Memory;
use super::{HostPort, NetworkConfig, NetworkError, Party, PodNetwork, host, loopback_up, sandbox};
use crate::model::{PodId, chain};

/// How often a folder is read that cannot be watched.
const UNWATCHED_PERIOD: Duration = Duration::from_secs(10);

/// By whom new pods get a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By plugins as soon as there is a list, else by the agent.
    Auto,
    /// By the agent.
    Embedded,
    /// By plugins.
    Plugins,
}

/// The settings of all networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworksConfig {
    /// By whom.
    pub mode: Mode,
    /// The embedded network's.
    pub embedded: NetworkConfig,
    /// The plugins'.
    pub plugins: PluginConfig,
}

/// A pod that is to get a network.
pub struct NewPod<'a> {
    /// Its id.
    pub id: &'a PodId,
    /// What was asked for.
    pub config: &'a PodSandboxConfig,
    /// The cgroup of its containers.
    pub cgroup_parent: &'a str,
    /// The node's ports that are to lead to it.
    pub ports: Vec<HostPort>,
    /// Its network namespace.
    pub netns: OwnedFd,
    /// A NETLINK_ROUTE socket made in there.
    pub netlink: OwnedFd,
}

/// What a pod has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Name servers, for a pod that asks for none.
    pub dns: Option<DnsConfig>,
}

/// All networks of a node.
pub struct PodNetworks {
    config: NetworksConfig,
    plugins: Arc<PluginNetwork>,
    /// Opened when the first pod needs it: a node with plugins gets no bridge of ours.
    embedded: ArcSwapOption<PodNetwork>,
    /// Why it could not be opened.
    unopened: ArcSwapOption<String>,
    /// kubelet's, for plugins.
    pod_cidrs: ArcSwap<Vec<IpNet>>,
    /// Held while the embedded network is opened, and over a change of the pod CIDR.
    settling: tokio::sync::Mutex<()>,
}

impl PodNetworks {
    /// Reads what there is of both, and makes the embedded network if it is the one for new pods, or had pods before.
    ///
    /// # Errors
    /// When records, leases or the remembered CIDR cannot be used.
    pub async fn open(config: NetworksConfig) -> Result<Arc<Self>, NetworkError> {
        let networks = tokio::task::spawn_blocking(move || Self::read(config)).await??;
        let networks = Arc::new(networks);
        if networks.config.embedded.run_dir.exists() || networks.new_pods_are_embedded() {
            networks.embedded().await?;
        }
        if networks.config.mode != Mode::Embedded {
            networks.plugins.ask_status().await;
            tokio::spawn(Arc::clone(&networks).watch());
        }
        Ok(networks)
    }

    fn read(config: NetworksConfig) -> Result<Self, NetworkError> {
        let memory = Memory::open(&config.embedded.state_dir, &host::machine_id())?;
        let plugins = PluginNetwork::open(config.plugins.clone())?;
        if config.mode != Mode::Embedded {
            plugins.refresh();
        }
        Ok(Self {
            config,
            plugins: Arc::new(plugins),
            embedded: ArcSwapOption::empty(),
            unopened: ArcSwapOption::empty(),
            pod_cidrs: ArcSwap::from_pointee(memory.pod_cidr().to_vec()),
            settling: tokio::sync::Mutex::default(),
        })
    }

    /// Connects a pod to the network for new pods, with its host ports.
    ///
    /// # Errors
    /// When there is no network, or it cannot take the pod. What is half done is taken back by [`PodNetworks::remove`].
    pub async fn add(self: &Arc<Self>, pod: NewPod<'_>) -> Result<Attached, NetworkError> {
        // A list that has just been written counts, and the watch may not have been heard yet.
        if self.config.mode != Mode::Embedded && self.plugins.watch().is_none_or(|watch| watch.has_changed()) {
            let plugins = Arc::clone(&self.plugins);
            tokio::task::spawn_blocking(move || plugins.refresh()).await?;
        }
        match &*self.plugins.found() {
            _ if self.new_pods_are_embedded() => self.add_embedded(pod).await,
            Found::Network(list) => {
                loopback_up(pod.netlink).await?;
                let pod_cidrs = self.pod_cidrs.load_full();
                let facts = PodFacts {
                    id: pod.id,
                    config: pod.config,
                    cgroup_parent: pod.cgroup_parent,
                    ports: &pod.ports,
                    pod_cidrs: &pod_cidrs,
                    netns: path_of(&pod.netns),
                };
                self.plugins.add(Arc::clone(list), &facts, pod.netns).await
            }
            Found::Nothing | Found::Unusable(_) => {
                Err(NetworkError::NotReady(self.plugins.status().err().unwrap_or_default()))
            }
        }
    }

    async fn add_embedded(&self, pod: NewPod<'_>) -> Result<Attached, NetworkError> {
        let embedded = self.embedded().await?;
        let attachment = embedded.add(pod.id, pod.netns.as_fd(), pod.netlink).await?;
        embedded.publish(pod.id, &attachment, pod.ports).await?;
        Ok(Attached { addresses: attachment.ips().collect(), dns: None })
    }

    /// Sysctls for a new pod's namespace, before [`PodNetworks::add`].
    pub fn pod_sysctls(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> + use<> {
        // Plugins keep pods apart, or not, by ways of their own.
        sandbox::pod_sysctls(self.config.embedded.icc || !self.new_pods_are_embedded())
    }

    /// Lets a pod of the embedded network talk to those it names, as [`PodNetwork::admit`] does; plugins have their own ways.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn admit(&self, pod: &PodId, party: Option<Party>, addresses: Vec<IpAddr>) -> Result<(), NetworkError> {
        match self.embedded.load_full().filter(|_| !self.plugins.has(pod)) {
            Some(embedded) => embedded.admit(pod, party, addresses).await,
            None => Ok(()),
        }
    }

    /// Takes a pod out of its network; nothing when it is in none. `monitor` is a process that lives in its network namespace. Plugins
    /// that fail are asked again later: no error then. Plugins of ours may still be at it: [`PodNetworks::wait_left`].
    ///
    /// # Errors
    /// When a lease of the embedded network cannot be returned.
    pub async fn remove(&self, pod: &PodId, monitor: Option<i32>) -> Result<(), NetworkError> {
        if self.plugins.has(pod) {
            self.plugins.remove(pod, monitor.and_then(namespace_of)).await;
        }
        match self.embedded.load_full() {
            Some(embedded) => embedded.remove(pod).await,
            None => Ok(()),
        }
    }

    /// Waits until what takes a pod out has come to its end, or has failed once; not for ever.
    pub async fn wait_left(&self, pod: &PodId) {
        self.plugins.wait_left(pod).await;
    }

    /// Takes the interface of a pod of the embedded network away, which would go with its namespace alone: for a pod in whose namespace
    /// others live on. To be called before [`PodNetworks::remove`]; plugins take away what they made by themselves.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn cut(&self, pod: &PodId) -> Result<(), NetworkError> {
        match self.embedded.load_full() {
            Some(embedded) => embedded.cut(pod).await,
            None => Ok(()),
        }
    }

    /// Takes out what belongs to pods that are not alive.
    ///
    /// # Errors
    /// When the embedded network cannot be swept.
    pub async fn sweep(&self, live: &HashSet<PodId>) -> Result<(), NetworkError> {
        self.plugins.sweep(live).await;
        match self.embedded.load_full() {
            Some(embedded) => embedded.sweep(live).await,
            None => Ok(()),
        }
    }

    /// Takes over the pod CIDR that kubelet names, as [`PodNetwork::set_pod_cidr`] does; plugins that want to know it are told.
    ///
    /// # Errors
    /// When it is none, or cannot be remembered.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), NetworkError> {
        let _settling = self.settling.lock().await;
        let (config, embedded, cidr) =
            (self.config.embedded.clone(), self.embedded.load_full(), cidr.trim().to_owned());
        if let Some(embedded) = &embedded {
            embedded.set_pod_cidr(&cidr).await?;
        }
        let remembered = tokio::task::spawn_blocking(move || {
            let mut memory = Memory::open(&config.state_dir, &host::machine_id())?;
            if embedded.is_none() && !cidr.is_empty() {
                memory = memory.with_pod_cidr(&cidr)?;
                memory.write(&config.state_dir)?;
            }
            Ok::<_, NetworkError>(memory.pod_cidr().to_vec())
        });
        self.pod_cidrs.store(Arc::new(remembered.await??));
        Ok(())
    }

    /// Whether new pods get a network, and why not. From memory.
    ///
    /// # Errors
    /// The reason, for the message of the condition NetworkReady.
    pub fn status(&self) -> Result<(), String> {
        if !self.new_pods_are_embedded() {
            return self.plugins.status();
        }
        match (&*self.embedded.load(), &*self.unopened.load()) {
            (Some(embedded), _) => embedded.status(),
            (None, Some(reason)) => Err(reason.to_string()),
            (None, None) => Err("the pod network is being made".to_owned()),
        }
    }

    /// What is to be done now and then: a network that is not ready is made ready, plugins are asked whether they are.
    pub async fn tend(&self) {
        if self.config.mode != Mode::Embedded {
            // What a link in the folder leads to is not watched.
            let plugins = Arc::clone(&self.plugins);
            // The agent goes down.
            let _ = tokio::task::spawn_blocking(move || plugins.refresh()).await;
        }
        if !self.new_pods_are_embedded() {
            return self.plugins.ask_status().await;
        }
        // The reasons are what status() tells from then on.
        match self.embedded.load_full() {
            Some(embedded) => embedded.tend().await,
            None => drop(self.embedded().await),
        }
    }

    fn new_pods_are_embedded(&self) -> bool {
        match self.config.mode {
            Mode::Embedded => true,
            Mode::Plugins => false,
            Mode::Auto => *self.plugins.found() == Found::Nothing,
        }
    }

    async fn embedded(&self) -> Result<Arc<PodNetwork>, NetworkError> {
        let _settling = self.settling.lock().await;
        if let Some(embedded) = self.embedded.load_full() {
            return Ok(embedded);
        }
        let opened = PodNetwork::open(self.config.embedded.clone()).await;
        self.unopened.store(opened.as_ref().err().map(|error| Arc::new(chain(error))));
        let embedded = opened?;
        self.embedded.store(Some(Arc::clone(&embedded)));
        Ok(embedded)
    }

    /// Reads the folder of lists again whenever it changes.
    async fn watch(self: Arc<Self>) {
        loop {
            let plugins = Arc::clone(&self.plugins);
            let Ok(changed) = tokio::task::spawn_blocking(move || plugins.look()).await else { return };
            if changed {
                self.tend().await;
            }
            let unwatched = match &self.plugins.watch() {
                Some(watch) => watch.changed().await.is_err(),
                None => true,
            };
            if unwatched {
                tokio::time::sleep(UNWATCHED_PERIOD).await;
            }
        }
    }
}

/// The network namespace that a process is in; none when it is gone, or when that is the agent's own, which no pod's is.
pub(crate) fn namespace_of(process: i32) -> Option<OwnedFd> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::open(format!("/proc/{process}/ns/net")).ok()?;
    let (found, own) = (file.metadata().ok()?, std::fs::metadata("/proc/self/ns/net").ok()?);
    ((found.dev(), found.ino()) != (own.dev(), own.ino())).then(|| file.into())
}
