//! Runtime handlers: each with its own settings, told in Status, and not needed any more to take its pods away.

use cri_api::v1;
use test_e2e::fixture::Fixture;
use test_e2e::machine::Setup;
use test_e2e::spec;
use tonic::Code;

use crate::recovery::{after_first_use, crash, nothing_more_than};

/// The built-in runtime, with little to give.
const STRICT: &str = "runtimes:
  strict:
    privileged: false
    capabilities: [CHOWN, KILL]
    rlimits: [nofile=64:128, core=0]
    seccomp_profile: SECCOMP
  no-devices:
    privileged_without_host_devices: true
";

/// Everything is allowed but to make folders.
const NO_FOLDERS: &str = r#"{
  "defaultAction": "SCMP_ACT_ALLOW",
  "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;

async fn machine(name: &str) -> Fixture {
    let setup = Setup { name: name.to_owned(), ..Setup::default() };
    let profile = setup.folder().join("seccomp.json");
    let configuration = STRICT.replace("SECCOMP", &profile.display().to_string());
    let e2e = Fixture::own_with(Setup { configuration, ..setup }).await;
    std::fs::write(&profile, NO_FOLDERS).expect("profile");
    e2e
}

fn privileged(config: &mut v1::PodSandboxConfig) {
    spec::pod_security(config).privileged = true;
}

#[tokio::test]
async fn a_handlers_settings_are_its_containers_defaults() {
    let e2e = machine("settings").await;
    let before = after_first_use(&e2e).await;
    let pod = e2e.try_pod_of("strict", "strict", |_| {}).await.expect("pod");
    assert_eq!(pod.status().await.runtime_handler, "strict");
    let container = pod
        .start_with("strict", &["sleep", "1000"], |config| {
            let security = spec::security(config);
            security.seccomp = Some(v1::SecurityProfile::default());
            security.capabilities =
                Some(v1::Capability { add_capabilities: vec!["NET_RAW".into()], ..Default::default() });
        })
        .await;
    // CHOWN, KILL and NET_RAW.
    assert_eq!(container.sh("grep CapBnd /proc/1/status").await, "CapBnd:\t0000000000002021\n");
    assert_eq!(container.sh("ulimit -Sn; ulimit -Hn; ulimit -c").await, "64\n128\n0\n");
    let refused = container.exec(&["mkdir", "/new"]).await;
    assert!(refused.code != 0 && refused.stderr.contains("not permitted"), "{refused:?}");

    // The default handler is as it was.
    let (plain, container) = e2e.run("plain", &["sleep", "1000"]).await;
    assert_eq!(container.sh("grep CapBnd /proc/1/status").await, "CapBnd:\t00000000a80425fb\n");
    container.sh("mkdir /new").await;
    for pod in [&pod, &plain] {
        e2e.client.remove_pod(&pod.id).await.expect("removed");
    }
    nothing_more_than(&e2e, &before).await;
}

#[tokio::test]
async fn a_handler_says_what_the_privileged_get() {
    let e2e = machine("privileged").await;
    let refused = e2e.try_pod_of("strict", "refused", privileged).await.expect_err("it may not be privileged");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("runtimes.strict.privileged"), "{refused:?}");

    let devices = async |handler: &str| {
        let pod = e2e.try_pod_of(handler, "devices", privileged).await.expect("pod");
        let change = |config: &mut v1::ContainerConfig| spec::security(config).privileged = true;
        let container = pod.start_with("devices", &["sleep", "1000"], change).await;
        let count = container.sh("find /dev -type b -o -type c | wc -l").await;
        count.trim().parse::<usize>().expect("a number")
    };
    let (all, few) = (devices("").await, devices("no-devices").await);
    assert!(few < all && few < 20, "{few} of {all}");
}

#[tokio::test]
async fn an_unknown_handler_is_refused_and_all_are_told() {
    let e2e = machine("unknown").await;
    let refused = e2e.try_pod_of("kata", "unknown", |_| {}).await.expect_err("it is not configured");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(r#""", "no-devices", "strict""#), "{refused:?}");
    let handlers = e2e.client.status().await.expect("status").runtime_handlers;
    let told: Vec<_> = handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(told, ["", "no-devices", "strict"]);
    assert!(handlers.iter().all(|handler| handler.features.is_some_and(|it| it.recursive_read_only_mounts)));
}

#[tokio::test]
async fn a_pod_outlives_its_handler_and_goes_without_it() {
    let mut e2e = machine("outlived").await;
    let before = after_first_use(&e2e).await;
    let pod = e2e.try_pod_of("strict", "outlived", |_| {}).await.expect("pod");
    let container = pod.start("main", &["sleep", "1000"]).await;
    let (pod_id, pod_config, id, pid) = (pod.id.clone(), pod.config.clone(), container.id.clone(), container.pid());
    e2e.agent().configure("").expect("configured");
    crash(&mut e2e, async || {}).await;

    assert!(test_e2e::process::is_alive(pid), "its container runs on");
    let status = e2e.client.pod_status(&pod_id).await.expect("known");
    assert_eq!((status.state(), status.runtime_handler.as_str()), (v1::PodSandboxState::SandboxReady, "strict"));
    let exec = e2e.client.exec(&id, &["echo", "hi"], 10).await.expect("exec works");
    assert_eq!(exec.stdout.as_ref(), b"hi\n");
    let another = spec::container("another", e2e.busybox(), &["sleep", "1000"]);
    let refused =
        e2e.client.create_container(&pod_id, another, pod_config).await.expect_err("no container is made in it");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(r#"handler "strict""#), "{refused:?}");
    e2e.client.stop_pod(&pod_id).await.expect("stopped");
    e2e.client.remove_pod(&pod_id).await.expect("removed");
    nothing_more_than(&e2e, &before).await;
}
