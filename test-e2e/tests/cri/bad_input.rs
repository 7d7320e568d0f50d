//! Bad input is refused, by an error that names what is wrong, and leaves nothing behind.

use std::path::Path;
use std::time::{Duration, Instant};

use cri_api::v1;
use test_e2e::fixture::{Fixture, seconds};
use test_e2e::image::{self, Compression, Format, Image, Layer};
use test_e2e::registry::hostile::{Answer, HostileRegistry};
use test_e2e::spec::{bind, int, profile, security};
use test_e2e::untimed::Untimed;
use tonic::{Code, Request, Status};

/// An image nobody else has, with one layer besides busybox's that `fill` fills.
fn image_with(fill: impl FnOnce(&mut Layer)) -> Image {
    let mut layer = Layer::new();
    fill(&mut layer);
    let blob = layer.finish(Compression::Gzip).expect("layer");
    image::busybox(Format::Oci).expect("busybox").layer(blob).build()
}

/// Asserts that a pull fails and that the image is not there afterwards.
async fn refused_pull(e2e: &Fixture, reference: &str) -> Status {
    let refused = e2e.client.pull(reference).await.expect_err(reference);
    assert_eq!(e2e.client.image_status(reference).await.expect("status"), None, "{refused:?}");
    let listed = e2e.client.list_images().await.expect("list");
    let named = |image: &v1::Image| image.repo_tags.iter().chain(&image.repo_digests).any(|name| name == reference);
    assert!(!listed.iter().any(named), "{refused:?}");
    refused
}

#[tokio::test]
async fn an_unknown_image() {
    let e2e = Fixture::shared().await;
    let reference = format!("{}/e2e/no-such-image:1", e2e.registry().address);
    let refused = refused_pull(&e2e, &reference).await;
    assert!(refused.message().contains("no-such-image"), "{refused:?}");
    let pod = e2e.pod("unknown-image").await;
    let not_pulled = v1::ImageSpec { image: reference.clone(), ..Default::default() };
    pod.try_create("main", &["true"], |config| config.image = Some(not_pulled)).await.expect_err("not pulled");
    for bad in ["", "UPPER/case", "a//b", "x:y:z", "name@sha256:12"] {
        e2e.client.pull(bad).await.expect_err(bad);
    }
}

#[tokio::test]
async fn a_corrupt_layer() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let image = image_with(|layer| drop(layer.file("x", &[7; 100_000], 0o644)));
    let reference = hostile.serve_image("corrupt", &image);
    let mut bytes = image.layers[1].bytes.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let path = format!("/v2/corrupt/blobs/{}", image.layers[1].digest);
    hostile.answer(&path, Answer::Body { media_type: "application/octet-stream".into(), bytes });
    let refused = refused_pull(&e2e, &reference).await;
    assert_ne!(refused.code(), Code::Ok);
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_config_says() {
    let e2e = Fixture::shared().await;
    let mut layer = Layer::new();
    layer.file("x", b"wrong diff id", 0o644).expect("file");
    let mut blob = layer.finish(Compression::Gzip).expect("layer");
    blob.diff_id = format!("sha256:{}", "0".repeat(64));
    let image = image::busybox(Format::Oci).expect("busybox").layer(blob).build();
    let reference = e2e.registry().push("e2e/wrong-diff-id", "1", &image).expect("push");
    refused_pull(&e2e, &reference).await;
}

#[tokio::test]
async fn a_truncated_layer() {
    let e2e = Fixture::shared().await;
    let mut layer = Layer::new();
    layer.file("x", &(0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(), 0o644).expect("file");
    let mut blob = layer.finish(Compression::Gzip).expect("layer");
    blob.bytes.truncate(blob.bytes.len() / 2);
    // Its digest fits, so only the decompressor can tell.
    blob.digest = image::layer::digest(&blob.bytes);
    let image = image::busybox(Format::Oci).expect("busybox").layer(blob).build();
    let reference = e2e.registry().push("e2e/truncated", "1", &image).expect("push");
    refused_pull(&e2e, &reference).await;
}

#[tokio::test]
async fn a_manifest_with_another_digest() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let image = image_with(|layer| drop(layer.file("x", b"another digest", 0o644)));
    hostile.serve_image("digest", &image);
    let asked = format!("sha256:{}", "1".repeat(64));
    let body = Answer::Body { media_type: image.format.manifest().into(), bytes: image.manifest.clone() };
    hostile.answer(&format!("/v2/digest/manifests/{asked}"), body);
    refused_pull(&e2e, &format!("{}/digest@{asked}", hostile.address)).await;
}

