//! What kubelet reads out of an answer, field by field.

use cri_api::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, Signal,
};

use super::*;
use crate::model::{ContainerEvent, ExitReason};

#[test]
fn a_pods_addresses_and_namespaces_are_told_as_they_were_asked_for() {
    let mut pod = sample::pod("a", "web");
    let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
    pod.spec.config.linux =
        Some(LinuxPodSandboxConfig { security_context: Some(security), ..LinuxPodSandboxConfig::default() });
    let status = pod_status(&pod);
    let network = status.network.unwrap();
    assert_eq!(network.ip, "10.88.0.2");
    assert_eq!(network.additional_ips[0].ip, "fd88::2");
    assert_eq!(status.linux.unwrap().namespaces.unwrap().options, Some(options));
}

#[test]
fn a_stopped_pod_keeps_its_addresses() {
    let mut pod = sample::pod("a", "web");
    pod.state.phase = PodPhase::NotReady;
    let status = pod_status(&pod);
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    assert_eq!(status.network.unwrap().ip, "10.88.0.2");
}

#[test]
fn a_pod_in_the_hosts_network_has_no_address_and_still_its_options() {
    let mut pod = sample::pod("a", "web");
    pod.state.addresses.clear();
    let status = pod_status(&pod);
    assert_eq!(status.network.unwrap(), v1::PodSandboxNetworkStatus::default());
    assert!(status.linux.unwrap().namespaces.unwrap().options.is_some());
}

#[test]
fn a_containers_times_follow_its_state() {
    let mut container = sample::container("c", "a", "web");
    let times = |container: &Container| {
        let status = container_status(container);
        (status.created_at, status.started_at, status.finished_at)
    };
    assert_eq!(times(&container), (6, 7, 0));
    let exit = ContainerEvent::Exited { started_at: Some(7), at: 9, exit_code: 3, oom_killed: false };
    container.state = container.state.step(exit).unwrap();
    assert_eq!(times(&container), (6, 7, 9));
    let status = container_status(&container);
    assert_eq!((status.exit_code, status.reason.as_str()), (3, ExitReason::Error.as_str()));
    container.state = ContainerState::Created { pid: 9, user: container.state.user().clone() };
    assert_eq!(times(&container), (6, 0, 0));
}

#[test]
fn image_and_user_and_signal_are_those_in_force() {
    let container = sample::container("c", "a", "web");
    let status = container_status(&container);
    let id = container.spec.image_id.to_string();
    assert_eq!(status.image.as_ref().map(|image| image.image.as_str()), Some("busybox:latest"));
    assert_eq!((&status.image_ref, &status.image_id), (&id, &id));
    let user = status.user.clone().unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 100, vec![100, 5]));
    assert_eq!(status.stop_signal(), Signal::Sigterm);
    assert_eq!(super::container(&container).image_id, id);
}

#[test]
fn mounts_come_back_unaltered() {
    let mut container = sample::container("c", "a", "web");
    let mount = Mount {
        host_path: "/var/lib/../lib/x".into(),
        container_path: "/dev/termination-log".into(),
        propagation: MountPropagation::PropagationHostToContainer.into(),
        ..Mount::default()
    };
    container.spec.config.mounts = vec![mount.clone(), mount.clone()];
    assert_eq!(container_status(&container).mounts, [mount.clone(), mount]);
}

#[test]
fn the_limits_told_are_those_in_force() {
    let mut container = sample::container("c", "a", "web");
    assert_eq!(container_status(&container).resources, None);
    let limit = |bytes| v1::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
    container.spec.config.linux.get_or_insert_default().resources = Some(limit(5));
    let told = |container: &Container| container_status(container).resources.unwrap().linux.unwrap();
    assert_eq!(told(&container), limit(5));
    container.resources = Some(crate::model::Resources { in_force: limit(7), undo: Vec::new() });
    assert_eq!(told(&container), limit(7));
}
