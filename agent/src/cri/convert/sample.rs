//! A pod and a container for the tests of this module and of the filters.

use cri_api::v1::{ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata};

use crate::model::{Container, ContainerSpec, ContainerState, Digest, Pod, PodSpec, PodState, ProcessUser};

fn id(start: &str) -> String {
    format!("{start:0<64}")
}

fn labels(app: &str) -> std::collections::HashMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

/// A ready pod with the label `app`.
pub(in crate::cri) fn pod(start: &str, app: &str) -> Pod {
    let metadata = PodSandboxMetadata { name: app.into(), uid: "u".into(), namespace: "n".into(), attempt: 3 };
    let config = PodSandboxConfig { metadata: Some(metadata), labels: labels(app), ..PodSandboxConfig::default() };
    Pod {
        id: id(start).parse().unwrap(),
        spec: PodSpec {
            config,
            runtime_handler: String::new(),
            created_at: 5,
            hostname: app.into(),
            cgroup_parent: "/kubepods".into(),
            selinux_level: String::new(),
            network_of: None,
        },
        state: PodState::ready(vec!["10.88.0.2".parse().unwrap(), "fd88::2".parse().unwrap()]),
    }
}

/// A running container with the label `app`.
pub(in crate::cri) fn container(start: &str, pod: &str, app: &str) -> Container {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: app.into(), attempt: 1 }),
        image: Some(ImageSpec { image: "busybox:latest".into(), ..ImageSpec::default() }),
        labels: labels(app),
        ..ContainerConfig::default()
    };
    Container {
        id: id(start).parse().unwrap(),
        spec: ContainerSpec {
            pod: id(pod),
            config,
            image_id: Digest::from_sha256(&[7; 32]),
            layers: Vec::new(),
            image_volumes: Vec::new(),
            created_at: 6,
            log_path: "/var/log/pods/x/0.log".into(),
            cgroup: "/kubepods/x".into(),
            stop_signal: 15,
            external: false,
            checkpoint: None,
        },
        state: ContainerState::Running {
            pid: 9,
            user: ProcessUser { uid: 1000, gid: 100, groups: vec![100, 5] },
            started_at: 7,
        },
        resources: None,
    }
}
