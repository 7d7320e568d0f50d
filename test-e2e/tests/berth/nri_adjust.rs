//! What NRI plugins change in containers, as it is seen from inside; what they cannot have is refused by its name, and two that
//! want the same thing are told apart.

use cri_api::v1;
use nri_api::v1alpha1 as api;
use test_e2e::fixture::Fixture;
use test_e2e::leaks::Census;
use test_e2e::nri::{Call, Plugin, Reply};
use test_e2e::{process, spec};
use tonic::Code;

use crate::nri::{beside, plugin};
use crate::recovery::{crash, nothing_more_than};
use crate::resize::{held, told};

const MIB: i64 = 1 << 20;

type Change = fn(&mut api::ContainerAdjustment);

fn adjusts(
    change: impl Fn(&mut api::ContainerAdjustment) + Send + 'static,
) -> impl FnMut(&Call) -> Reply + Send + 'static {
    move |call| match call.method.as_str() {
        "CreateContainer" => Reply::adjust(|adjust| change(adjust)),
        _ => Reply::Fine,
    }
}

fn pair(key: &str, value: &str) -> api::KeyValue {
    api::KeyValue { key: key.into(), value: value.into() }
}

fn bind(source: &str, destination: &str, options: &[&str]) -> api::Mount {
    api::Mount {
        destination: destination.into(),
        r#type: "bind".into(),
        source: source.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

fn linux(adjust: &mut api::ContainerAdjustment) -> &mut api::LinuxContainerAdjustment {
    adjust.linux.get_or_insert_default()
}

fn limits(adjust: &mut api::ContainerAdjustment) -> &mut api::LinuxResources {
    linux(adjust).resources.get_or_insert_default()
}

fn memory_and_shares(memory: i64, shares: u64) -> api::LinuxResources {
    let limit = Some(api::OptionalInt64 { value: memory });
    let shares = Some(api::OptionalUInt64 { value: shares });
    api::LinuxResources {
        memory: Some(api::LinuxMemory { limit, ..Default::default() }),
        cpu: Some(api::LinuxCpu { shares, ..Default::default() }),
        ..Default::default()
    }
}

fn update(id: &str, resources: api::LinuxResources) -> api::ContainerUpdate {
    let linux = Some(api::LinuxContainerUpdate { resources: Some(resources) });
    api::ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure: false }
}

#[tokio::test]
async fn what_a_plugin_wants_is_seen_inside() {
    let e2e = Fixture::own("nri-adjust").await;
    let folder = e2e.folder("shared");
    std::fs::write(folder.join("file"), "from the node").expect("file");
    let source = folder.display().to_string();
    let _plugin = plugin(
        &e2e,
        "10",
        adjusts(move |adjust| {
            adjust.args = vec!["sh".into(), "-c".into(), "sleep 1001".into()];
            adjust.env = vec![pair("NEW", "1"), pair("OLD", "2"), pair("-GONE", "")];
            adjust.mounts = vec![
                bind(&source, "/mnt/plugin", &["rbind", "ro"]),
                bind("", "-/mnt/own", &[]),
                api::Mount {
                    destination: "/mnt/tmp".into(),
                    r#type: "tmpfs".into(),
                    source: "tmpfs".into(),
                    options: vec!["size=1m".into()],
                },
            ];
            adjust.rlimits = vec![api::PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 200, soft: 100 }];
            let linux = linux(adjust);
            linux.devices = vec![api::LinuxDevice {
                path: "/dev/plugin-null".into(),
                r#type: "c".into(),
                major: 1,
                minor: 3,
                file_mode: Some(api::OptionalFileMode { value: 0o666 }),
                ..Default::default()
            }];
            linux.oom_score_adj = Some(api::OptionalInt { value: 555 });
            linux.sysctl = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned())].into();
            linux.io_priority =
                Some(api::LinuxIoPriority { class: api::IoPrioClass::IoprioClassIdle.into(), priority: 0 });
            linux.seccomp_policy = Some(api::LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                syscalls: vec![api::LinuxSyscall {
                    names: vec!["mkdir".into(), "mkdirat".into()],
                    action: "SCMP_ACT_ERRNO".into(),
                    errno_ret: Some(api::OptionalUInt32 { value: 28 }),
                    args: vec![],
                }],
                ..Default::default()
            });
            *limits(adjust) = memory_and_shares(64 * MIB, 300);
            limits(adjust).pids = Some(api::LinuxPids { limit: 55 });
        }),
    )
    .await;
    let change = |config: &mut v1::ContainerConfig| {
        let env = |key: &str, value: &str| v1::KeyValue { key: key.into(), value: value.as_bytes().to_vec() };
        config.envs.extend([env("OLD", "1"), env("GONE", "1")]);
        config.mounts = vec![spec::bind(&folder, "/mnt/own", false)];
        *spec::resources(config) =
            v1::LinuxContainerResources { cpu_quota: 50_000, cpu_period: 100_000, ..Default::default() };
    };
    let (_pod, container) = e2e.run_with("nri-adjust", &["sleep", "1000"], change).await;
    assert_eq!(container.sh("echo $NEW $OLD $GONE.").await, "1 2 .\n");
    assert_eq!(container.sh("/bin/tr '\\0' ' ' < /proc/1/cmdline").await.trim(), "sleep 1001");
    assert_eq!(container.sh("/bin/cat /mnt/plugin/file; ls -d /mnt/own 2>/dev/null; true").await, "from the node");
    let output = container.exec(&["sh", "-c", ": > /mnt/plugin/new"]).await;
    assert!(output.stderr.contains("Read-only"), "{output:?}");
    assert!(container.sh("/bin/grep /mnt/tmp /proc/mounts").await.contains("size=1024k"));
    assert_eq!(container.sh("ulimit -Sn; ulimit -Hn").await, "100\n200\n");
    assert_eq!(
        container.sh("echo gone > /dev/plugin-null; /bin/stat -c %F /dev/plugin-null").await,
        "character special file\n"
    );
    assert_eq!(
        container.sh("/bin/cat /proc/1/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start").await,
        "555\n7\n"
    );
    let output = container.exec(&["mkdir", "/tmp/x"]).await;
    assert!(output.stderr.contains("No space left"), "the plugin's profile says so: {output:?}");
    let pid = container.pid();
    assert_eq!(held(pid).0, (64 * MIB).to_string());
    let pids = process::cgroup(pid, "pids").expect("a cgroup").join("pids.max");
    assert_eq!(std::fs::read_to_string(pids).expect("pids.max").trim(), "55");
    // The status tells what holds, and what changes next goes on from there.
    let status = told(&e2e, &container.id).await;
    assert_eq!((status.memory_limit_in_bytes, status.cpu_shares, status.cpu_quota), (64 * MIB, 300, 50_000));
    assert_eq!(status.oom_score_adj, 555);
    let shares = v1::LinuxContainerResources { cpu_shares: 400, ..Default::default() };
    e2e.client.update_resources(&container.id, shares).await.expect("resize");
    let status = told(&e2e, &container.id).await;
    assert_eq!((status.memory_limit_in_bytes, status.cpu_shares, held(pid).0), (64 * MIB, 400, (64 * MIB).to_string()));
}

