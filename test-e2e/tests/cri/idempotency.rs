//! Doing it again, and asking for what is not there (rules.md, rules 1, 2, 7).

use cri_api::v1;
use test_e2e::fixture::Fixture;
use test_e2e::image::{self, Compression, Format, Layer};
use test_e2e::spec;
use tonic::{Code, Request};

/// Ids that nothing has.
const UNKNOWN: [&str; 2] = ["no-such-id", "0000000000000000000000000000000000000000000000000000000000000000"];

#[tokio::test]
async fn strict_the_unknown_is_stopped_with_success() {
    let e2e = Fixture::shared().await;
    for id in UNKNOWN {
        e2e.client.stop_pod(id).await.expect("StopPodSandbox");
        e2e.client.stop_container(id, 1).await.expect("StopContainer");
    }
}

#[tokio::test]
async fn the_unknown_is_removed_with_success() {
    let e2e = Fixture::shared().await;
    for id in UNKNOWN {
        e2e.client.remove_pod(id).await.expect("RemovePodSandbox");
        e2e.client.remove_container(id).await.expect("RemoveContainer");
    }
    e2e.client.remove_image("registry.invalid/no/such:image").await.expect("RemoveImage");
}

#[tokio::test]
async fn the_unknown_has_no_status() {
    let e2e = Fixture::shared().await;
    assert_eq!(e2e.client.pod_status("no-such-id").await.expect_err("no pod").code(), Code::NotFound);
    assert_eq!(e2e.client.container_status("no-such-id").await.expect_err("no container").code(), Code::NotFound);
    assert_eq!(e2e.client.start_container("no-such-id").await.expect_err("no container").code(), Code::NotFound);
    assert_eq!(e2e.client.image_status("registry.invalid/no/such:image").await.expect("no error"), None);
}

#[tokio::test]
async fn stopping_and_removing_again_succeeds() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("again", &["sleep", "1000"]).await;
    for _ in 0..2 {
        e2e.client.stop_container(&container.id, 0).await.expect("StopContainer");
    }
    for _ in 0..2 {
        e2e.client.remove_container(&container.id).await.expect("RemoveContainer");
    }
    for _ in 0..2 {
        e2e.client.stop_pod(&pod.id).await.expect("StopPodSandbox");
    }
    for _ in 0..2 {
        e2e.client.remove_pod(&pod.id).await.expect("RemovePodSandbox");
    }
}

#[tokio::test]
async fn a_container_is_removed_in_every_state() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("remove-any").await;
    let created = pod.create_with("created", &["sleep", "1000"], |_| {}).await;
    let running = pod.start("running", &["sleep", "1000"]).await;
    let exited = pod.start("exited", &["true"]).await;
    exited.wait_exit().await;
    for container in [created, running, exited] {
        e2e.client.remove_container(&container.id).await.expect("remove");
        assert_eq!(e2e.client.container_status(&container.id).await.expect_err("gone").code(), Code::NotFound);
    }
    // Their names are free again.
    pod.start("running", &["sleep", "1000"]).await;
}

#[tokio::test]
async fn a_running_pod_is_removed() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("remove-running", &["sleep", "1000"]).await;
    e2e.client.remove_pod(&pod.id).await.expect("remove");
    assert_eq!(e2e.client.pod_status(&pod.id).await.expect_err("gone").code(), Code::NotFound);
    assert_eq!(e2e.client.container_status(&container.id).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn five_removals_of_an_image_at_once_succeed() {
    let e2e = Fixture::shared().await;
    let mut layer = Layer::new();
    layer.file("only-here", b"five removals", 0o644).expect("file");
    let image = image::busybox(Format::Oci).expect("busybox");
    let image = image.layer(layer.finish(Compression::Gzip).expect("layer")).build();
    let reference = e2e.registry().push("e2e/five", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let removals: Vec<_> = (0..5)
        .map(|_| {
            let (client, reference) = (e2e.client.clone(), reference.clone());
            tokio::spawn(async move { client.remove_image(&reference).await })
        })
        .collect();
    for removal in removals {
        removal.await.expect("task").expect("each succeeds");
    }
    assert_eq!(e2e.client.image_status(&reference).await.expect("status"), None);
    let listed = e2e.client.list_images().await.expect("list");
    assert!(!listed.iter().any(|listed| listed.id == image.id()), "gone from the list too");
}

#[tokio::test]
async fn strict_a_client_that_gave_up_can_ask_again() {
    let e2e = Fixture::shared().await;
    let config = spec::pod("gave-up", &e2e.machine.folder);
    std::fs::create_dir_all(&config.log_directory).expect("folder");
    let mut request = Request::new(v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() });
    request.set_timeout(std::time::Duration::from_millis(1));
    // Whether this one made it in time is not the point.
    let _ = e2e.client.runtime.clone().run_pod_sandbox(request).await;
    let id = e2e.client.run_pod(config.clone()).await.expect("the same pod again");
    let uid = |pod: &v1::PodSandbox| pod.metadata.as_ref().map(|metadata| metadata.uid.clone());
    let wanted = config.metadata.as_ref().map(|metadata| metadata.uid.clone());
    let pods = e2e.client.list_pods(None).await.expect("list");
    let ids: Vec<String> = pods.iter().filter(|pod| uid(pod) == wanted).map(|pod| pod.id.clone()).collect();
    assert_eq!(ids, std::slice::from_ref(&id), "there is one pod of that name");
    e2e.client.stop_pod(&id).await.expect("stop");
    e2e.client.remove_pod(&id).await.expect("remove");
}
