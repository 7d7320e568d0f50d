//! Ids of pods in user namespaces: those of a client that names none are the agent's to give, and nobody gets another's.

use std::os::unix::fs::MetadataExt;

use cri_api::v1;
use test_e2e::fixture::{Fixture, Pod};
use test_e2e::leaks::Census;
use test_e2e::spec::pod_namespaces;
use tonic::{Code, Status};

use crate::recovery::{crash, nothing_more_than};

/// What the agent's configuration says (`test_e2e::agent`).
const FIRST: u32 = 1_000_000_000;
const COUNT: u32 = 65_536;
const PODS: u32 = 3;

/// A pod that leaves its ids to the agent.
async fn try_pod<'a>(e2e: &'a Fixture, name: &str) -> Result<Pod<'a>, Status> {
    let ask = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
    e2e.try_pod(name, |config| pod_namespaces(config).userns_options = Some(ask)).await
}

/// Its first id on the host, by its status.
async fn first_id(e2e: &Fixture, pod: &str) -> u32 {
    let status = e2e.client.pod_status(pod).await.expect("status");
    let options = status.linux.and_then(|linux| linux.namespaces?.options?.userns_options).expect("told");
    assert_eq!(options.uids, options.gids);
    assert_eq!((options.uids.len(), options.uids[0].container_id, options.uids[0].length), (1, 0, COUNT));
    options.uids[0].host_id
}

#[tokio::test]
async fn ids_are_given_once_and_a_restart_forgets_none() {
    let mut e2e = Fixture::own("ids").await;
    let one = try_pod(&e2e, "one").await.expect("a first").id;
    let two = try_pod(&e2e, "two").await.expect("a second").id;
    assert_eq!((first_id(&e2e, &one).await, first_id(&e2e, &two).await), (FIRST, FIRST + COUNT));
    crash(&mut e2e, async || {}).await;
    assert_eq!(first_id(&e2e, &two).await, FIRST + COUNT);
    let three = try_pod(&e2e, "three").await.expect("a third");
    assert_eq!(first_id(&e2e, &three.id).await, FIRST + 2 * COUNT);
    let container = three.start("main", &["sleep", "1000"]).await;
    let owner = std::fs::metadata(format!("/proc/{}", container.pid())).expect("stat").uid();
    assert_eq!(owner, FIRST + 2 * COUNT);
    let refused = try_pod(&e2e, "too-many").await.expect_err("all are in use");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains(&PODS.to_string()), "{refused:?}");
    e2e.client.stop_pod(&one).await.expect("stop");
    e2e.client.remove_pod(&one).await.expect("remove");
    assert_eq!(first_id(&e2e, &try_pod(&e2e, "again").await.expect("there is room").id).await, FIRST);
}

#[tokio::test]
async fn a_pod_in_a_user_namespace_survives_the_agent_and_leaves_nothing() {
    let mut e2e = Fixture::own("userns-life").await;
    e2e.run("first-use", &["true"]).await.1.wait_exit().await;
    end_all(&e2e).await;
    let before = Census::take(&e2e.machine.host, &e2e.agent());
    for shared in [v1::NamespaceMode::Container, v1::NamespaceMode::Pod] {
        let pod = {
            let ask = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
            let pod = e2e.pod_with("life", |config| {
                pod_namespaces(config).userns_options = Some(ask);
                pod_namespaces(config).pid = shared.into();
            });
            let pod = pod.await;
            pod.start("early", &["sleep", "1000"]).await.sh("test $(id -u) = 0").await;
            (pod.id, pod.config)
        };
        crash(&mut e2e, async || {}).await;
        // The next agent has the namespace from the monitor, and can make and enter containers as the one before.
        let config = test_e2e::spec::container("late", e2e.busybox(), &["sleep", "1000"]);
        let late = e2e.client.create_container(&pod.0, config, pod.1).await.expect("create");
        e2e.client.start_container(&late).await.expect("start");
        let exec = e2e.client.exec(&late, &["stat", "-c", "%u", "/"], 10).await.expect("exec");
        assert_eq!(exec.stdout.as_ref(), b"0\n");
        end_all(&e2e).await;
        nothing_more_than(&e2e, &before).await;
    }
}

async fn end_all(e2e: &Fixture) {
    for pod in e2e.client.list_pods(None).await.expect("list") {
        e2e.client.stop_pod(&pod.id).await.expect("stop");
        e2e.client.remove_pod(&pod.id).await.expect("remove");
    }
}

#[tokio::test]
#[ignore = "needs a kernel before 6.3"]
async fn an_older_kernel_has_none_and_says_so() {
    let e2e = Fixture::shared().await;
    let refused = try_pod(&e2e, "older").await.expect_err("a tmpfs cannot map owners");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("Linux 6.3"), "{refused:?}");
    let handlers = e2e.client.status().await.expect("status").runtime_handlers;
    let default = handlers.iter().find(|handler| handler.name.is_empty()).expect("the default handler");
    assert!(!default.features.expect("features").user_namespaces, "kubelet does not ask for any");
}