#[tokio::test]
async fn adjusted_limits_outlive_the_agent() {
    let mut e2e = Fixture::own("nri-outlive").await;
    let (id, pid) = {
        let _plugin = plugin(&e2e, "10", adjusts(|adjust| *limits(adjust) = memory_and_shares(64 * MIB, 300))).await;
        let (_pod, container) = e2e.run("nri-outlive", &["sleep", "1000"]).await;
        (container.id.clone(), container.pid())
    };
    crash(&mut e2e, async || {}).await;
    let status = told(&e2e, &id).await;
    assert_eq!((status.memory_limit_in_bytes, status.cpu_shares), (64 * MIB, 300));
    assert_eq!(held(pid).0, (64 * MIB).to_string());
}

#[tokio::test]
async fn cdi_devices_come_by_plugins_too() {
    let e2e = Fixture::own("nri-cdi").await;
    let dir = beside(&e2e, "cdi");
    std::fs::create_dir_all(&dir).expect("folder");
    let text = r#"{"cdiVersion": "0.7.0", "kind": "vendor.example/thing",
        "devices": [{"name": "one", "containerEdits": {"env": ["CDI=one"]}}]}"#;
    std::fs::write(dir.join("vendor.json"), text).expect("vendor's file");
    let device = |name: &str| vec![api::CdiDevice { name: format!("vendor.example/thing={name}") }];
    let good = plugin(&e2e, "10", adjusts(move |adjust| adjust.cdi_devices = device("one"))).await;
    let (pod, container) = e2e.run("nri-cdi", &["sleep", "1000"]).await;
    assert_eq!(container.sh("echo $CDI").await, "one\n");
    drop(good);
    let _bad = plugin(&e2e, "20", adjusts(move |adjust| adjust.cdi_devices = device("none"))).await;
    let refused = pod.try_create("other", &["true"], |_| {}).await.expect_err("no such device");
    assert!(refused.message().contains("vendor.example/thing=none"), "{refused:?}");
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name_and_leaves_nothing() {
    let e2e = Fixture::own("nri-unsupported").await;
    let pod = e2e.pod("nri-unsupported").await;
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    let refusals: [(&str, Change); 14] = [
        ("hooks", |adjust| {
            let hook = api::Hook { path: "/usr/bin/hook".into(), ..Default::default() };
            adjust.hooks = Some(api::Hooks { create_runtime: vec![hook], ..Default::default() });
        }),
        ("linux.cgroups_path", |adjust| linux(adjust).cgroups_path = "/elsewhere".into()),
        ("linux.net_devices", |adjust| {
            drop(linux(adjust).net_devices.insert("eth7".into(), api::LinuxNetDevice::default()))
        }),
        ("linux.memory_policy", |adjust| linux(adjust).memory_policy = Some(api::LinuxMemoryPolicy::default())),
        ("linux.rdt", |adjust| {
            let enable_monitoring = Some(api::OptionalBool { value: true });
            linux(adjust).rdt = Some(api::LinuxRdt { enable_monitoring, ..Default::default() });
        }),
        ("linux.namespaces", |adjust| {
            linux(adjust).namespaces = vec![api::LinuxNamespace { r#type: "-network".into(), path: String::new() }];
        }),
        ("linux.seccomp_policy", |adjust| {
            let default_action = "SCMP_ACT_MAYBE".to_owned();
            linux(adjust).seccomp_policy = Some(api::LinuxSeccomp { default_action, ..Default::default() });
        }),
        ("kernel.core_pattern", |adjust| drop(linux(adjust).sysctl.insert("kernel.core_pattern".into(), "|/x".into()))),
        ("RLIMIT_NONE", |adjust| {
            adjust.rlimits = vec![api::PosixRlimit { r#type: "RLIMIT_NONE".into(), hard: 1, soft: 1 }];
        }),
        ("relative", |adjust| adjust.mounts = vec![bind("/etc", "relative", &[])]),
        ("/x/../../etc", |adjust| adjust.mounts = vec![bind("/etc", "/x/../../etc", &[])]),
        ("x-berth.relabel", |adjust| adjust.mounts = vec![bind("/etc", "/x", &["x-berth.relabel"])]),
        ("pod:shm", |adjust| adjust.mounts = vec![bind("pod:shm", "/x", &[])]),
        ("swap", |adjust| {
            let value = |value| Some(api::OptionalInt64 { value });
            limits(adjust).memory = Some(api::LinuxMemory { limit: value(20), swap: value(10), ..Default::default() });
        }),
    ];
    for (told, change) in refusals {
        let plugin =
            Plugin::connect(&beside(&e2e, "nri.sock"), "10", "wish", 0, adjusts(change)).await.expect("connect");
        let refused = loop {
            // The plugin is in its place when it was asked.
            match pod.try_create("refused", &["true"], |_| {}).await {
                Ok(container) => e2e.client.remove_container(&container.id).await.expect("remove"),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code(), Code::FailedPrecondition, "{told}: {refused:?}");
        assert!(refused.message().contains(told), "{told}: {refused:?}");
        assert_eq!(plugin.told("RemoveContainer").len(), 1, "{told}: it learns that there is none");
    }
    nothing_more_than(&e2e, &before).await;
}

#[tokio::test]
async fn two_plugins_share_a_container_until_they_want_the_same() {
    let e2e = Fixture::own("nri-two").await;
    let _first = plugin(&e2e, "10", adjusts(|adjust| adjust.env = vec![pair("A", "first"), pair("B", "first")])).await;
    let second = plugin(
        &e2e,
        "20",
        adjusts(|adjust| adjust.env = vec![pair("-B", ""), pair("B", "second"), pair("C", "second")]),
    )
    .await;
    let (pod, container) = e2e.run("nri-two", &["sleep", "1000"]).await;
    assert_eq!(container.sh("echo $A $B $C").await, "first second second\n");
    let seen = second.told("CreateContainer").remove(0).container().env;
    assert!(seen.contains(&"B=first".to_owned()), "the second sees what the first has made: {seen:?}");
    // By their numbers, not by who came first.
    let _zeroth = plugin(&e2e, "05", adjusts(|adjust| adjust.env = vec![pair("A", "zeroth")])).await;
    let refused = pod.try_create("other", &["true"], |_| {}).await.expect_err("both want A");
    for word in ["05-test", "10-test", "Env \"A\""] {
        assert!(refused.message().contains(word), "{refused:?}");
    }
}

#[tokio::test]
async fn a_validating_plugin_sees_all_and_has_the_last_word() {
    let e2e = Fixture::own("nri-validate").await;
    let _first = plugin(&e2e, "50", adjusts(|adjust| adjust.env = vec![pair("A", "first")])).await;
    let validator = plugin(&e2e, "10", |call| match call.method.as_str() {
        "ValidateContainerAdjustment" => {
            let request = call.request::<api::ValidateContainerAdjustmentRequest>();
            let name = request.container.unwrap_or_default().name;
            let answer = api::ValidateContainerAdjustmentResponse { reject: name == "bad", reason: "its name".into() };
            match name.as_str() {
                "hang" => Reply::Hang,
                _ => Reply::with(&answer),
            }
        }
        _ => Reply::Fine,
    })
    .await;
    let pod = e2e.pod("nri-validate").await;
    pod.start("good", &["sleep", "1000"]).await;
    let asked =
        validator.told("ValidateContainerAdjustment").remove(0).request::<api::ValidateContainerAdjustmentRequest>();
    assert_eq!(asked.adjust.unwrap_or_default().env, [pair("A", "first")]);
    assert!(!asked.container.unwrap_or_default().env.contains(&"A=first".to_owned()), "as it was without them");
    assert_eq!(asked.plugins.iter().map(|one| one.index.as_str()).collect::<Vec<_>>(), ["10", "50"]);
    let owners = asked.owners.unwrap_or_default().owners;
    let env = &owners.values().next().expect("owners").compound[&i32::from(api::Field::Env)];
    assert_eq!(env.owners["A"], "50-test");
    let refused = pod.try_create("bad", &["true"], |_| {}).await.expect_err("rejected");
    assert!(refused.message().contains("its name"), "{refused:?}");
    // Who does not answer has not agreed.
    let refused = pod.try_create("hang", &["true"], |_| {}).await.expect_err("no answer");
    assert!(refused.message().contains("10-test"), "{refused:?}");
    pod.start("after", &["sleep", "1000"]).await;
}

#[tokio::test]
async fn plugins_change_containers_that_are_there() {
    let e2e = Fixture::own("nri-update").await;
    let plugin = plugin(&e2e, "10", |_| Reply::Fine).await;
    let (_pod, container) = e2e.run("nri-update", &["sleep", "1000"]).await;
    let failed = plugin.update(vec![update(&container.id, memory_and_shares(64 * MIB, 300))]).await.expect("update");
    assert_eq!((failed.len(), held(container.pid()).0), (0, (64 * MIB).to_string()));
    let status = told(&e2e, &container.id).await;
    assert_eq!((status.memory_limit_in_bytes, status.cpu_shares), (64 * MIB, 300));
    assert!(plugin.told("UpdateContainer").is_empty(), "its own wish is not news to it");
    let unknown = update(&"0".repeat(64), memory_and_shares(64 * MIB, 300));
    let pids = api::LinuxResources { pids: Some(api::LinuxPids { limit: 5 }), ..Default::default() };
    let too_little = memory_and_shares(4096, 0);
    let asked = vec![
        unknown.clone(),
        update("nonsense", too_little.clone()),
        update(&container.id, pids),
        api::ContainerUpdate { ignore_failure: true, ..unknown },
        update(&container.id, memory_and_shares(96 * MIB, 301)),
    ];
    let failed = plugin.update(asked.clone()).await.expect("update");
    assert_eq!(failed, asked[..3], "each by itself");
    assert_eq!(told(&e2e, &container.id).await.memory_limit_in_bytes, 96 * MIB);
}

#[tokio::test]
async fn a_plugin_changes_a_resize_and_others_with_it() {
    let e2e = Fixture::own("nri-resize").await;
    let other = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let known = other.clone();
    let _plugin = plugin(&e2e, "10", move |call| {
        if !call.method.ends_with("Container") {
            return Reply::Fine;
        }
        let own = call.container().id;
        let other = known.lock().expect("lock").clone();
        match call.method.as_str() {
            "UpdateContainer" => Reply::with(&api::UpdateContainerResponse {
                update: vec![
                    update(&own, memory_and_shares(80 * MIB, 333)),
                    update(&other, memory_and_shares(50 * MIB, 111)),
                ],
                ..Default::default()
            }),
            "CreateContainer" if !other.is_empty() => Reply::with(&api::CreateContainerResponse {
                update: vec![update(&other, memory_and_shares(51 * MIB, 112))],
                ..Default::default()
            }),
            "StopContainer" if own != other => Reply::with(&api::StopContainerResponse {
                update: vec![update(&other, memory_and_shares(52 * MIB, 113))],
            }),
            _ => Reply::Fine,
        }
    })
    .await;
    let pod = e2e.pod("nri-resize").await;
    let neighbour = pod.start("neighbour", &["sleep", "1000"]).await;
    other.lock().expect("lock").clone_from(&neighbour.id);
    let container = pod.start("main", &["sleep", "1000"]).await;
    assert_eq!(held(neighbour.pid()).0, (51 * MIB).to_string(), "by the creation of another");
    let asked =
        v1::LinuxContainerResources { memory_limit_in_bytes: 70 * MIB, cpu_quota: 50_000, ..Default::default() };
    e2e.client.update_resources(&container.id, asked).await.expect("resize");
    let status = told(&e2e, &container.id).await;
    assert_eq!((status.memory_limit_in_bytes, status.cpu_shares, status.cpu_quota), (80 * MIB, 333, 50_000));
    assert_eq!((held(container.pid()).0, held(neighbour.pid()).0), ((80 * MIB).to_string(), (50 * MIB).to_string()));
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    let pid = neighbour.pid();
    test_e2e::fixture::eventually("the neighbour gets what is left", async || {
        (held(pid).0 == (52 * MIB).to_string()).then_some(())
    })
    .await;
}