#[tokio::test]
async fn a_manifest_of_a_hundred_megabytes() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let media_type = Format::Oci.manifest().to_owned();
    hostile.answer("/v2/flood/manifests/1", Answer::Flood { media_type, length: 100 << 20 });
    let begun = Instant::now();
    refused_pull(&e2e, &format!("{}/flood:1", hostile.address)).await;
    assert!(begun.elapsed() < Duration::from_secs(seconds(60) as u64));
}

/// Layers whose entries try to leave the image: the name in the error, and the layer.
fn climbers(outside: &Path) -> Vec<(&'static str, Image)> {
    let outside = outside.display().to_string();
    let up = "../".repeat(12);
    let up = up.trim_end_matches('/');
    use tar::EntryType::{Link, Regular, Symlink};
    vec![
        ("dot-dot", image_with(|l| drop(l.raw(Regular, &format!("{up}{outside}/evil"), "", b"evil")))),
        ("absolute", image_with(|l| drop(l.raw(Regular, &format!("{outside}/evil"), "", b"evil")))),
        ("symlink", {
            image_with(|l| {
                l.raw(Symlink, "way", &outside, b"").expect("link");
                l.raw(Regular, "way/evil", "", b"evil").expect("file");
            })
        }),
        ("symlink-up", {
            image_with(|l| {
                l.raw(Symlink, "way", &format!("{up}{outside}"), b"").expect("link");
                l.raw(Regular, "way/evil", "", b"evil").expect("file");
            })
        }),
        ("hard-link", image_with(|l| drop(l.raw(Link, "stolen", &format!("{up}{outside}/secret"), b"")))),
        ("hard-link-absolute", image_with(|l| drop(l.raw(Link, "stolen", &format!("{outside}/secret"), b"")))),
        ("hard-link-by-symlink", {
            image_with(|l| {
                l.raw(Symlink, "way", &outside, b"").expect("link");
                l.raw(Link, "stolen", "way/secret", b"").expect("link");
            })
        }),
    ]
}

#[tokio::test]
async fn entries_that_climb_out_reach_nothing() {
    let e2e = Fixture::shared().await;
    // Short, since an old tar header holds names of a hundred bytes.
    let outside = std::env::temp_dir().join(format!("e2e-out-{}", std::process::id()));
    std::fs::create_dir_all(&outside).expect("folder");
    std::fs::write(outside.join("secret"), "the host's secret").expect("file");
    for (name, image) in climbers(&outside) {
        let reference = e2e.registry().push(&format!("e2e/climb-{name}"), "1", &image).expect("push");
        let pulled = e2e.client.pull(&reference).await;
        assert!(!outside.join("evil").exists(), "{name} wrote to the host");
        if pulled.is_ok() {
            let wanted = v1::ImageSpec { image: reference.clone(), ..Default::default() };
            let out = e2e.output_of(&format!("climb-{name}"), "cat /stolen; true", |c| c.image = Some(wanted)).await;
            assert!(!out.1.contains("secret"), "{name} read from the host");
        }
    }
    std::fs::remove_dir_all(&outside).expect("clean up");
}

