//! Limits as the kernel holds them, OOM kills with their reason, device rules, updates and stats.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture, eventually};
use test_e2e::machine::with_systemd;
use test_e2e::process;
use test_e2e::spec::resources;

/// A limit's value: the file of v1 or the one of v2, whichever this machine has.
fn limit(container: &Container<'_>, controller: &str, v1: &str, v2: &str) -> String {
    let group = process::cgroup(container.pid(), controller).expect("a cgroup");
    let file = group.join(if process::cgroup_is_v2() { v2 } else { v1 });
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

#[tokio::test]
async fn limits_reach_the_kernel() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e
        .run_with("limits", &["sleep", "1000"], |config| {
            *resources(config) = v1::LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 512,
                memory_limit_in_bytes: 64 << 20,
                cpuset_cpus: "0".into(),
                cpuset_mems: "0".into(),
                oom_score_adj: 500,
                ..Default::default()
            };
        })
        .await;
    assert_eq!(limit(&container, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(limit(&container, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    if process::cgroup_is_v2() {
        assert_eq!(limit(&container, "cpu", "", "cpu.max"), "50000 100000");
        // 20 by the line of KEP-2254, 59 by the curve that runtimes of 2025 took up, on which 1024 shares are 100.
        let weight = limit(&container, "cpu", "", "cpu.weight");
        assert!(matches!(weight.as_str(), "20" | "59"), "512 shares are a weight of {weight}");
    } else {
        assert_eq!(limit(&container, "cpu", "cpu.shares", ""), "512");
        assert_eq!(limit(&container, "cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(limit(&container, "cpu", "cpu.cfs_period_us", ""), "100000");
    }
    assert_eq!(container.sh("cat /proc/1/oom_score_adj").await, "500\n");
    assert_eq!(container.sh("grep Cpus_allowed_list /proc/self/status | cut -f2").await, "0\n", "exec is inside too");
}

#[tokio::test]
async fn an_oom_kill_is_told() {
    let e2e = Fixture::shared().await;
    // tail keeps all of an endless line.
    let (_pod, container) = e2e
        .run_with("oom", &["tail", "/dev/zero"], |config| {
            resources(config).memory_limit_in_bytes = 24 << 20;
            resources(config).memory_swap_limit_in_bytes = 24 << 20;
        })
        .await;
    let status = container.wait_exit().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
}

#[tokio::test]
async fn a_kill_is_not_an_oom_kill() {
    let e2e = Fixture::shared().await;
    let (_pod, container) =
        e2e.run_with("not-oom", &["sleep", "1000"], |config| resources(config).memory_limit_in_bytes = 24 << 20).await;
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    let status = container.status().await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
}

#[tokio::test]
async fn devices_are_denied_unless_given() {
    let e2e = Fixture::shared().await;
    let (path, node) = ungiven_device();
    let pod = e2e.pod("devices").await;
    let denied = pod.start("denied", &["sleep", "1000"]).await;
    // Making the node is allowed (c *:* m), opening it is not.
    let output = denied.exec(&["sh", "-c", &format!("mknod /dev/made {node} && : < /dev/made")]).await;
    assert!(output.code != 0 && output.stderr.contains("open /dev/made: Operation not permitted"), "{output:?}");

    let given = pod
        .start_with("given", &["sleep", "1000"], |config| {
            let device = |container: &str, host: &str, permissions: &str| v1::Device {
                container_path: container.into(),
                host_path: host.into(),
                permissions: permissions.into(),
            };
            config.devices = vec![device("/dev/e2e/some", path, "r"), device("/dev/nothing", "/dev/null", "rwm")];
        })
        .await;
    assert_eq!(given.sh("stat -c '%F' /dev/e2e/some /dev/nothing | uniq").await, "character special file\n");
    given.sh(": < /dev/e2e/some").await;
    let output = given.exec(&["sh", "-c", ": > /dev/e2e/some"]).await;
    assert!(output.code != 0 && output.stderr.contains("Operation not permitted"), "only r was given: {output:?}");
    given.sh("echo x > /dev/nothing").await;
}

/// A device that root may open anywhere but no container by default: its path, and `c MAJOR MINOR` for mknod.
fn ungiven_device() -> (&'static str, String) {
    let candidates = ["/dev/fuse", "/dev/loop-control", "/dev/cpu_dma_latency"];
    let path = candidates.into_iter().find(|path| std::fs::File::open(path).is_ok()).expect("one of the devices");
    let number = std::fs::metadata(path).expect("device").rdev();
    (path, format!("c {} {}", nix::sys::stat::major(number), nix::sys::stat::minor(number)))
}

/// A folder stands for the devices below it, also by another name of its own.
#[tokio::test]
async fn a_folder_of_devices_is_given_as_a_whole() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("devices");
    std::fs::create_dir(folder.join("below")).expect("folder");
    for (name, minor) in [("null", 3), ("below/zero", 5)] {
        let number = nix::sys::stat::makedev(1, minor);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&folder.join(name), nix::sys::stat::SFlag::S_IFCHR, mode, number).expect("node");
    }
    std::fs::write(folder.join("file"), "no device").expect("file");
    let link = folder.with_extension("link");
    std::os::unix::fs::symlink(&folder, &link).expect("link");
    let pod = e2e.pod("device-folder").await;
    for (name, host_path) in [("folder", &folder), ("link", &link)] {
        let container = pod
            .start_with(name, &["sleep", "1000"], |config| {
                config.devices = vec![v1::Device {
                    container_path: "/dev/vendor".into(),
                    host_path: host_path.display().to_string(),
                    permissions: "rwm".into(),
                }];
            })
            .await;
        assert_eq!(
            container.sh("cd /dev/vendor && find . -type c | sort | tr '\\n' ' '").await,
            "./below/zero ./null "
        );
        assert_eq!(container.sh("head -c 3 /dev/vendor/below/zero | wc -c").await.trim(), "3", "{name}");
    }
}

/// CRI: one or more of r, w and m. What is not asked for is not given.
#[tokio::test]
async fn strict_device_permissions_are_one_or_more_letters() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("device-permissions").await;
    for bad in ["", "x", "rwx", "rr", "R"] {
        let refused = pod
            .try_create("bad", &["true"], |config| {
                config.devices = vec![v1::Device {
                    container_path: "/dev/given".into(),
                    host_path: "/dev/null".into(),
                    permissions: bad.into(),
                }];
            })
            .await
            .expect_err(bad);
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{bad:?}: {refused:?}");
        assert!(refused.message().contains("permissions"), "{bad:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_privileged_container_has_every_device() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod_with("all-devices", |config| test_e2e::spec::pod_security(config).privileged = true).await;
    let change = |config: &mut v1::ContainerConfig| test_e2e::spec::security(config).privileged = true;
    let container = pod.start_with("main", &["sleep", "1000"], change).await;
    container.sh(&format!("mknod /dev/made {} && : < /dev/made", ungiven_device().1)).await;
}

#[tokio::test]
async fn stats_tell_what_is_used() {
    let e2e = Fixture::shared().await;
    let label = [("stats".to_owned(), "yes".to_owned())];
    let script = "head -c 1000000 /dev/urandom > /data; x=$(head -c 3000000 /dev/zero | tr '\\0' x); echo ready; while :; do :; done";
    let (pod, container) =
        e2e.run_with("stats", &["sh", "-c", script], |config| config.labels = label.clone().into()).await;
    container.wait_for_line("ready").await;
    let cpu = |stats: &v1::ContainerStats| {
        stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |value| value.value)
    };
    let first = eventually("cpu time is counted", async || {
        let stats = e2e.client.container_stats(&container.id).await.expect("stats");
        (cpu(&stats) > 0).then_some(stats)
    })
    .await;
    let attributes = first.attributes.clone().expect("attributes");
    assert_eq!((attributes.id.as_str(), attributes.labels), (container.id.as_str(), label.clone().into()));
    assert_eq!(attributes.metadata.expect("metadata").name, "main");
    let memory = first.memory.expect("memory");
    let working_set = memory.working_set_bytes.expect("working set").value;
    assert!((3_000_000..200_000_000).contains(&working_set), "{working_set} bytes");
    assert!(memory.timestamp > 0 && first.cpu.as_ref().expect("cpu").timestamp > 0);

    eventually("cpu time grows", async || {
        let stats = e2e.client.container_stats(&container.id).await.expect("stats");
        (cpu(&stats) > cpu(&first)).then_some(())
    })
    .await;
    eventually("the writable layer is measured", async || {
        let layer = e2e.client.container_stats(&container.id).await.expect("stats").writable_layer?;
        let identified = !layer.fs_id.as_ref()?.mountpoint.is_empty();
        (layer.used_bytes?.value >= 1_000_000 && identified).then_some(())
    })
    .await;

    let listed = async |filter: v1::ContainerStatsFilter| {
        let stats = e2e.client.list_stats(Some(filter)).await.expect("list");
        stats.into_iter().filter_map(|stats| stats.attributes).map(|a| a.id).collect::<Vec<_>>().join(" ")
    };
    let by_pod = v1::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    assert_eq!(listed(by_pod).await, container.id);
    let by_label = v1::ContainerStatsFilter { label_selector: label.into(), ..Default::default() };
    assert_eq!(listed(by_label).await, container.id);
    let all = e2e.client.list_stats(None).await.expect("nil filter");
    assert!(all.iter().any(|stats| stats.attributes.as_ref().is_some_and(|a| a.id == container.id)), "nil means all");
}

/// kubelet looks for a container's cgroup below the pod's parent, by its id.
#[tokio::test]
async fn the_cgroup_parent_is_used() {
    let e2e = Fixture::shared().await;
    let parent = e2e.machine.cgroup_parent(Some("burstable"));
    let pod = e2e
        .pod_with("cgroup-parent", |config| config.linux.get_or_insert_default().cgroup_parent = parent.clone())
        .await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let group = process::cgroup(container.pid(), "memory").expect("group");
    let name = if with_systemd() { format!("berth-{}.scope", container.id) } else { container.id.clone() };
    let expected = Path::new(parent.trim_start_matches('/')).join(name);
    assert!(group.ends_with(&expected), "{} is not {}", group.display(), expected.display());
}
