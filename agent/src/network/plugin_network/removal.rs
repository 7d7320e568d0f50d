//! A pod's way out of its network. What a plugin cannot take back now is asked for again, from the record, and keeps nobody: not
//! the pod's end, and not the agent's start.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::types::NetworkName;
use tokio::sync::oneshot;

use super::{Found, PluginNetwork, Stage, path_of, request};
use crate::model::{PodId, chain};
use crate::network::NetworkError;

/// How long the end of a pod waits for its plugins. They go on.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pauses between attempts: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long plugins may take for a GC, which keeps new pods waiting.
const GC_PATIENCE: Duration = Duration::from_secs(10);

impl PluginNetwork {
    /// Takes a pod out of its network; nothing when it is in none. Comes back when the plugins have tried once, or take too long:
    /// then, and when they fail, they are asked again later. `netns` is the pod's, if it is still there.
    pub(in crate::network) async fn remove(self: &Arc<Self>, pod: &PodId, netns: Option<OwnedFd>) {
        if let Some(tried) = self.begin_removal(pod, netns) {
            // The sender is dropped, and so heard of, in any case.
            let _ = tokio::time::timeout(PATIENCE, tried).await;
        }
    }

    /// Whether a pod is in a network, and nobody is at it.
    pub(in crate::network) fn has(&self, pod: &PodId) -> bool {
        self.lock().get(pod).is_some_and(|member| member.stage == Stage::Joined)
    }

    /// Takes all pods that are not alive out of their networks, and has the plugins of the network in force drop what belongs to
    /// nobody (GC, 1.1.0). Waits for them no longer than for one pod.
    pub(in crate::network) async fn sweep(self: &Arc<Self>, live: &HashSet<PodId>) {
        let dead: Vec<PodId> = self.lock().keys().filter(|pod| !live.contains(*pod)).cloned().collect();
        let tried: Vec<_> = dead.iter().filter_map(|pod| self.begin_removal(pod, None)).collect();
        let network = Arc::clone(self);
        let swept = tokio::spawn(async move {
            for one in tried {
                let _ = one.await;
            }
            network.collect_garbage().await;
        });
        let _ = tokio::time::timeout(PATIENCE, swept).await;
    }

    fn begin_removal(self: &Arc<Self>, pod: &PodId, netns: Option<OwnedFd>) -> Option<oneshot::Receiver<()>> {
        let mut pods = self.lock();
        let member = pods.get_mut(pod).filter(|member| member.stage == Stage::Joined)?;
        member.stage = Stage::Leaving;
        let (told, tried) = oneshot::channel();
        tokio::spawn(Arc::clone(self).take_out(pod.clone(), member.network.clone(), netns, told));
        Some(tried)
    }

    async fn take_out(
        self: Arc<Self>,
        pod: PodId,
        from: NetworkName,
        mut netns: Option<OwnedFd>,
        told: oneshot::Sender<()>,
    ) {
        let (mut pause, mut told) = (FIRST_PAUSE, Some(told));
        loop {
            // The namespace is the pod's only until its end, for which the first attempt is waited.
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