#[tokio::test]
async fn strict_entries_that_climb_out_are_refused() {
    let e2e = Fixture::shared().await;
    let outside = std::env::temp_dir().join(format!("e2e-ref-{}", std::process::id()));
    for (name, image) in climbers(&outside) {
        // A link whose target is absolute is one inside the image, and so is an absolute name.
        if matches!(name, "dot-dot" | "hard-link") {
            let reference = e2e.registry().push(&format!("e2e/refuse-{name}"), "1", &image).expect("push");
            let refused = refused_pull(&e2e, &reference).await;
            assert!(refused.message().contains(".."), "{name}: names the entry: {refused:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_stalls_meets_the_callers_deadline() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let reference = stalling(&hostile, "stall-deadline");
    let begun = Instant::now();
    let late = e2e.client.pull_as(&reference, None, Duration::from_secs(2)).await.expect_err("it never ends");
    // The client's own clock may end the call first; tonic calls that Cancelled.
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    assert!(begun.elapsed() < Duration::from_secs(seconds(20) as u64));
    assert_eq!(e2e.client.image_status(&reference).await.expect("status"), None);
}

/// The runtime says it itself: this client has no clock.
#[tokio::test]
async fn a_pull_past_its_deadline_is_told_as_such() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let reference = stalling(&hostile, "deadline");
    let mut client = Untimed::images(e2e.machine.endpoint()).await.expect("connect");
    for limit in ["1m", "20m", "300000u", "1S"].repeat(4) {
        let image = Some(v1::ImageSpec { image: reference.clone(), ..Default::default() });
        let mut request = Request::new(v1::PullImageRequest { image, ..Default::default() });
        request.metadata_mut().insert("grpc-timeout", limit.parse().expect("ASCII"));
        let late = client.pull_image(request).await.expect_err("it never ends");
        assert_eq!(late.code(), Code::DeadlineExceeded, "{limit}: {late:?}");
    }
    assert_eq!(e2e.client.image_status(&reference).await.expect("status"), None);
}

#[tokio::test]
async fn strict_a_registry_that_stalls_is_given_up() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let reference = stalling(&hostile, "stall");
    let begun = Instant::now();
    let refused = refused_pull(&e2e, &reference).await;
    assert!(begun.elapsed() < Duration::from_secs(seconds(60) as u64), "{refused:?}");
    assert!(hostile.requests() > 0);
    assert_kubelet_reads("RegistryUnavailable", &refused);
}

#[tokio::test]
async fn strict_kubelet_reads_that_a_registry_is_not_there() {
    let e2e = Fixture::shared().await;
    let refused = refused_pull(&e2e, "127.0.0.1:1/e2e/nobody-listens:1").await;
    assert_kubelet_reads("RegistryUnavailable", &refused);
}

/// Asserts that kubelet gives a failed pull this reason. It looks for it where the error's text begins, and it leaves the code out of that
/// text for Unknown alone.
fn assert_kubelet_reads(reason: &str, status: &Status) {
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    assert!(status.message().starts_with(&format!("{reason}: ")), "{status:?}");
}

/// An image whose second layer never comes whole.
fn stalling(hostile: &HostileRegistry, name: &str) -> String {
    let image = image_with(|layer| drop(layer.file("x", name.as_bytes(), 0o644)));
    let reference = hostile.serve_image(name, &image);
    let layer = &image.layers[1];
    let sent = layer.bytes[..layer.bytes.len() / 2].to_vec();
    let media_type = "application/octet-stream".to_owned();
    let stall = Answer::Stall { media_type, length: layer.bytes.len(), sent };
    hostile.answer(&format!("/v2/{name}/blobs/{}", layer.digest), stall);
    reference
}

#[tokio::test]
async fn strict_a_broken_download_is_taken_up_again() {
    let e2e = Fixture::shared().await;
    let hostile = HostileRegistry::start(&e2e.machine.host).expect("registry");
    let image = image_with(|layer| {
        let noise: Vec<u8> = (0..300_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        layer.file("x", &noise, 0o644).expect("file");
    });
    let reference = hostile.serve_image("broken", &image);
    let layer = &image.layers[1];
    let answer = Answer::BreakOnce { bytes: layer.bytes.clone(), first: layer.bytes.len() / 3 };
    hostile.answer(&format!("/v2/broken/blobs/{}", layer.digest), answer);
    assert_eq!(e2e.client.pull(&reference).await.expect("the second connection brings the rest"), image.id());
}

/// Creates and starts a container that cannot be; the error may come from either verb.
async fn refused_container(
    e2e: &Fixture,
    name: &str,
    command: &[&str],
    change: impl FnOnce(&mut v1::ContainerConfig),
) -> Status {
    let pod = e2e.pod(name).await;
    let container = match pod.try_create("main", command, change).await {
        Ok(container) => container,
        Err(refused) => {
            let filter = v1::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
            let left = e2e.client.list_containers(Some(filter)).await.expect("list");
            assert!(left.is_empty(), "a container that was not created is listed: {left:?}");
            return refused;
        }
    };
    let refused = e2e.client.start_container(&container.id).await.expect_err(name);
    let status = container.status().await;
    assert_eq!(status.state(), v1::ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.finished_at > 0 && container.pids().is_empty());
    refused
}

#[tokio::test]
async fn a_missing_executable() {
    let e2e = Fixture::shared().await;
    let refused = refused_container(&e2e, "no-program", &["/no/such/program", "x"], |_| {}).await;
    assert!(refused.message().contains("/no/such/program"), "{refused:?}");
    let refused = refused_container(&e2e, "no-program-in-path", &["no-such-program"], |_| {}).await;
    assert!(refused.message().contains("no-such-program"), "{refused:?}");
    refused_container(&e2e, "not-executable", &["/etc/passwd"], |_| {}).await;
    refused_container(&e2e, "a-folder", &["/etc"], |_| {}).await;
}

#[tokio::test]
async fn a_bad_user() {
    let e2e = Fixture::shared().await;
    let change = |config: &mut v1::ContainerConfig| security(config).run_as_username = "no-such-user".into();
    refused_container(&e2e, "bad-user", &["true"], change).await;
    let change = |config: &mut v1::ContainerConfig| security(config).run_as_group = int(1000);
    refused_container(&e2e, "group-alone", &["true"], change).await;
}

#[tokio::test]
async fn a_bad_mount_source() {
    let e2e = Fixture::shared().await;
    let file = e2e.folder("bad-source").join("file");
    std::fs::write(&file, "").expect("file");
    let below = file.join("below");
    let refused = refused_container(&e2e, "bad-mount", &["true"], |c| c.mounts = vec![bind(&below, "/v", false)]).await;
    assert!(refused.message().contains(below.to_str().expect("text")), "{refused:?}");
    refused_container(&e2e, "no-target", &["true"], |c| c.mounts = vec![bind(&file, "", false)]).await;
}

#[tokio::test]
async fn a_bad_sysctl() {
    let e2e = Fixture::shared().await;
    for (name, key) in [("host-wide", "vm.swappiness"), ("no-such", "net.ipv4.no_such_sysctl")] {
        let before = e2e.client.list_pods(None).await.expect("list").len();
        let refused = e2e
            .try_pod(&format!("sysctl-{name}"), |config| {
                config.linux.get_or_insert_default().sysctls = [(key.to_owned(), "1".to_owned())].into();
            })
            .await
            .expect_err(key);
        let said = refused.message().replace('/', ".");
        assert!(said.contains(key), "names the sysctl: {refused:?}");
        assert!(e2e.client.list_pods(None).await.expect("list").len() <= before + 8, "other tests' pods at most");
    }
}

#[tokio::test]
async fn nothing_to_run() {
    let e2e = Fixture::shared().await;
    let mut layer = Layer::new();
    layer.file("x", b"nothing to run", 0o644).expect("file");
    let blob = layer.finish(Compression::Gzip).expect("layer");
    let image = image::ImageBuilder::new(Format::Oci).layer(blob).build();
    let reference = e2e.registry().push("e2e/nothing", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    let wanted = v1::ImageSpec { image: reference, ..Default::default() };
    refused_container(&e2e, "nothing", &[], |config| config.image = Some(wanted)).await;
}

#[tokio::test]
async fn a_missing_seccomp_profile() {
    let e2e = Fixture::shared().await;
    let kind = v1::security_profile::ProfileType::Localhost;
    let change = |config: &mut v1::ContainerConfig| security(config).seccomp = profile(kind, "/no/such/profile.json");
    let refused = refused_container(&e2e, "no-profile", &["true"], change).await;
    assert!(refused.message().contains("profile.json"), "{refused:?}");
}

#[tokio::test]
async fn strict_a_broken_seccomp_profile() {
    let e2e = Fixture::shared().await;
    let kind = v1::security_profile::ProfileType::Localhost;
    for (name, text) in [("not-json", "{"), ("no-action", r#"{"defaultAction": "SCMP_ACT_WHATEVER"}"#)] {
        let path = e2e.folder("broken-profile").join("profile.json");
        std::fs::write(&path, text).expect("profile");
        let path = path.display().to_string();
        let change = |config: &mut v1::ContainerConfig| security(config).seccomp = profile(kind, &path);
        let refused = refused_container(&e2e, name, &["true"], change).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("profile.json"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_container_without_its_pod() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("gone").await;
    let config = test_e2e::spec::container("main", e2e.busybox(), &["true"]);
    let unknown = e2e.client.create_container("no-such-pod", config.clone(), pod.config.clone()).await;
    unknown.expect_err("no such pod");
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    e2e.client.create_container(&pod.id, config, pod.config.clone()).await.expect_err("the pod is stopped");
}

#[tokio::test]
async fn a_name_in_use() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("same-name").await;
    let first = pod.start("main", &["sleep", "1000"]).await;
    pod.try_create("main", &["true"], |_| {}).await.expect_err("the name is taken");
    assert_eq!(first.exec(&["true"]).await.code, 0, "and its owner is unharmed");
}

#[tokio::test]
async fn strict_errors_have_their_code() {
    let e2e = Fixture::shared().await;
    let code = |result: Result<String, Status>| result.expect_err("refused").code();
    let mut nameless = test_e2e::spec::pod("nameless", &e2e.machine.folder);
    nameless.metadata = None;
    assert_eq!(code(e2e.client.run_pod(nameless).await), Code::InvalidArgument);
    let mut escaping = test_e2e::spec::pod("../../x", &e2e.machine.folder);
    escaping.log_directory = "relative/path".into();
    assert_eq!(code(e2e.client.run_pod(escaping).await), Code::InvalidArgument);
    let pod = e2e.pod("codes").await;
    let config = |name: &str| test_e2e::spec::container(name, e2e.busybox(), &["sleep", "1000"]);
    let create = async |pod: &str, config| e2e.client.create_container(pod, config, Default::default()).await;
    assert_eq!(code(create("no-such-pod", config("x")).await), Code::NotFound);
    let mut no_image = config("x");
    no_image.image = None;
    assert_eq!(code(create(&pod.id, no_image).await), Code::InvalidArgument);
    let id = create(&pod.id, config("main")).await.expect("create");
    assert_eq!(code(e2e.client.exec(&id, &["true"], 5).await.map(|_| String::new())), Code::FailedPrecondition);
    e2e.client.start_container(&id).await.expect("start");
    let again = e2e.client.start_container(&id).await.map(|()| String::new());
    assert_eq!(code(again), Code::FailedPrecondition, "it runs already");
    let mut nobody = config("user");
    security(&mut nobody).run_as_username = "no-such-user".into();
    let refused = create(&pod.id, nobody).await.expect_err("no such user");
    assert!(refused.message().contains("no-such-user"), "{refused:?}");
    let mut group_alone = config("group");
    security(&mut group_alone).run_as_group = int(5);
    assert_eq!(code(create(&pod.id, group_alone).await), Code::InvalidArgument);
    assert_eq!(code(e2e.client.pull("localhost/UPPER/case").await), Code::InvalidArgument);
    let absent = format!("{}/e2e/absent:1", e2e.registry().address);
    assert_eq!(code(e2e.client.pull(&absent).await), Code::NotFound);
}
