//! The verbs. `Engine` holds what they share; each verb is a file that reads as its steps. A verb that changes something
//! runs detached, under its object's lock, and takes back what it made when it fails: a client that hangs up cancels
//! nothing half way.

/// The image's account files.
mod accounts;
/// Attach.
mod attach;
/// CheckpointContainer.
mod checkpoint_container;
/// CheckpointPod.
mod checkpoint_pod;
/// A container's writable layer as an image.
mod commit_container;
/// CreateContainer.
mod create_container;
/// What a verb can fail with.
mod error;
/// Exits and losses that monitors tell of.
mod events;
/// Commands in containers.
mod exec;
/// Exec.
mod exec_stream;
/// ExecSync.
mod exec_sync;
/// Bundles for OCI runtimes.
mod external;
/// Runtime handlers.
mod handlers;
/// Requests under way, joined by their retries.
mod inflight;
/// One lock per object.
mod locks;
/// Which monitor belongs to which pod.
mod monitors;
/// Layers put together.
mod mount_overlay;
/// CDI devices and classes.
mod node_extras;
/// Changes of containers that NRI plugins ask for.
mod plugin_updates;
/// What NRI plugins are told.
mod plugins;
/// PortForward.
mod port_forward;
/// The file work of CreateContainer.
mod prepare_container;
/// What a new agent does first.
mod recover;
/// RemoveContainer.
mod remove_container;
/// RemovePodSandbox.
mod remove_pod;
/// ReopenContainerLog.
mod reopen_log;
/// Containers from checkpoints.
mod restore_container;
/// RestorePod.
mod restore_pod;
/// RunPodSandbox.
mod run_pod;
/// Scopes of the systemd driver.
mod scopes;
/// SELinux levels of pods.
mod selinux_levels;
/// StartContainer.
mod start_container;
/// Statistics of containers and pods.
mod stats;
/// StopContainer.
mod stop_container;
/// StopPodSandbox.
mod stop_pod;
/// What Exec and Attach have in common.
mod streams;
/// Pods in the network of another.
mod target_network;
/// Rollback.
mod undo;
/// UpdateContainerResources.
mod update_container_resources;
/// UpdatePodSandboxResources.
mod update_pod_resources;
/// Pods in user namespaces.
mod user_namespace;

use std::collections::HashSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tracing::Instrument;

use crate::image::ImageStore;
use crate::libcontainer::cgroup::{Layout, Systemd};
use crate::libcontainer::plan::Warning;
use crate::libcontainer::seccomp::FilterCache;
use crate::libcontainer::spec::HostFacts;
use crate::model::{Container, ContainerId, ContainerKey, ContainerState, Pod, PodId, PodKey};
use crate::monitor::client::{MonitorError, Spawner};
use crate::network::PodNetworks;
use crate::nri::Nri;
use crate::state::{Event, Lookup, Snapshot, State};
use crate::stream::StreamServer;

pub use crate::model::chain;
pub use error::Error;
pub use exec_sync::ExecOutput;
pub use handlers::{Handler, Handlers, Program};
pub use restore_pod::RestoredPod;
pub use stats::{Disk, Interface, LayerUsage, PodStats, Stats, Traffic};
pub use user_namespace::IdBlocks;

/// What the verbs share. One per agent.
pub struct Engine {
    /// Pods and containers.
    state: State,
    images: Arc<ImageStore>,
    network: Arc<PodNetworks>,
    spawner: Spawner,
    streams: Arc<StreamServer>,
    monitors: monitors::Monitors,
    cgroups: Layout,
    systemd: Option<Systemd>,
    host: HostFacts,
    handlers: Handlers,
    node: NodeFiles,
    ids: user_namespace::Ids,
    filters: FilterCache,
    warned: Mutex<HashSet<Warning>>,
    levels: Arc<selinux_levels::Levels>,
    paths: Paths,
    criu: PathBuf,
    cgroup_parent: String,
    pods_under_way: Arc<inflight::Inflight<PodKey, PodId>>,
    containers_under_way: Arc<inflight::Inflight<ContainerKey, ContainerId>>,
    pod_locks: locks::Locks<PodId>,
    container_locks: locks::Locks<ContainerId>,
    checkpoint_locks: locks::Locks<ContainerId>,
    stats: stats::Sampler,
    nri: Arc<Nri>,
    owed: plugins::Owed,
}

/// The parts that an engine is made of.
pub struct Parts {
    /// Folders.
    pub paths: Paths,
    /// The image store, opened.
    pub images: Arc<ImageStore>,
    /// The pod networks, opened.
    pub network: Arc<PodNetworks>,
    /// Forks a monitor per pod.
    pub spawner: Spawner,
    /// Serves the clients of Exec, Attach and PortForward.
    pub streams: Arc<StreamServer>,
    /// The host's cgroup hierarchies.
    pub cgroups: Layout,
    /// With the systemd driver.
    pub systemd: Option<Systemd>,
    /// The cgroup parent of pods that name none.
    pub cgroup_parent: String,
    /// What this host can do.
    pub host: HostFacts,
    /// What a pod's RuntimeClass can choose.
    pub handlers: Handlers,
    /// The ids of pods in user namespaces whose client names none.
    pub id_blocks: Option<IdBlocks>,
    /// What the operator says of the node's devices.
    pub node: NodeFiles,
    /// The program that takes checkpoints.
    pub criu: PathBuf,
    /// NRI plugins; there may never be one.
    pub nri: Arc<Nri>,
}

