//! A pod's way out of its network. The record of its ADD is the intent: what a plugin cannot take back now is asked for again by it, and
//! keeps nobody: not the pod's end, and not the agent's start.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::types::NetworkName;
use tokio::sync::watch;

use super::{Found, Membership, PluginNetwork, Stage, orphans, path_of, request};
use crate::model::{PodId, chain};
use crate::network::NetworkError;

/// How long the end of a pod waits for its plugins. They go on.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pauses between attempts: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long plugins may take for a GC, which keeps new pods waiting.
const GC_PATIENCE: Duration = Duration::from_secs(10);

/// Tells when the plugins have been asked once to take a pod out.
#[derive(Debug, Clone)]
pub(super) struct Tried(watch::Receiver<()>);

impl Tried {
    async fn done(mut self) {
        // Nothing is sent: the sender is dropped in any case.
        while self.0.changed().await.is_ok() {}
    }

    fn is_done(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl Stage {
    fn tried(&self) -> Option<&Tried> {
        match self {
            Self::Leaving(tried) => Some(tried),
            Self::Joining | Self::Joined => None,
        }
    }
}

/// Waits for these, but not for ever.
pub(super) async fn wait(all: Vec<Tried>) {
    let done = futures_util::future::join_all(all.into_iter().map(Tried::done));
    let _ = tokio::time::timeout(PATIENCE, done).await;
}

impl PluginNetwork {
    /// Takes a pod out of its network; nothing when it is in none. Programs are waited for until they have tried once, or take too long:
    /// some of them look at what is of the pod only until its end (its namespace, its object in the API server). Our own plugins need
    /// nothing but the record, and nobody waits. When they fail they are asked again later. `netns` is the pod's, if it is still there.
    pub(in crate::network) async fn remove(self: &Arc<Self>, pod: &PodId, netns: Option<OwnedFd>) {
        if let Some((tried, false)) = self.begin_removal(pod, netns) {
            wait(vec![tried]).await;
        }
    }

    /// Comes back when the plugins have tried once to take a pod out that is on its way, or take too long.
    pub(in crate::network) async fn wait_left(&self, pod: &PodId) {
        let tried = self.lock().get(pod).and_then(|member| member.stage.tried().cloned());
        wait(tried.into_iter().collect()).await;
    }

    /// Who is on the way out of a network for the first time.
    pub(super) fn leaving(&self, network: &NetworkName) -> Vec<Tried> {
        let pods = self.lock();
        let of_network = pods.values().filter(|member| member.network == *network);
        of_network.filter_map(|member| member.stage.tried()).filter(|tried| !tried.is_done()).cloned().collect()
    }

    /// Whether a pod is in a network, and nobody is at it.
    pub(in crate::network) fn has(&self, pod: &PodId) -> bool {
        self.lock().get(pod).is_some_and(|member| matches!(member.stage, Stage::Joined))
    }

    /// Takes all pods that are not alive out of their networks, and has the plugins of the network in force drop what belongs to
    /// nobody (GC, 1.1.0). Waits for them no longer than for one pod.
    pub(in crate::network) async fn sweep(self: &Arc<Self>, live: &HashSet<PodId>) {
        let dead: Vec<PodId> = self.lock().keys().filter(|pod| !live.contains(*pod)).cloned().collect();
        let tried: Vec<_> =
            dead.iter().filter_map(|pod| self.begin_removal(pod, None)).map(|(tried, _)| tried).collect();
        let network = Arc::clone(self);
        let swept = tokio::spawn(async move {
            for one in tried {
                one.done().await;
            }
            network.collect_garbage().await;
        });
        let _ = tokio::time::timeout(PATIENCE, swept).await;
    }

    /// And whether its plugins are ours.
    fn begin_removal(self: &Arc<Self>, pod: &PodId, netns: Option<OwnedFd>) -> Option<(Tried, bool)> {
        let mut pods = self.lock();
        let member = pods.get_mut(pod).filter(|member| matches!(member.stage, Stage::Joined))?;
        let (told, tried) = watch::channel(());
        let tried = Tried(tried);
        tokio::spawn(Arc::clone(self).take_out(pod.clone(), member.clone(), netns, told));
        member.stage = Stage::Leaving(tried.clone());
        Some((tried, member.ours))
    }

    async fn take_out(
        self: Arc<Self>,
        pod: PodId,
        member: Membership,
        mut netns: Option<OwnedFd>,
        told: watch::Sender<()>,
    ) {
        let (mut pause, mut told, from) = (FIRST_PAUSE, Some(told), member.network);
        if member.cut_short && !member.ours {
            let (of, patience) = (pod.clone(), self.config.timeout);
            // An error is the end of the agent.
            let _ = tokio::task::spawn_blocking(move || orphans::await_end(&of, patience)).await;
        }
        loop {
            // By now it may be nobody's but this descriptor's, and goes with the first attempt.
            match self.delete(&pod, &from, netns.take()).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(
                    %pod, network = %from, error = chain(&error), again_in = ?pause,
                    "a pod that has ended could not be taken out of its network"
                ),
            }
            drop(told.take());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.lock().remove(&pod);
    }

    async fn delete(
        self: &Arc<Self>,
        pod: &PodId,
        from: &NetworkName,
        netns: Option<OwnedFd>,
    ) -> Result<(), NetworkError> {
        let attachment = request::bare(pod).map_err(request::InvalidRequest::from)?;
        let (network, name) = (Arc::clone(self), from.clone());
        let deleted = tokio::task::spawn_blocking(move || {
            let attachment = cni::client::Attachment { netns: netns.as_ref().map(path_of), ..attachment };
            network.client.del(&name, None, &attachment, Instant::now() + network.config.timeout)
        });
        deleted.await?.map_err(NetworkError::plugins(from))
    }

    /// By the network in force alone: others in the folder may be somebody else's.
    async fn collect_garbage(self: &Arc<Self>) {
        let Found::Network(list) = &*self.found() else { return };
        let (Ok(interface), alone) = (request::interface(), self.adding.write().await) else { return };
        // Also who is about to leave: that is not the plugins' to do twice.
        let members: Vec<PodId> =
            self.lock().iter().filter(|(_, member)| member.network == list.name).map(|(pod, _)| pod.clone()).collect();
        let living =
            members.iter().filter_map(|pod| Some((pod.as_str().parse().ok()?, interface.clone()))).collect::<Vec<_>>();
        let (network, of) = (Arc::clone(self), Arc::clone(list));
        let collected = tokio::task::spawn_blocking(move || {
            network.client.gc(&of, &living, Instant::now() + network.config.timeout.min(GC_PATIENCE))
        });
        let collected =
            collected.await.map_err(NetworkError::from).and_then(|it| it.map_err(NetworkError::plugins(&list.name)));
        drop(alone);
        if let Err(error) = collected {
            tracing::warn!(network = %list.name, error = chain(&error), "plugins could not drop what belongs to nobody");
        }
    }
}
