//! The pod network that CNI plugins make: the list that is in force, a pod's ADD, whether the plugins are ready.
//!
//! Order of an `add`: the record is written (`cni::client`; it names pod and network), then the plugins run. A crash after any
//! step leaves the record, by which the next start takes back what was done. `removal`: the way back. Plugins are not
//! trusted to answer: whoever waits for one is not in the way of anybody else, and `status` is answered from memory.

mod lists;
mod orphans;
mod quantity;
mod removal;
mod request;
mod watch;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use cni::call::{Call, RunError, Runner};
use cni::client::{Attachment, Client, ClientError, Exec, Records};
use cni::conf::NetworkList;
use cni::plugins::InProcess;
use cni::types::{AddResult, Command, NetworkName};

pub(in crate::network) use lists::Found;
use removal::Tried;
pub use request::InvalidRequest;
pub(in crate::network) use request::PodFacts;
use watch::Watch;

use super::NetworkError;
use super::networks::Attached;
use crate::fault;
use crate::model::{PodId, chain};

/// How long plugins may take to say whether they are ready. They are asked while nobody waits.
const STATUS_PATIENCE: Duration = Duration::from_secs(10);

/// How plugins are found and called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginConfig {
    /// Where network lists are.
    pub conf_dir: PathBuf,
    /// Where plugins' programs are.
    pub bin_dirs: Vec<PathBuf>,
    /// On a disk: the records of what was added. Nobody else's are there.
    pub cache_dir: PathBuf,
    /// How long the plugins of a list may take together for one verb.
    pub timeout: Duration,
    /// Plugins that are run as programs although they are here.
    pub exec: Vec<String>,
}

type PluginClient = Client<Steps<InProcess<Exec>>>;

/// The networks of CNI plugins.
pub(super) struct PluginNetwork {
    config: PluginConfig,
    client: PluginClient,
    found: ArcSwap<Found>,
    /// Why the plugins cannot add a pod, as they say themselves.
    complaint: ArcSwapOption<String>,
    /// The pods that there are records of.
    pods: Mutex<HashMap<PodId, Membership>>,
    /// Over the folder, from before it was read last.
    watch: ArcSwapOption<Watch>,
    /// A GC must not meet an ADD: it would take the new pod for one that is gone.
    adding: tokio::sync::RwLock<()>,
}

/// A pod's place in a network.
#[derive(Debug, Clone)]
struct Membership {
    network: NetworkName,
    stage: Stage,
    /// All of its plugins run in this process.
    ours: bool,
    /// Its ADD was cut short together with the agent that called it.
    cut_short: bool,
}

#[derive(Debug, Clone)]
enum Stage {
    /// Plugins are adding it; whoever asked for that takes it back if need be.
    Joining,
    /// It is in.
    Joined,
    /// Plugins are taking it out, or will be asked again to.
    Leaving(Tried),
}

impl Membership {
    fn new(network: &NetworkName, stage: Stage, ours: bool) -> Self {
        Self { network: network.clone(), stage, ours, cut_short: false }
    }
}

