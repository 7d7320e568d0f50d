//! The methods of the two services, as the metrics and the log name them.

/// A service and its methods.
struct Service {
    path: &'static str,
    methods: &'static [&'static str],
}

const SERVICES: [Service; 2] = [
    Service {
        path: "/runtime.v1.RuntimeService/",
        methods: &[
            "Version",
            "RunPodSandbox",
            "StopPodSandbox",
            "RemovePodSandbox",
            "PodSandboxStatus",
            "ListPodSandbox",
            "StreamPodSandboxes",
            "CreateContainer",
            "StartContainer",
            "StopContainer",
            "RemoveContainer",
            "ListContainers",
            "StreamContainers",
            "ContainerStatus",
            "UpdateContainerResources",
            "ReopenContainerLog",
            "ExecSync",
            "Exec",
            "Attach",
            "PortForward",
            "ContainerStats",
            "ListContainerStats",
            "StreamContainerStats",
            "PodSandboxStats",
            "ListPodSandboxStats",
            "StreamPodSandboxStats",
            "UpdateRuntimeConfig",
            "Status",
            "CheckpointContainer",
            "CheckpointPod",
            "RestorePod",
            "GetContainerEvents",
            "ListMetricDescriptors",
            "ListPodSandboxMetrics",
            "StreamPodSandboxMetrics",
            "RuntimeConfig",
            "UpdatePodSandboxResources",
        ],
    },
    Service {
        path: "/runtime.v1.ImageService/",
        methods: &["ListImages", "StreamImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"],
    },
];

/// All names. A method's place here is its index.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().flat_map(|service| service.methods.iter().copied())
}

/// The index and the name of the method that a request's path means.
pub(super) fn find(path: &str) -> Option<(usize, &'static str)> {
    let mut before = 0;
    for service in &SERVICES {
        if let Some(name) = path.strip_prefix(service.path) {
            let at = service.methods.iter().position(|method| *method == name)?;
            return Some((before + at, service.methods[at]));
        }
        before += service.methods.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_api_is_found() {
        let facts = include_str!("../../../cri-api/tests/fixtures/api-facts.tsv");
        let mut count = 0;
        for row in facts.lines().filter(|row| row.starts_with("rpc\t")) {
            let columns: Vec<_> = row.split('\t').collect();
            let (index, name) = find(&format!("/runtime.v1.{}/{}", columns[1], columns[2])).unwrap();
            assert_eq!((name, names().nth(index)), (columns[2], Some(columns[2])));
            count += 1;
        }
        assert_eq!(count, names().count());
    }

    #[test]
    fn other_paths_are_no_method() {
        for path in ["", "/", "/runtime.v1.RuntimeService/", "/runtime.v1.RuntimeService/ListImages", "/x.y/Version"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
