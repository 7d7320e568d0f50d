//! A pod sandbox: what was asked for, and what it is now.

use std::net::IpAddr;

use cri_api::v1::{LinuxContainerResources, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata};
use serde::{Deserialize, Serialize};

use super::PodId;

/// A pod that was made whole; a half-made one is never seen outside `ops::run_pod`.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its id.
    pub id: PodId,
    /// What does not change from its first moment.
    pub spec: PodSpec,
    /// What does.
    pub state: PodState,
}

/// The unchanging part, kept in the pod's `spec` file. Written before anything else is made for the pod, so a spec
/// without a state tells the next agent of a pod that was only half made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodSpec {
    /// The request: Status and List give labels, annotations and namespace options back from it. Unaltered, but that a
    /// user namespace has the ids that it was given, if the request names none.
    pub config: PodSandboxConfig,
    /// RuntimeClass handler; "" is the default one.
    pub runtime_handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// The host name inside.
    pub hostname: String,
    /// The cgroup below which each container gets its own, as a path from the hierarchy's root.
    pub cgroup_parent: String,
    /// The SELinux level of all its containers; empty where SELinux is off.
    #[serde(default)]
    pub selinux_level: String,
    /// The id of the pod in whose network this one is (mode TARGET).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_of: Option<String>,
}

/// The changing part, kept in the pod's `state` file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodState {
    /// Ready until it is stopped or its monitor is lost; never ready again.
    pub phase: PodPhase,
    /// The pod's addresses, IPv4 first; none in the host's network. Kept after a stop: kubelet compares them.
    pub addresses: Vec<IpAddr>,
    /// What the pod takes beside its containers, when it was changed since the request.
    #[serde(default)]
    pub overhead: Option<LinuxContainerResources>,
    /// What its containers may take together, when it was changed since the request.
    #[serde(default)]
    pub resources: Option<LinuxContainerResources>,
}

impl PodState {
    /// A pod that was just made.
    pub fn ready(addresses: Vec<IpAddr>) -> Self {
        Self { phase: PodPhase::Ready, addresses, overhead: None, resources: None }
    }
}

/// CRI `PodSandboxState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Its namespaces are there and containers can be made in it.
    Ready,
    /// Stopped: its namespaces are gone.
    NotReady,
}

/// What makes two requests the same pod: a retry carries the same key (CRI `PodSandboxMetadata`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodKey {
    name: String,
    namespace: String,
    uid: String,
    attempt: u32,
}

impl PodKey {
    /// The key of a request's metadata.
    pub fn new(metadata: &PodSandboxMetadata) -> Self {
        Self {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            attempt: metadata.attempt,
        }
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} (uid {}, attempt {})", self.namespace, self.name, self.uid, self.attempt)
    }
}

impl Pod {
    /// The request, with what was changed since.
    pub fn config(&self) -> PodSandboxConfig {
        let mut config = self.spec.config.clone();
        let PodState { overhead, resources, .. } = &self.state;
        if overhead.is_some() || resources.is_some() {
            let linux = config.linux.get_or_insert_default();
            linux.overhead = overhead.clone().or(linux.overhead.take());
            linux.resources = resources.clone().or(linux.resources.take());
        }
        config
    }

    /// The request's metadata; `ops::run_pod` refuses a pod without.
    pub fn metadata(&self) -> PodSandboxMetadata {
        self.spec.config.metadata.clone().unwrap_or_default()
    }
}

impl PodSpec {
    /// The namespace options in force; absent ones mean all POD.
    pub fn namespaces(&self) -> NamespaceOption {
        namespace_options(&self.config)
    }

    /// Whether the pod lives in the node's network namespace.
    pub fn host_network(&self) -> bool {
        self.namespaces().network() == NamespaceMode::Node
    }

    /// Whether a privileged container may run in it (CRI `LinuxSandboxSecurityContext.privileged`).
    pub fn privileged(&self) -> bool {
        let linux = self.config.linux.as_ref();
        linux.and_then(|linux| linux.security_context.as_ref()).is_some_and(|context| context.privileged)
    }
}

/// The namespace options that a pod request asks for; what it leaves out is POD, the enum's zero (rules of the CRI).
pub fn namespace_options(config: &PodSandboxConfig) -> NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}
