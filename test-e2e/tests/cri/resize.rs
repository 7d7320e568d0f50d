//! UpdateContainerResources and UpdatePodSandboxResources: limits move in both directions while the program runs, all that
//! are named or none, and the status tells those in force, which kubelet compares.

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture};
use test_e2e::process;
use test_e2e::spec::resources;
use tonic::Code;

const MIB: i64 = 1 << 20;

/// A limit's value: the file of v1 or the one of v2, whichever this machine has.
fn limit(container: &Container<'_>, controller: &str, v1: &str, v2: &str) -> String {
    let group = process::cgroup(container.pid(), controller).expect("a cgroup");
    let file = group.join(if process::cgroup_is_v2() { v2 } else { v1 });
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

fn memory_of(container: &Container<'_>) -> String {
    limit(container, "memory", "memory.limit_in_bytes", "memory.max")
}

/// Quota and period.
fn quota_of(container: &Container<'_>) -> String {
    let quota = limit(container, "cpu", "cpu.cfs_quota_us", "cpu.max");
    if process::cgroup_is_v2() {
        quota
    } else {
        format!("{quota} {}", limit(container, "cpu", "cpu.cfs_period_us", ""))
    }
}

/// Every limit that these tests move, as the kernel holds it.
fn all(container: &Container<'_>) -> [String; 4] {
    [
        memory_of(container),
        quota_of(container),
        limit(container, "cpu", "cpu.shares", "cpu.weight"),
        limit(container, "cpuset", "cpuset.cpus", "cpuset.cpus"),
    ]
}

/// What kubelet sends for a container with requests and limits.
fn sizes(memory: i64, quota: i64, shares: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota,
        cpu_shares: shares,
        memory_limit_in_bytes: memory,
        ..Default::default()
    }
}

async fn resizable<'a>(e2e: &'a Fixture, name: &str) -> (test_e2e::fixture::Pod<'a>, Container<'a>) {
    e2e.run_with(name, &["sleep", "1000"], |config| *resources(config) = sizes(64 * MIB, 50_000, 512)).await
}

#[tokio::test]
async fn limits_move_up_and_down() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "up-and-down").await;
    for (memory, quota, shares) in [(128, 100_000, 1024), (32, 20_000, 102), (512, 150_000, 2048), (64, 50_000, 512)] {
        e2e.client.update_resources(&container.id, sizes(memory * MIB, quota, shares)).await.expect("update");
        assert_eq!(memory_of(&container), (memory * MIB).to_string());
        assert_eq!(quota_of(&container), format!("{quota} 100000"));
        if !process::cgroup_is_v2() {
            assert_eq!(limit(&container, "cpu", "cpu.shares", ""), shares.to_string());
        }
    }
    container.sh("true").await;
}

#[tokio::test]
async fn what_is_not_named_stays() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "stays").await;
    let before = all(&container);
    let change = v1::LinuxContainerResources { cpuset_cpus: "0".into(), ..Default::default() };
    e2e.client.update_resources(&container.id, change).await.expect("update");
    let after = all(&container);
    assert_eq!((&after[..3], after[3].as_str()), (&before[..3], "0"));
    e2e.client.update_resources(&container.id, Default::default()).await.expect("nothing is asked for");
    assert_eq!(all(&container), after);
}

/// kubelet takes a CPU limit away with -1.
#[tokio::test]
async fn a_quota_can_be_taken_away() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "no-quota").await;
    let change = v1::LinuxContainerResources { cpu_quota: -1, cpu_period: 100_000, ..Default::default() };
    e2e.client.update_resources(&container.id, change).await.expect("update");
    assert_eq!(quota_of(&container), if process::cgroup_is_v2() { "max 100000" } else { "-1 100000" });
}

