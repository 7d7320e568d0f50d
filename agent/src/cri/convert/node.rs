//! The node: conditions, handlers, features, and the debugging information of verbose requests.

use std::collections::HashMap;

use cri_api::v1;
use serde_json::json;

use crate::model::{Container, Pod};
use crate::ops::{Handler, Handlers};

/// Status. `network` is why pods would get no network, if they would not.
pub(in crate::cri) fn status(
    network: Result<(), String>,
    handlers: &Handlers,
    user_namespaces: bool,
) -> v1::StatusResponse {
    let (ready, message) = match network {
        Ok(()) => (true, String::new()),
        Err(message) => (false, message),
    };
    let reason = if ready { "" } else { "NetworkNotReady" };
    let condition = |kind: &str, status, reason: &str, message| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    };
    let conditions =
        vec![condition("RuntimeReady", true, "", String::new()), condition("NetworkReady", ready, reason, message)];
    let handler = |(name, handler): (&str, &Handler)| v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: user_namespaces && handler.user_namespaces(),
        }),
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info: HashMap::new(),
        runtime_handlers: handlers.iter().map(handler).collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    }
}

/// What `crictl inspectp` shows under `info`.
pub(in crate::cri) fn pod_info(pod: &Pod) -> HashMap<String, String> {
    info(json!({
        "hostname": pod.spec.hostname,
        "cgroupParent": pod.spec.cgroup_parent,
        "config": pod.config(),
    }))
}

/// What `crictl inspect` shows under `info`; `pid` is what many scripts look for.
pub(in crate::cri) fn container_info(container: &Container) -> HashMap<String, String> {
    info(json!({
        "sandboxID": container.spec.pod,
        "pid": container.state.pid().unwrap_or(0),
        "cgroup": container.spec.cgroup,
        "resources": container.limits(),
        "config": container.spec.config,
    }))
}

/// What `crictl info` shows beside the status.
pub(in crate::cri) fn node_info(
    pods: usize,
    containers: usize,
    cgroup_driver: v1::CgroupDriver,
) -> HashMap<String, String> {
    info(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pods": pods,
        "containers": containers,
        "cgroupDriver": cgroup_driver.as_str_name(),
    }))
}

fn info(value: serde_json::Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), value.to_string())])
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn both_conditions_and_all_handlers_are_always_told() {
        let handlers = Handlers::new([("strict".to_owned(), Handler::default())].into());
        for network in [Ok(()), Err("no bridge".to_owned())] {
            let status = status(network.clone(), &handlers, true);
            let features = status.runtime_handlers[0].features.unwrap();
            assert!(features.user_namespaces);
            let conditions = status.status.unwrap().conditions;
            let told: Vec<_> = conditions.iter().map(|it| (it.r#type.as_str(), it.status)).collect();
            assert_eq!(told, [("RuntimeReady", true), ("NetworkReady", network.is_ok())]);
            assert_eq!(conditions[1].message, network.err().unwrap_or_default());
            let names: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
            assert_eq!(names, ["", "strict"]);
        }
    }

    #[test]
    fn debugging_information_is_json_with_the_pid() {
        let container = sample::container("c", "a", "web");
        let info: serde_json::Value = serde_json::from_str(&container_info(&container)["info"]).unwrap();
        assert_eq!(info["pid"], 9);
        assert_eq!(info["config"]["labels"]["app"], "web");
        let info: serde_json::Value = serde_json::from_str(&pod_info(&sample::pod("a", "web"))["info"]).unwrap();
        assert_eq!(info["config"]["metadata"]["attempt"], 3);
    }

    #[test]
    fn a_pods_configuration_tells_what_was_changed_since() {
        let mut pod = sample::pod("a", "web");
        let limit = |bytes| v1::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
        let linux = pod.spec.config.linux.get_or_insert_default();
        (linux.overhead, linux.resources) = (Some(limit(1)), Some(limit(2)));
        pod.state.resources = Some(limit(9));
        let info: serde_json::Value = serde_json::from_str(&pod_info(&pod)["info"]).unwrap();
        let told = |part: &str| info["config"]["linux"][part]["memory_limit_in_bytes"].clone();
        assert_eq!((told("overhead"), told("resources")), (1.into(), 9.into()));
    }
}
