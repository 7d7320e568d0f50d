//! A pod in the network of another (`namespace_options.network` TARGET): whose it is, and what becomes of it when that one ends.
//! Called by `run_pod` and `stop_pod`. See decision 034.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use cri_api::v1::{NamespaceMode, PodSandboxConfig};
use rustix::fs::fstat;
use tokio::sync::OwnedMutexGuard;

use super::create_container::not_ready;
use super::{Engine, Error, of_pod};
use crate::model::{Pod, PodId, PodPhase, namespace_options};
use crate::monitor::client::{MonitorError, PodNamespaces};
use crate::network::{Attached, namespace_of};

const FIELD: &str = "linux.security_context.namespace_options.network";

/// The pod in whose network a new one is to be.
pub(super) struct Target {
    pub(super) pod: Arc<Pod>,
    namespace: OwnedFd,
    /// It is not stopped before the new pod is known to be in its network.
    _held: OwnedMutexGuard<()>,
}

impl Target {
    /// Its network namespace.
    pub(super) fn namespace(&self) -> Result<OwnedFd, Error> {
        self.namespace.try_clone().map_err(|source| Error::System { op: "duplicate a network namespace", source })
    }

    /// What the new pod has: the target's addresses, once it is seen to be where it should be.
    pub(super) fn attached(&self, id: &PodId, namespaces: &PodNamespaces) -> Result<Attached, Error> {
        let same = namespaces.netns.as_ref().is_some_and(|netns| same_file(netns, &self.namespace));
        if !same {
            // A `berth-monitor` that is older than the agent would make a pod of the host's network.
            return Err(of_pod(id)(MonitorError::Unexpected));
        }
        Ok(Attached { addresses: self.pod.state.addresses.clone(), dns: None })
    }
}

impl Engine {
    /// The pod whose network a request names; none when it names none.
    pub(super) async fn target_network(&self, config: &PodSandboxConfig) -> Result<Option<Target>, Error> {
        let options = namespace_options(config);
        if options.network() != NamespaceMode::Target {
            return Ok(None);
        }
        let id = self.pod_of(&options.target_id)?.id.clone();
        let held = self.pod_locks.lock(&id).await;
        let pod = self.pod(id.as_str())?;
        check(&pod, config)?;
        let monitor = self.monitors.get(&id).ok_or_else(|| not_ready(&id))?;
        let namespace = namespace_of(monitor.client.pid()).ok_or_else(|| not_ready(&id))?;
        // It answers: so the number was still its own when the namespace was opened by it.
        monitor.client.inspect().await.map_err(of_pod(&id))?;
        Ok(Some(Target { pod, namespace, _held: held }))
    }

    /// The pod of that id, or that of the container of that id.
    fn pod_of(&self, id: &str) -> Result<Arc<Pod>, Error> {
        if id.is_empty() {
            let reason = "TARGET needs the id of a pod or container in target_id".to_owned();
            return Err(Error::Invalid { field: FIELD, reason });
        }
        match (self.pod(id), self.container(id)) {
            (Err(Error::NoSuchPod(_)), Ok(container)) => self.pod(&container.spec.pod),
            (pod, _) => pod,
        }
    }

    /// Takes a pod out of its network while its monitor, if it has one, keeps its namespace. Pods that live in there, too, keep it, with
    /// no way out.
    pub(super) async fn leave_network(&self, id: &PodId) -> Result<(), Error> {
        let snapshot = self.state.snapshot();
        let inside = |pod: &&Arc<Pod>| pod.spec.network_of.as_deref() == Some(id.as_str());
        let others: Vec<&PodId> = snapshot.pods.values().filter(inside).map(|pod| &pod.id).collect();
        if !others.is_empty() {
            self.network.cut(id).await?;
        }
        let monitor = std::iter::once(id).chain(others).find_map(|pod| self.monitors.get(pod));
        Ok(self.network.remove(id, monitor.map(|monitor| monitor.client.pid())).await?)
    }
}

/// Whether a pod's network can be shared with a new one.
fn check(target: &Pod, config: &PodSandboxConfig) -> Result<(), Error> {
    if target.state.phase != PodPhase::Ready {
        return Err(not_ready(&target.id));
    }
    let id = &target.id;
    let reason = match (target.spec.namespaces().network(), &target.spec.network_of) {
        (NamespaceMode::Node, _) => format!("pod {id} is in the node's network: ask for NODE"),
        (_, Some(other)) => format!("pod {id} is in the network of pod {other} itself: name that one"),
        _ if has_user_namespace(&target.spec.config) => {
            format!("the network of pod {id} belongs to its user namespace, in which another pod is not")
        }
        _ if has_user_namespace(config) => {
            format!("a pod in a user namespace cannot be in the network of pod {id}, which belongs to the host's")
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid { field: FIELD, reason })
}

fn has_user_namespace(config: &PodSandboxConfig) -> bool {
    namespace_options(config).userns_options.is_some_and(|asked| asked.mode() == NamespaceMode::Pod)
}

fn same_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
