//! A change of limits that the agent's death cuts short is made or not made: the kernel and the status say the same.

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture};
use test_e2e::process;
use test_e2e::spec::resources;

use crate::recovery::{crash, crash_at};

const MIB: i64 = 1 << 20;

fn sizes(memory: i64, shares: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources { memory_limit_in_bytes: memory, cpu_shares: shares, ..Default::default() }
}

/// The memory limit and the CPU weight that the kernel holds.
pub(crate) fn held(pid: i32) -> (String, String) {
    let read = |controller: &str, v1: &str, v2: &str| {
        let group = process::cgroup(pid, controller).expect("a cgroup");
        let file = group.join(if process::cgroup_is_v2() { v2 } else { v1 });
        std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    };
    (read("memory", "memory.limit_in_bytes", "memory.max"), read("cpu", "cpu.shares", "cpu.weight"))
}

/// What ContainerStatus says of its limits.
pub(crate) async fn told(e2e: &Fixture, id: &str) -> v1::LinuxContainerResources {
    let status = e2e.client.container_status(id).await.expect("status");
    status.resources.unwrap_or_default().linux.unwrap_or_default()
}

#[tokio::test]
async fn a_change_that_is_cut_short_is_made_or_not() {
    let mut e2e = Fixture::own("resize").await;
    let (id, pid) = {
        let (_pod, container): (_, Container<'_>) =
            e2e.run_with("resize", &["sleep", "1000"], |config| *resources(config) = sizes(64 * MIB, 512)).await;
        (container.id.clone(), container.pid())
    };
    let mut before = (held(pid), told(&e2e, &id).await);
    for (point, change, made) in [
        ("update_container_resources.intended", sizes(128 * MIB, 1024), false),
        ("update_container_resources.written", sizes(256 * MIB, 2048), false),
        ("update_container_resources.recorded", sizes(96 * MIB, 300), true),
        // From limits that were changed, and down.
        ("update_container_resources.written", sizes(32 * MIB, 200), false),
    ] {
        let update = async |e2e: &Fixture| e2e.client.update_resources(&id, change.clone()).await;
        crash_at(&mut e2e, point, update).await.expect_err(point);
        // It answers once it has taken over from the agent before.
        let status = told(&e2e, &id).await;
        let after = (held(pid), status);
        if made {
            assert_eq!(
                (after.0.0.as_str(), &after.1),
                (change.memory_limit_in_bytes.to_string().as_str(), &change),
                "{point}"
            );
            before = after;
        } else {
            assert_eq!(after, before, "{point}");
        }
    }
    e2e.client.update_resources(&id, sizes(128 * MIB, 1024)).await.expect("and asked again it is made");
    assert_eq!((held(pid).0, told(&e2e, &id).await), ((128 * MIB).to_string(), sizes(128 * MIB, 1024)));
    crash(&mut e2e, async || {}).await;
    assert_eq!((held(pid).0, told(&e2e, &id).await), ((128 * MIB).to_string(), sizes(128 * MIB, 1024)));
}

/// kubelet has changed the pod's cgroup; who asks for the pod's configuration is told, now and later.
#[tokio::test]
async fn a_pods_resources_are_remembered() {
    let mut e2e = Fixture::own("pod-resources").await;
    let pod = e2e.pod("pod-resources").await.id;
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        overhead: None,
        resources: Some(sizes(256 * MIB, 2048)),
    };
    e2e.client.runtime.clone().update_pod_sandbox_resources(request).await.expect("update");
    for _ in 0..2 {
        let info = e2e.client.pod_response(&pod, true).await.expect("status").info;
        assert!(info["info"].contains(&(256 * MIB).to_string()), "{info:?}");
        crash(&mut e2e, async || {}).await;
    }
}
