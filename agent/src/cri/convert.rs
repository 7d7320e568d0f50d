//! The model as the CRI shows it. Pure: a picture of the state in, messages out.

/// Events of pods and containers.
mod events;
/// Images and credentials.
mod images;
/// Metrics under cAdvisor's names.
mod metrics;
/// The node, and debugging information.
mod node;
/// Statistics.
mod stats;

use cri_api::v1;

pub(super) use events::event;
pub(super) use images::{auth, filesystem, image, image_info};
pub(super) use metrics::{metric_descriptors, pod_metrics};
pub(super) use node::{container_info, node_info, pod_info, status};
pub(super) use stats::{pod_stats, stats};

use crate::model::{Container, ContainerState, Exit, Pod, PodPhase, signal};

/// CRI `PodSandboxState`.
pub(super) fn pod_state(phase: PodPhase) -> v1::PodSandboxState {
    match phase {
        PodPhase::Ready => v1::PodSandboxState::SandboxReady,
        PodPhase::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

/// CRI `ContainerState`.
pub(super) fn container_state(state: &ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created { .. } => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
    }
}

/// A pod in a list.
pub(super) fn pod(pod: &Pod) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(pod.metadata()),
        state: pod_state(pod.state.phase).into(),
        created_at: pod.spec.created_at,
        labels: pod.spec.config.labels.clone(),
        annotations: pod.spec.config.annotations.clone(),
        runtime_handler: pod.spec.runtime_handler.clone(),
    }
}

/// A pod in full. The addresses stay after a stop: kubelet makes a pod anew whose address changes.
pub(super) fn pod_status(pod: &Pod) -> v1::PodSandboxStatus {
    let mut addresses = pod.state.addresses.iter().map(ToString::to_string);
    let network = v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    };
    let options = Some(pod.spec.namespaces());
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(pod.metadata()),
        state: pod_state(pod.state.phase).into(),
        created_at: pod.spec.created_at,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
        labels: pod.spec.config.labels.clone(),
        annotations: pod.spec.config.annotations.clone(),
        runtime_handler: pod.spec.runtime_handler.clone(),
    }
}

/// A container in a list.
pub(super) fn container(container: &Container) -> v1::Container {
    let image_id = container.spec.image_id.to_string();
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.spec.pod.clone(),
        metadata: Some(container.metadata()),
        image: Some(container.image()),
        image_ref: image_id.clone(),
        state: container_state(&container.state).into(),
        created_at: container.spec.created_at,
        labels: container.spec.config.labels.clone(),
        annotations: container.spec.config.annotations.clone(),
        image_id,
    }
}

/// A container in full.
pub(super) fn container_status(container: &Container) -> v1::ContainerStatus {
    let image_id = container.spec.image_id.to_string();
    let config = &container.spec.config;
    let exit = match &container.state {
        ContainerState::Exited { exit, .. } => Some(exit),
        ContainerState::Created { .. } | ContainerState::Running { .. } => None,
    };
    let started_at = match &container.state {
        ContainerState::Created { .. } => 0,
        ContainerState::Running { started_at, .. } => *started_at,
        ContainerState::Exited { exit, .. } => exit.started_at,
    };
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(container.metadata()),
        state: container_state(&container.state).into(),
        created_at: container.spec.created_at,
        started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.exit_code),
        image: Some(container.image()),
        image_ref: image_id.clone(),
        reason: exit.map_or_else(String::new, |exit: &Exit| exit.reason.as_str().to_owned()),
        message: exit.map_or_else(String::new, |exit| exit.message.clone()),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: container.spec.mounts(),
        log_path: container.spec.log_path.clone(),
        resources: resources(container),
        image_id,
        user: Some(user(container)),
        stop_signal: signal::to_cri(container.spec.stop_signal).into(),
    }
}

fn resources(container: &Container) -> Option<v1::ContainerResources> {
    Some(v1::ContainerResources { linux: Some(container.limits()?.clone()), windows: None })
}

fn user(container: &Container) -> v1::ContainerUser {
    let user = container.state.user();
    let linux = v1::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
    };
    v1::ContainerUser { linux: Some(linux) }
}

#[cfg(test)]
pub(super) mod sample;
#[cfg(test)]
mod tests;