impl PluginNetwork {
    /// Reads the records.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub(super) fn open(config: PluginConfig) -> Result<Self, NetworkError> {
        let records = Records::new(&config.cache_dir);
        let plugins = InProcess::new(Exec::new(config.bin_dirs.clone())).except(config.exec.clone());
        let mut pods = HashMap::new();
        for one in records.take_stock().map_err(NetworkError::Records)? {
            let one = match one {
                Ok(one) => one,
                Err(error) => {
                    tracing::error!(error = chain(&error), "a record of the CNI network cannot be used");
                    continue;
                }
            };
            // In a folder that is ours alone: what is no pod's id was not written by us.
            if let Ok(pod) = one.container.as_str().parse::<PodId>() {
                let ours = are_ours(&plugins, one.kinds.iter().map(String::as_str));
                let member = Membership::new(&one.network, Stage::Joined, ours);
                pods.insert(pod, Membership { cut_short: !one.result, ..member });
            }
        }
        Ok(Self {
            client: Client::new(Steps(plugins), records, config.bin_dirs.clone()),
            found: ArcSwap::from_pointee(Found::Nothing),
            complaint: ArcSwapOption::empty(),
            pods: Mutex::new(pods),
            watch: ArcSwapOption::empty(),
            adding: tokio::sync::RwLock::default(),
            config,
        })
    }

    /// What the folder said last.
    pub(super) fn found(&self) -> Arc<Found> {
        self.found.load_full()
    }

    /// Reads the folder. True when it says something else than before.
    pub(super) fn refresh(&self) -> bool {
        let found = lists::read(&self.config.conf_dir);
        if **self.found.load() == found {
            return false;
        }
        match &found {
            Found::Nothing => tracing::info!("there is no CNI network (any more)"),
            Found::Network(list) => tracing::info!(network = %list.name, "new pods get this CNI network"),
            Found::Unusable(reason) => tracing::error!(reason, "no CNI network can be used"),
        }
        self.found.store(Arc::new(found));
        true
    }

    /// Reads the folder, and watches it from before that on. True when it says something else than before.
    pub(super) fn look(&self) -> bool {
        let watch = Watch::set(&self.config.conf_dir).inspect_err(|error| {
            let folder = self.config.conf_dir.display();
            tracing::warn!(%folder, %error, "the folder of CNI networks cannot be watched; it is read now and then");
        });
        let changed = self.refresh();
        // Until now the watch before this one has said that there is something to be read.
        self.watch.store(watch.ok().map(Arc::new));
        changed
    }

    /// The watch over the folder; none when it cannot be watched.
    pub(super) fn watch(&self) -> Option<Arc<Watch>> {
        self.watch.load_full()
    }

    /// Asks the plugins of the network in force whether they are ready (STATUS, 1.1.0).
    pub(super) async fn ask_status(self: &Arc<Self>) {
        let Found::Network(list) = &*self.found() else { return self.complaint.store(None) };
        let (network, list) = (Arc::clone(self), Arc::clone(list));
        let asked = tokio::task::spawn_blocking(move || {
            network.client.status(&list, Instant::now() + network.config.timeout.min(STATUS_PATIENCE))
        });
        let complaint = match asked.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Arc::new(chain(&error))),
            Err(error) => Some(Arc::new(chain(&error))),
        };
        self.complaint.store(complaint);
    }

    /// Whether pods can be added, and why not. From memory.
    pub(super) fn status(&self) -> Result<(), String> {
        match (&**self.found.load(), &*self.complaint.load()) {
            (Found::Nothing, _) => Err(format!(
                "no CNI network: there is no .conflist, .conf or .json file in {}",
                self.config.conf_dir.display()
            )),
            (Found::Unusable(reason), _) => Err(format!("no CNI network can be used: {reason}")),
            (Found::Network(list), Some(complaint)) => {
                Err(format!("CNI network {} is not ready: {complaint}", list.name))
            }
            (Found::Network(_), None) => Ok(()),
        }
    }

    /// Adds a pod to a network. When it fails, [`PluginNetwork::remove`] takes back what was done.
    ///
    /// # Errors
    /// The plugin's that fails, or when the pod cannot be told to plugins, or has no address afterwards.
    pub(super) async fn add(
        self: &Arc<Self>,
        list: Arc<NetworkList>,
        pod: &PodFacts<'_>,
        netns: OwnedFd,
    ) -> Result<Attached, NetworkError> {
        let new = Arc::new(New { attachment: request::attachment(pod)?, list, _netns: netns });
        let (name, ours) = (&new.list.name, are_ours(&self.client.runner().0, new.list.kinds()));
        let _no_gc = self.adding.read().await;
        self.lock().insert(pod.id.clone(), Membership::new(name, Stage::Joining, ours));
        let leaving = self.leaving(name);
        let mut added = self.call(&new, |client, new, deadline| client.add(&new.list, &new.attachment, deadline)).await;
        if added.is_err() && !leaving.is_empty() {
            // What it needs may be that of a pod whose end nobody has waited for: a host port, the last address.
            removal::wait(leaving).await;
            let again = self.call(&new, |client, new, deadline| {
                client.del(&new.list.name, None, &new.attachment, deadline)?;
                client.add(&new.list, &new.attachment, deadline)
            });
            added = again.await;
        }
        // Whoever asked takes it back from here on, also what was half done.
        self.lock().insert(pod.id.clone(), Membership::new(name, Stage::Joined, ours));
        attached(name, &added?)
    }

    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        new: &Arc<New>,
        call: impl FnOnce(&PluginClient, &New, Instant) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (network, new) = (Arc::clone(self), Arc::clone(new));
        let name = new.list.name.clone();
        let called =
            tokio::task::spawn_blocking(move || call(&network.client, &new, Instant::now() + network.config.timeout));
        called.await?.map_err(NetworkError::plugins(&name))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodId, Membership>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod that is being added.
struct New {
    attachment: Attachment,
    list: Arc<NetworkList>,
    /// The path in the attachment leads to the namespace by this descriptor.
    _netns: OwnedFd,
}

/// Whether all of these plugins run in this process.
fn are_ours<'a>(plugins: &InProcess<Exec>, kinds: impl Iterator<Item = &'a str>) -> bool {
    let mut kinds = kinds.peekable();
    kinds.peek().is_some() && kinds.all(|kind| plugins.has(kind))
}

fn attached(network: &NetworkName, result: &AddResult) -> Result<Attached, NetworkError> {
    request::attached(result).ok_or_else(|| NetworkError::NoAddress { network: network.to_string() })
}

/// The path by which plugins, in processes of their own, too, reach a namespace as long as the descriptor is open.
pub(super) fn path_of(netns: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())
}

/// Calls plugins, with places before and behind where a crash test may kill the agent.
struct Steps<R>(R);

impl<R: Runner> Runner for Steps<R> {
    fn run(&self, plugin: &str, call: &Call) -> Result<Vec<u8>, RunError> {
        let points = match call.command {
            Command::Add => Some(("network.plugin_add", "network.plugin_added")),
            Command::Del => Some(("network.plugin_delete", "network.plugin_deleted")),
            _ => None,
        };
        if let Some((before, _)) = points {
            fault::point(before);
        }
        let outcome = self.0.run(plugin, call);
        if let Some((_, behind)) = points {
            fault::point(behind);
        }
        outcome
    }
}