/// Files in which the operator, or a vendor, says what containers can have of the node. They are read when somebody asks.
#[derive(Debug, Clone, Default)]
pub struct NodeFiles {
    /// Folders with CDI files; a later one wins.
    pub cdi_dirs: Vec<PathBuf>,
    /// Classes of block I/O.
    pub blockio_config: Option<PathBuf>,
}

/// The agent's folders.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Durable: writable layers are below it.
    pub root: PathBuf,
    /// A tmpfs: records, sockets, the pods' files.
    pub run_root: PathBuf,
}

impl Paths {
    /// The writable layers of all containers.
    fn container_layers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The writable layer of one container: `upper` and `work`.
    fn container_layer(&self, id: &ContainerId) -> PathBuf {
        self.container_layers().join(id.as_str())
    }

    /// What checkpoints are put together in, a folder for each container.
    fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// What was renamed away to be deleted off anybody's path.
    fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

impl Engine {
    /// An engine that knows no pod yet; `recover` comes first.
    ///
    /// # Errors
    /// When the agent's folders cannot be made.
    pub fn new(parts: Parts) -> Result<Arc<Self>, Error> {
        let Parts {
            paths,
            images,
            network,
            spawner,
            streams,
            cgroups,
            systemd,
            cgroup_parent,
            host,
            handlers,
            id_blocks,
            node,
            criu,
            nri,
        } = parts;
        for dir in [paths.container_layers(), paths.checkpoints(), paths.trash()] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|source| Error::Io { op: "make", path: dir, source })?;
        }
        Ok(Arc::new(Self {
            state: State::open(&paths.run_root)?,
            images,
            network,
            spawner,
            streams,
            monitors: monitors::Monitors::default(),
            cgroups,
            systemd,
            host,
            handlers,
            node,
            criu,
            ids: user_namespace::Ids::new(id_blocks),
            filters: FilterCache::default(),
            warned: Mutex::default(),
            levels: Arc::default(),
            paths,
            cgroup_parent,
            pods_under_way: Arc::default(),
            containers_under_way: Arc::default(),
            pod_locks: locks::Locks::default(),
            container_locks: locks::Locks::default(),
            checkpoint_locks: locks::Locks::default(),
            stats: stats::Sampler::default(),
            nri,
            owed: plugins::Owed::default(),
        }))
    }

    /// All pods and containers as they are now; Lists and Statuses are answered from it without waiting.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.state.snapshot()
    }

    /// What happens to pods and containers from now on.
    pub fn events(&self) -> mpsc::Receiver<Arc<Event>> {
        self.state.events()
    }

    /// The image store, for the image verbs.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// What this host can do.
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// What a pod's RuntimeClass can choose.
    pub fn handlers(&self) -> &Handlers {
        &self.handlers
    }

    /// The pod networks, for their status and their CIDR.
    pub fn network(&self) -> &Arc<PodNetworks> {
        &self.network
    }

    /// The pod of an id or of the beginning of one.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>, Error> {
        match self.state.snapshot().pod(id) {
            Lookup::Found(pod) => Ok(pod),
            Lookup::Absent => Err(Error::NoSuchPod(id.to_owned())),
            Lookup::Ambiguous => Err(Error::AmbiguousId(id.to_owned())),
        }
    }

    /// The container of an id or of the beginning of one.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        match self.state.snapshot().container(id) {
            Lookup::Found(container) => Ok(container),
            Lookup::Absent => Err(Error::NoSuchContainer(id.to_owned())),
            Lookup::Ambiguous => Err(Error::AmbiguousId(id.to_owned())),
        }
    }

    /// The container of an id or of the beginning of one, if it runs.
    fn running_container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let container = self.container(id)?;
        match container.state {
            ContainerState::Running { .. } => Ok(container),
            _ => Err(Error::WrongState {
                what: "container",
                id: container.id.to_string(),
                state: container.state.name(),
                wanted: "running",
            }),
        }
    }

    /// Runs the file work of a verb off the runtime's thread.
    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Engine) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let engine = self.clone();
        blocking(move || work(&engine)).await
    }
}

/// Runs a verb to its end even if its client hangs up.
async fn detached<T: Send + 'static>(
    verb: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(verb.in_current_span()).await.unwrap_or(Err(Error::Cancelled))
}

/// Runs what may touch a real disk or a user's volume on a thread of its own, so that it can hang without harm.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Cancelled))
}

/// Nanoseconds since the epoch.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Says which pod's monitor failed.
fn of_pod(pod: &PodId) -> impl FnOnce(MonitorError) -> Error + use<> {
    let pod = pod.to_string();
    move |source| Error::Monitor { pod, source }
}
