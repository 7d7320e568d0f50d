//! The Node Resource Interface (NRI): plugins on the node are told what happens to pods and containers, and change them. They come
//! over a socket or are started by the agent; a plugin that fails or hangs costs its own part and no more.
//!
//! Called by `ops`, which answers what plugins ask for in turn. Without a plugin every event costs one load of an atomic.

/// A container that is adjusted: edits of its OCI spec.
mod adjust;
/// A plugin's socket.
mod connection;
/// What happens, told to plugins.
mod events;
/// What has to hold for any plugin.
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
/// Plugins that the agent starts.
mod launch;
/// What several plugins want, put together.
mod merge;
/// Pods and containers as plugins see them.
pub mod message;
/// One plugin.
mod plugin;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use nri_api::ttrpc::Status;
use nri_api::v1alpha1::{
    Container, ContainerAdjustment, ContainerUpdate, PodSandbox, UpdateContainersRequest, UpdateContainersResponse,
};
use prost::Message as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, RwLock, mpsc, oneshot};

pub use adjust::{AdjustError, adjust_spec};
use connection::{Connection, Incoming, UNIMPLEMENTED, bad_request};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::plugin as fuzz_plugin;
use launch::{Installed, Process};
pub use merge::MergeError;
use plugin::{Name, Plugin, registered};

/// Where plugins are, and how long they may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Plugins that the agent starts.
    pub plugin_path: PathBuf,
    /// Their configuration.
    pub plugin_config_path: PathBuf,
    /// From a connection to a plugin's name.
    pub registration_timeout: Duration,
    /// For each question.
    pub request_timeout: Duration,
}

/// What a plugin has against a request.
#[derive(Debug, thiserror::Error)]
pub enum NriError {
    /// Its own words.
    #[error("the NRI plugin {plugin} refuses {event}: {reason}")]
    Refused {
        /// Which plugin.
        plugin: String,
        /// The event's method.
        event: &'static str,
        /// What it says.
        reason: String,
    },
    /// Plugins that cannot all have what they want.
    #[error("NRI")]
    Merge(#[from] MergeError),
}

/// What a plugin wants of the agent.
pub enum Ask {
    /// All pods and containers.
    Inventory(oneshot::Sender<Inventory>),
    /// Changes of containers; those that were not made come back.
    Update(Vec<ContainerUpdate>, oneshot::Sender<Vec<ContainerUpdate>>),
}

/// What is there.
#[derive(Debug, Default)]
pub struct Inventory {
    /// All pods.
    pub pods: Vec<PodSandbox>,
    /// All containers.
    pub containers: Vec<Container>,
}

/// What plugins make of a container that is about to be created.
#[derive(Debug)]
pub struct Adjusted {
    /// As it is to be.
    pub container: Container,
    /// What makes it so.
    pub adjustment: ContainerAdjustment,
    /// Changes of others.
    pub updates: Vec<ContainerUpdate>,
}

/// The plugins.
pub struct Nri {
    settings: Settings,
    /// How many there are.
    active: AtomicUsize,
    /// In their order. Held while they are asked: a plugin sees one event after the other.
    plugins: Mutex<Vec<Arc<Plugin>>>,
    /// Held for writing while a plugin learns what is there, so that nothing is half made then.
    gate: RwLock<()>,
    asks: mpsc::Sender<Ask>,
}

impl Nri {
    /// No plugin yet. Whoever takes the other end answers what plugins ask.
    pub fn new(settings: Settings) -> (Arc<Self>, mpsc::Receiver<Ask>) {
        let (asks, answers) = mpsc::channel(1);
        let (active, plugins, gate) = (AtomicUsize::new(0), Mutex::default(), RwLock::default());
        (Arc::new(Self { settings, active, plugins, gate, asks }), answers)
    }

    /// Starts the installed plugins and waits until each has learned what is there, or has failed.
    pub async fn launch(self: &Arc<Self>) {
        let (programs, configs) = (self.settings.plugin_path.clone(), self.settings.plugin_config_path.clone());
        let found = tokio::task::spawn_blocking(move || launch::installed(&programs, &configs)).await;
        let starts = found.unwrap_or_default().into_iter().map(|plugin| self.launch_one(plugin));
        join_all(starts).await;
    }

    async fn launch_one(self: &Arc<Self>, installed: Installed) {
        let started = installed.start().and_then(|(socket, process)| Ok((UnixStream::from_std(socket)?, process)));
        match started {
            Ok((socket, process)) => self.admit(socket, Some((installed, process))).await,
            Err(error) => {
                tracing::error!(plugin = %installed.name, %error, "the installed NRI plugin cannot be started");
            }
        }
    }