#[tokio::test]
async fn newer_the_status_tells_the_limits_in_force() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "status").await;
    let told = async || container.status().await.resources.unwrap_or_default().linux.unwrap_or_default();
    let of = |told: v1::LinuxContainerResources| (told.memory_limit_in_bytes, told.cpu_quota, told.cpu_shares);
    assert_eq!(of(told().await), (64 * MIB, 50_000, 512));
    e2e.client.update_resources(&container.id, sizes(128 * MIB, 100_000, 1024)).await.expect("update");
    assert_eq!(of(told().await), (128 * MIB, 100_000, 1024));
    let only_shares = v1::LinuxContainerResources { cpu_shares: 300, ..Default::default() };
    e2e.client.update_resources(&container.id, only_shares).await.expect("update");
    assert_eq!(of(told().await), (128 * MIB, 100_000, 300), "and those that were not named are still told");
}

/// kubelet may resize a container that it has made and not yet started.
#[tokio::test]
async fn a_created_container_starts_with_its_new_limits() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("created").await;
    let container =
        pod.create_with("main", &["sleep", "1000"], |config| *resources(config) = sizes(64 * MIB, 50_000, 512)).await;
    e2e.client.update_resources(&container.id, sizes(128 * MIB, 100_000, 1024)).await.expect("update");
    e2e.client.start_container(&container.id).await.expect("start");
    assert_eq!((memory_of(&container), quota_of(&container)), ((128 * MIB).to_string(), "100000 100000".to_owned()));
}

/// containerd says so too: it has nothing to change, and the next status tells what was asked for.
#[tokio::test]
async fn an_exited_container_takes_new_limits_and_does_nothing_with_them() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exited", &["true"]).await;
    container.wait_exit().await;
    e2e.client.update_resources(&container.id, sizes(128 * MIB, 100_000, 1024)).await.expect("update");
}

#[tokio::test]
async fn strict_an_exited_container_tells_its_new_limits() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exited-status", &["true"]).await;
    container.wait_exit().await;
    e2e.client.update_resources(&container.id, sizes(128 * MIB, 100_000, 1024)).await.expect("update");
    let told = container.status().await.resources.unwrap_or_default().linux.unwrap_or_default();
    assert_eq!(told.memory_limit_in_bytes, 128 * MIB);
}

#[tokio::test]
async fn an_unknown_container_is_not_found() {
    let e2e = Fixture::shared().await;
    let refused = e2e.client.update_resources("no-such-container", sizes(MIB, 0, 0)).await.expect_err("unknown");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
}

#[tokio::test]
async fn strict_a_change_is_made_as_a_whole_or_not_at_all() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "whole").await;
    let before = (all(&container), container.status().await.resources);
    let larger = sizes(256 * MIB, 200_000, 2048);
    let no_such_cpu = v1::LinuxContainerResources { cpuset_cpus: "4000".into(), ..larger.clone() };
    let no_such_file =
        v1::LinuxContainerResources { unified: [("nothing.max".into(), "1".into())].into(), ..larger.clone() };
    let negative = v1::LinuxContainerResources { cpu_shares: -5, ..larger.clone() };
    let score = v1::LinuxContainerResources { oom_score_adj: 1001, ..larger.clone() };
    let swap = v1::LinuxContainerResources { memory_swap_limit_in_bytes: MIB, ..larger };
    for (change, code, names) in [
        (no_such_cpu, Code::InvalidArgument, "cpuset.cpus"),
        (no_such_file, Code::FailedPrecondition, "nothing.max"),
        (negative, Code::InvalidArgument, "cpu_shares"),
        (score, Code::InvalidArgument, "oom_score_adj"),
        (swap, Code::InvalidArgument, "memory_swap_limit"),
    ] {
        let refused = e2e.client.update_resources(&container.id, change).await.expect_err(names);
        assert!(refused.code() == code && refused.message().contains(names), "{names}: {refused:?}");
        assert_eq!((all(&container), container.status().await.resources), before, "{names}");
    }
}

