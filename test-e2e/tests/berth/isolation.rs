//! Pods that are kept apart (`network.icc: false`), and pods without a network.

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture, Pod};
use test_e2e::machine::Setup;
use test_e2e::spec::pod_namespaces;
use tonic::Code;

use crate::recovery::{after_first_use, crash, nothing_more_than};

const TALKS_TO: &str = "io.berth.network/talks-to";

async fn talking<'a>(e2e: &'a Fixture, name: &str, to: &str) -> (Pod<'a>, Container<'a>) {
    let pod = e2e
        .pod_with(name, |config| {
            config.annotations.insert(TALKS_TO.to_owned(), to.to_owned());
        })
        .await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    (pod, container)
}

async fn reaches(e2e: &Fixture, from: &str, to: &str) -> bool {
    let output = e2e.client.exec(from, &["ping", "-c", "1", "-W", "2", to], 20).await.expect("exec");
    output.exit_code == 0
}

#[tokio::test]
async fn pods_that_name_each_other_talk_also_after_a_restart() {
    // The section `network` is the last of the usual configuration.
    let configuration = "  icc: false\n".to_owned();
    let mut e2e = Fixture::own_with(Setup { name: "apart".into(), configuration, ..Setup::default() }).await;
    let before = after_first_use(&e2e).await;
    let (web_pod, web) = talking(&e2e, "web", "db").await;
    let (db_pod, db) = talking(&e2e, "db", "web").await;
    let (third_pod, third) = talking(&e2e, "third", "web, db").await;
    let (web_ip, db_ip) = (web_pod.ip().await, db_pod.ip().await);
    let pods = [web_pod.id.clone(), db_pod.id.clone(), third_pod.id.clone()];
    let [web, db, third] = [web, db, third].map(|container| container.id.clone());
    for _ in 0..2 {
        assert!(reaches(&e2e, &web, &db_ip).await && reaches(&e2e, &db, &web_ip).await);
        assert!(!reaches(&e2e, &third, &web_ip).await, "it names, but is not named");
        crash(&mut e2e, async || {}).await;
    }
    for pod in &pods {
        e2e.client.stop_pod(pod).await.expect("stop");
        e2e.client.remove_pod(pod).await.expect("remove");
    }
    nothing_more_than(&e2e, &before).await;
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let e2e = Fixture::shared().await;
    let bad = |config: &mut v1::PodSandboxConfig| {
        config.annotations.insert(TALKS_TO.to_owned(), "a/b/c".to_owned());
    };
    let refused = e2e.try_pod("bad-name", bad).await.expect_err("no name");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains(TALKS_TO) && refused.message().contains("a/b/c"), "{refused:?}");
}

#[tokio::test]
async fn a_pod_without_a_network_has_a_loopback() {
    let e2e = Fixture::shared().await;
    let without = |config: &mut v1::PodSandboxConfig| {
        pod_namespaces(config).network = v1::NamespaceMode::Container.into();
    };
    let pod = e2e.pod_with("no-network", without).await;
    let status = pod.status().await;
    assert_eq!(status.network.map(|network| network.ip), Some(String::new()));
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
    assert_eq!(options.map(|options| options.network()), Some(v1::NamespaceMode::Container), "it is told as asked for");
    let container = pod.start("main", &["sleep", "1000"]).await;
    let links = container.sh("ip -o link").await;
    assert!(links.lines().count() == 1 && links.contains("lo:") && links.contains("UP"), "{links}");
    assert_eq!(container.sh("ping -c 1 -W 5 127.0.0.1 > /dev/null && echo yes").await, "yes\n");

    let with_port = |config: &mut v1::PodSandboxConfig| {
        without(config);
        config.port_mappings = vec![v1::PortMapping { container_port: 80, host_port: 18099, ..Default::default() }];
    };
    let refused = e2e.try_pod("no-network-port", with_port).await.expect_err("a port to nowhere");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("port_mappings"), "{refused:?}");
}
