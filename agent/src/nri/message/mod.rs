//! Pods and containers as plugins see them. Pure.

/// Limits, there and back.
mod limits;
/// An OCI spec's part of a container.
mod spec;

use std::collections::HashMap;

use cri_api::v1::LinuxContainerResources;
use nri_api::v1alpha1::{Container, ContainerState as State, Image, LinuxNamespace, LinuxPodSandbox, PodSandbox, User};

pub(crate) use limits::of_cri;
pub use limits::{LimitError, limits, to_limits};
pub use spec::of_spec;

use crate::model::{self, ContainerId, ContainerSpec, ContainerState, Pod, ProcessUser};

/// A pod. `monitor` is the process that lives in its namespaces, while there is one.
pub fn pod(pod: &Pod, monitor: Option<i32>) -> PodSandbox {
    let config = pod.config();
    let metadata = pod.metadata();
    let linux = config.linux.as_ref();
    let of = |resources: Option<&LinuxContainerResources>| resources.map(limits);
    let namespace = |kind: &str, file: &str, pid: i32| LinuxNamespace {
        r#type: kind.to_owned(),
        path: format!("/proc/{pid}/ns/{file}"),
    };
    let namespaces =
        |pid| vec![namespace("network", "net", pid), namespace("ipc", "ipc", pid), namespace("uts", "uts", pid)];
    PodSandbox {
        id: pod.id.to_string(),
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        labels: ordered(&config.labels),
        annotations: ordered(&config.annotations),
        runtime_handler: pod.spec.runtime_handler.clone(),
        linux: Some(LinuxPodSandbox {
            pod_overhead: of(linux.and_then(|linux| linux.overhead.as_ref())),
            pod_resources: of(linux.and_then(|linux| linux.resources.as_ref())),
            cgroup_parent: pod.spec.cgroup_parent.clone(),
            namespaces: monitor.map(namespaces).unwrap_or_default(),
            ..LinuxPodSandbox::default()
        }),
        pid: monitor.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        ips: pod.state.addresses.iter().map(ToString::to_string).collect(),
    }
}

/// A container that is about to be created: `base` is its spec's part (`of_spec`).
pub fn new_container(base: Container, id: &ContainerId, spec: &ContainerSpec, user: &ProcessUser) -> Container {
    let metadata = spec.config.metadata.clone().unwrap_or_default();
    let image = spec.config.image.clone().unwrap_or_default();
    let name = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    let digest = name.split_once('@').map_or_else(String::new, |(_, digest)| digest.to_owned());
    Container {
        id: id.to_string(),
        pod_sandbox_id: spec.pod.clone(),
        name: metadata.name,
        state: State::ContainerUnknown.into(),
        labels: ordered(&spec.config.labels),
        annotations: ordered(&spec.config.annotations),
        created_at: spec.created_at,
        cdi_devices: spec
            .config
            .cdi_devices
            .iter()
            .map(|device| nri_api::v1alpha1::CdiDevice { name: device.name.clone() })
            .collect(),
        user: Some(user_of(user)),
        image: Some(Image { name, digest, config_digest: spec.image_id.to_string() }),
        ..base
    }
}

/// A container that is there: `made` is what plugins were told of it when it was created, or what is known of that.
pub fn container(made: Container, container: &model::Container) -> Container {
    let mut told = made;
    told.user = Some(user_of(container.state.user()));
    if let Some(in_force) = container.limits() {
        let now = limits(in_force);
        let resources = told.linux.get_or_insert_default().resources.get_or_insert_default();
        // What no client can change stays as it was made.
        let pids = resources.pids.take();
        let devices = std::mem::take(&mut resources.devices);
        let classes = (resources.blockio_class.take(), resources.rdt_class.take());
        *resources = now;
        (resources.pids, resources.devices) = (pids, devices);
        (resources.blockio_class, resources.rdt_class) = classes;
    }
    let state = match &container.state {
        ContainerState::Created { .. } => State::ContainerCreated,
        ContainerState::Running { started_at, .. } => {
            told.started_at = *started_at;
            State::ContainerRunning
        }
        ContainerState::Exited { exit, .. } => {
            (told.started_at, told.finished_at, told.exit_code) = (exit.started_at, exit.finished_at, exit.exit_code);
            (told.status_reason, told.status_message) = (format!("{:?}", exit.reason), exit.message.clone());
            State::ContainerStopped
        }
    };
    told.state = state.into();
    told.pid = container.state.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    told
}

fn user_of(user: &ProcessUser) -> User {
    User { uid: user.uid, gid: user.gid, additional_gids: user.groups.clone() }
}

fn ordered(map: &HashMap<String, String>) -> std::collections::BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