/// kubelet tries again later; a kill would be worse than a limit that is too high for a while.
#[tokio::test]
async fn strict_a_limit_below_what_is_in_use_is_refused() {
    let e2e = Fixture::shared().await;
    let script = "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo full; while :; do sleep 1; done";
    let (_pod, container) = e2e
        .run_with("in-use", &["sh", "-c", script], |config| {
            *resources(config) = sizes(128 * MIB, 0, 512);
            resources(config).memory_swap_limit_in_bytes = 128 * MIB;
        })
        .await;
    container.wait_for_line("full").await;
    let before = all(&container);
    let refused = e2e.client.update_resources(&container.id, sizes(8 * MIB, 20_000, 256)).await.expect_err("too low");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("in use"), "{refused:?}");
    assert_eq!(all(&container), before);
    assert_eq!(container.status().await.state(), v1::ContainerState::ContainerRunning);
    e2e.client.update_resources(&container.id, sizes(96 * MIB, 0, 0)).await.expect("what it needs is left to it");
    assert_eq!(memory_of(&container), (96 * MIB).to_string());
}

#[tokio::test]
async fn strict_a_windows_size_is_refused() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "windows").await;
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        windows: Some(v1::WindowsContainerResources { cpu_shares: 5, ..Default::default() }),
        ..Default::default()
    };
    let refused = e2e.client.runtime.clone().update_container_resources(request).await.expect_err("windows");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("windows"), "{refused:?}");
}

#[tokio::test]
async fn annotations_of_a_change_are_accepted() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "annotations").await;
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(sizes(128 * MIB, 50_000, 512)),
        annotations: [("example.com/why".to_owned(), "test".to_owned())].into(),
        ..Default::default()
    };
    e2e.client.runtime.clone().update_container_resources(request).await.expect("update");
    assert_eq!(memory_of(&container), (128 * MIB).to_string());
}

/// `unified` names files of cgroup v2.
#[tokio::test]
async fn strict_unified_limits_are_set_or_refused_by_name() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = resizable(&e2e, "unified").await;
    let high = v1::LinuxContainerResources {
        unified: [("memory.high".to_owned(), (32 * MIB).to_string())].into(),
        ..Default::default()
    };
    let updated = e2e.client.update_resources(&container.id, high).await;
    if process::cgroup_is_v2() {
        updated.expect("update");
        assert_eq!(limit(&container, "memory", "", "memory.high"), (32 * MIB).to_string());
        let told = container.status().await.resources.unwrap_or_default().linux.unwrap_or_default();
        assert_eq!(told.unified["memory.high"], (32 * MIB).to_string());
    } else {
        let refused = updated.expect_err("there is no such file");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("memory.high") && refused.message().contains("cgroup v1"), "{refused:?}");
    }
}

/// The kernel asks each process who goes first; what is exec'd is one of them.
#[tokio::test]
async fn strict_oom_score_adj_reaches_what_runs_and_what_is_execd() {
    let e2e = Fixture::shared().await;
    let script = "sleep 1000 & echo 777 > /proc/self/oom_score_adj; wait";
    let (_pod, container) =
        e2e.run_with("oom-score", &["sh", "-c", script], |config| resources(config).oom_score_adj = 500).await;
    let scores =
        "cat /proc/1/oom_score_adj /proc/[2-9]*/oom_score_adj | sort -u | tr '\\n' ' '; cat /proc/self/oom_score_adj";
    test_e2e::fixture::eventually("the first process has a score of its own", async || {
        (container.sh("cat /proc/1/oom_score_adj").await == "777\n").then_some(())
    })
    .await;
    let change = v1::LinuxContainerResources { oom_score_adj: 800, ..Default::default() };
    e2e.client.update_resources(&container.id, change).await.expect("update");
    assert_eq!(container.sh(scores).await, "777 800 800\n", "one of its own stays, the others have the new one");
}

#[tokio::test]
async fn newer_a_pods_own_resources_are_told_of() {
    let e2e = Fixture::shared().await;
    let (pod, _container) = resizable(&e2e, "pod-resources").await;
    let request = |id: &str| v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: Some(sizes(5 * MIB, 0, 10)),
        resources: Some(sizes(256 * MIB, 200_000, 2048)),
    };
    let mut runtime = e2e.client.runtime.clone();
    runtime.update_pod_sandbox_resources(request(&pod.id)).await.expect("update");
    runtime.update_pod_sandbox_resources(request(&pod.id)).await.expect("and again");
    let refused = runtime.update_pod_sandbox_resources(request("no-such-pod")).await.expect_err("unknown");
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
}