    /// Lets plugins in that connect by themselves.
    pub fn listen(self: &Arc<Self>, listener: UnixListener) {
        let nri = self.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((socket, _)) => {
                        let nri = nri.clone();
                        tokio::spawn(async move { nri.admit(socket, None).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an NRI plugin could not connect");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
    }

    /// From a connection to a plugin that is asked: name, configuration, what is there.
    async fn admit(self: &Arc<Self>, socket: UnixStream, launched: Option<(Installed, Process)>) {
        let (connection, mut incoming) = Connection::open(socket);
        let (known, config, process) = match launched {
            Some((Installed { name, config, .. }, process)) => (Some(name), config, Some(process)),
            None => (None, String::new(), None),
        };
        let limit = self.settings.registration_timeout;
        let told = tokio::time::timeout(limit, registered(&connection, &mut incoming, known.as_ref())).await;
        let name = match told.unwrap_or_else(|_| Err(format!("it did not register within {limit:?}"))) {
            Ok(name) => name,
            Err(reason) => {
                let who = known.map_or_else(|| "one that connected".to_owned(), |name| name.to_string());
                tracing::warn!(plugin = who, reason, "not an NRI plugin");
                connection.close();
                return;
            }
        };
        self.serve(name.clone(), connection.clone(), incoming, process);
        if let Err(reason) = self.introduce(name.clone(), connection.clone(), config).await {
            tracing::warn!(plugin = %name, reason, "the NRI plugin is disconnected");
            connection.close();
        }
    }

    async fn introduce(
        self: &Arc<Self>,
        name: Name,
        connection: Arc<Connection>,
        config: String,
    ) -> Result<(), String> {
        let plugin = Plugin::configure(name, connection, &self.settings, config).await?;
        let updates = {
            // A request that hangs must not keep the plugin, and with it every request after it, waiting for long.
            let patience = self.settings.registration_timeout;
            let _alone = tokio::time::timeout(patience, self.gate.write()).await.ok();
            let mut plugins = self.plugins.lock().await;
            let (told, inventory) = oneshot::channel();
            let asked = self.asks.send(Ask::Inventory(told)).await;
            asked.map_err(|_| "the agent is going down".to_owned())?;
            let Inventory { pods, containers } = inventory.await.map_err(|_| "the agent is going down".to_owned())?;
            let learned = tokio::time::timeout(patience, plugin.synchronize(&pods, &containers, patience)).await;
            let updates = learned.unwrap_or_else(|_| Err(format!("Synchronize: no answer within {patience:?}")))?;
            if !plugin.connection().is_open() {
                return Err("it hung up".to_owned());
            }
            tracing::info!(plugin = %plugin.name, "an NRI plugin is connected");
            plugins.push(Arc::new(plugin));
            plugins.sort_by(|a, b| a.name.cmp(&b.name));
            self.active.store(plugins.len(), Ordering::Release);
            updates
        };
        for update in self.update(updates).await {
            tracing::warn!(container = update.container_id, "a change that an NRI plugin wants could not be made");
        }
        Ok(())
    }

    /// Answers the plugin's calls until its connection ends, and forgets it then.
    fn serve(
        self: &Arc<Self>,
        name: Name,
        connection: Arc<Connection>,
        mut incoming: mpsc::Receiver<Incoming>,
        process: Option<Process>,
    ) {
        let nri = self.clone();
        tokio::spawn(async move {
            while let Some(call) = incoming.recv().await {
                let answer = nri.called(&name, &call).await;
                connection.answer(&call, answer).await;
            }
            connection.close();
            let mut plugins = nri.plugins.lock().await;
            plugins.retain(|plugin| !Arc::ptr_eq(plugin.connection(), &connection));
            nri.active.store(plugins.len(), Ordering::Release);
            drop(plugins);
            tracing::info!(plugin = %name, "an NRI plugin is gone");
            // Ends it, which waits for it.
            let _ = tokio::task::spawn_blocking(move || drop(process)).await;
        });
    }

    async fn called(&self, name: &Name, call: &Incoming) -> Result<Vec<u8>, Status> {
        if call.method != "UpdateContainers" {
            return Err(Status { code: UNIMPLEMENTED, message: format!("{:?} is not served here", call.method) });
        }
        let request = UpdateContainersRequest::decode(call.payload.as_slice()).map_err(|error| bad_request(&error))?;
        if !request.evict.is_empty() {
            tracing::warn!(plugin = %name, "the NRI plugin asks for evictions, which only kubelet makes");
        }
        let failed = self.update(request.update).await;
        Ok(UpdateContainersResponse { failed }.encode_to_vec())
    }

    /// Has containers changed; those that could not be come back.
    async fn update(&self, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        if updates.is_empty() {
            return updates;
        }
        let (told, failed) = oneshot::channel();
        if self.asks.send(Ask::Update(updates, told)).await.is_err() {
            return Vec::new();
        }
        failed.await.unwrap_or_default()
    }
}
