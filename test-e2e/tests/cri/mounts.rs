//! Volumes (rules.md, rules 13, 26, 27): what is bound where, read-only or not, and which way mounts propagate.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cri_api::v1;
use cri_api::v1::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use test_e2e::fixture::{Fixture, eventually};
use test_e2e::spec::{bind, pod_security, security};

#[tokio::test]
async fn binds_read_write_and_read_only() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("bind");
    std::fs::write(folder.join("file"), "outside\n").expect("write");
    let (_pod, container) = e2e
        .run_with("bind", &["sleep", "1000"], |config| {
            config.mounts = vec![
                bind(&folder, "/rw", false),
                bind(&folder, "/ro/deep/inside", true),
                bind(&folder.join("file"), "/etc/one-file", true),
            ];
        })
        .await;
    assert_eq!(container.sh("cat /rw/file /ro/deep/inside/file /etc/one-file").await, "outside\noutside\noutside\n");
    container.sh("echo inside > /rw/new").await;
    assert_eq!(std::fs::read_to_string(folder.join("new")).expect("written"), "inside\n");
    for line in ["touch /ro/deep/inside/x", "echo x > /etc/one-file"] {
        let refused = container.exec(&["sh", "-c", line]).await;
        assert!(refused.code != 0 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    }
}

#[tokio::test]
async fn the_status_echoes_the_mounts() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("echo");
    let link = folder.join("link");
    std::fs::create_dir(folder.join("real")).expect("folder");
    std::os::unix::fs::symlink("real", &link).expect("link");
    let asked = vec![bind(&link, "/a", true), bind(&folder, "/b", false)];
    let (_pod, container) = e2e.run_with("mount-echo", &["sleep", "1000"], |c| c.mounts = asked.clone()).await;
    let told = container.status().await.mounts;
    let summary = |mounts: &[v1::Mount]| -> Vec<(String, String, bool)> {
        mounts.iter().map(|m| (m.host_path.clone(), m.container_path.clone(), m.readonly)).collect()
    };
    assert_eq!(summary(&told), summary(&asked), "the same mounts, host paths unresolved");
}

#[tokio::test]
async fn a_symlinked_source_is_followed() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("source-link");
    std::fs::create_dir(folder.join("real")).expect("folder");
    std::fs::write(folder.join("real/x"), "found\n").expect("file");
    std::os::unix::fs::symlink(folder.join("real"), folder.join("link")).expect("link");
    let mounts = vec![bind(&folder.join("link"), "/v", false)];
    assert_eq!(e2e.output_of("source-link", "cat /v/x", |config| config.mounts = mounts).await, (0, "found\n".into()));
}

#[tokio::test]
async fn a_missing_source_is_made() {
    let e2e = Fixture::shared().await;
    let path = e2e.folder("missing").join("not/there/yet");
    let mounts = vec![bind(&path, "/v", false)];
    let (code, out) = e2e.output_of("missing", "touch /v/x && ls /v", |config| config.mounts = mounts).await;
    assert_eq!((code, out.as_str()), (0, "x\n"));
    assert_eq!(path.metadata().expect("made").permissions().mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn a_target_behind_a_symlink_stays_in_the_container() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("target-link");
    let image = test_e2e::image::busybox(test_e2e::image::Format::Oci).expect("busybox");
    let mut layer = test_e2e::image::Layer::new();
    layer.symlink("out", "../../../../tmp").expect("link").symlink("abs", "/var").expect("link");
    let image = image.layer(layer.finish(test_e2e::image::Compression::Gzip).expect("layer")).build();
    let reference = e2e.registry().push("e2e/links", "1", &image).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    std::fs::write(folder.join("x"), "here\n").expect("file");
    let name = format!("e2e-{}", std::process::id());
    let (code, out) = e2e
        .output_of("target-link", &format!("cat /tmp/{name}/x /var/{name}/x"), |config| {
            config.image = Some(v1::ImageSpec { image: reference.clone(), ..Default::default() });
            config.mounts =
                vec![bind(&folder, &format!("/out/{name}"), true), bind(&folder, &format!("/abs/{name}"), true)];
        })
        .await;
    assert_eq!((code, out.as_str()), (0, "here\nhere\n"));
    assert!(!Path::new("/tmp").join(&name).exists() && !Path::new("/var").join(&name).exists());
}

#[tokio::test]
async fn mounts_nest_in_the_order_that_is_asked() {
    let e2e = Fixture::shared().await;
    let (outer, inner) = (e2e.folder("outer"), e2e.folder("inner"));
    std::fs::create_dir(outer.join("sub")).expect("folder");
    std::fs::write(inner.join("x"), "inner\n").expect("file");
    let mounts = vec![bind(&outer, "/v", true), bind(&inner, "/v/sub", false)];
    let script = "cat /v/sub/x; touch /v/sub/y && echo wrote";
    let out = e2e.output_of("nested", script, |config| config.mounts = mounts).await;
    assert_eq!(out, (0, "inner\nwrote\n".into()), "a read-only mount leaves what is mounted on it writable");
}

/// A tmpfs mounted on a volume by the host after the container started.
#[tokio::test]
async fn mounts_of_the_host_arrive_as_asked() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("to-container");
    std::fs::create_dir(folder.join("sub")).expect("folder");
    let kinds = [PropagationPrivate, PropagationHostToContainer];
    let (_pod, container) = e2e
        .run_with("to-container", &["sleep", "1000"], |config| {
            for kind in kinds {
                let mut volume = bind(&folder, &format!("/{}", kind as i32), false);
                volume.propagation = kind.into();
                config.mounts.push(volume);
            }
        })
        .await;
    let _mounted = TmpfsOn::new(&e2e, folder.join("sub"));
    let seen = |kind: v1::MountPropagation| format!("grep -c ' /{}/sub tmpfs' /proc/mounts; true", kind as i32);
    assert_eq!(container.sh(&seen(PropagationHostToContainer)).await, "1\n");
    assert_eq!(container.sh(&seen(PropagationPrivate)).await, "0\n");
}

#[tokio::test]
async fn mounts_of_the_container_reach_the_host_when_bidirectional() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("to-host");
    std::fs::create_dir(folder.join("sub")).expect("folder");
    let pod = e2e.pod_with("to-host", |config| pod_security(config).privileged = true).await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            security(config).privileged = true;
            let mut volume = bind(&folder, "/v", false);
            volume.propagation = PropagationBidirectional.into();
            config.mounts = vec![volume];
        })
        .await;
    container.sh("mount -t tmpfs none /v/sub && echo hi > /v/sub/x").await;
    assert_eq!(e2e.inside(|| std::fs::read_to_string(folder.join("sub/x"))).expect("seen outside"), "hi\n");
    container.sh("umount /v/sub").await;
    eventually("the mount is gone outside", async || (!e2e.inside(|| folder.join("sub/x").exists())).then_some(()))
        .await;
}

#[tokio::test]
async fn bidirectional_needs_a_shared_source() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("unshared");
    let _mounted = TmpfsOn::new(&e2e, folder.clone());
    e2e.inside(|| mount(None::<&str>, &folder, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)).expect("private");
    let pod = e2e.pod_with("unshared", |config| pod_security(config).privileged = true).await;
    let refused = async {
        let container = pod
            .try_create("main", &["true"], |config| {
                security(config).privileged = true;
                let mut volume = bind(&folder, "/v", false);
                volume.propagation = PropagationBidirectional.into();
                config.mounts = vec![volume];
            })
            .await?;
        e2e.client.start_container(&container.id).await
    };
    let refused = refused.await.expect_err("the source is not shared");
    assert!(refused.message().contains(folder.to_str().expect("text")), "names the path: {refused:?}");
}

#[tokio::test]
async fn newer_recursive_read_only() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("recursive");
    std::fs::create_dir(folder.join("sub")).expect("folder");
    let _mounted = TmpfsOn::new(&e2e, folder.join("sub"));
    let pod = e2e.pod("recursive").await;
    let volume = |readonly: bool, recursive: bool, propagation: v1::MountPropagation| {
        let mut volume = bind(&folder, "/v", readonly);
        volume.recursive_read_only = recursive;
        volume.propagation = propagation.into();
        vec![volume]
    };
    let try_with = async |name: &str, mounts: Vec<v1::Mount>| {
        let container = pod.try_create(name, &["sleep", "1000"], |config| config.mounts = mounts).await?;
        e2e.client.start_container(&container.id).await?;
        Ok::<_, tonic::Status>(container)
    };
    let deep = try_with("deep", volume(true, true, PropagationPrivate)).await.expect("allowed");
    assert_ne!(deep.exec(&["touch", "/v/sub/x"]).await.code, 0, "read-only all the way down");
    let flat = try_with("flat", volume(true, false, PropagationPrivate)).await.expect("allowed");
    assert_eq!(flat.exec(&["touch", "/v/sub/x"]).await.code, 0, "the submount stays writable");
    try_with("writable", volume(false, true, PropagationPrivate))
        .await
        .expect_err("recursive_read_only without readonly");
    try_with("moving", volume(true, true, PropagationHostToContainer))
        .await
        .expect_err("recursive_read_only and propagation");
}

/// A tmpfs on a folder in the runtime's mount namespace; taken away at the end.
struct TmpfsOn<'a> {
    e2e: &'a Fixture,
    folder: std::path::PathBuf,
}

impl<'a> TmpfsOn<'a> {
    fn new(e2e: &'a Fixture, folder: std::path::PathBuf) -> TmpfsOn<'a> {
        let none = None::<&str>;
        e2e.inside(|| mount(Some("e2e"), &folder, Some("tmpfs"), MsFlags::empty(), none)).expect("mount tmpfs");
        TmpfsOn { e2e, folder }
    }
}

impl Drop for TmpfsOn<'_> {
    fn drop(&mut self) {
        let _ = self.e2e.inside(|| umount2(&self.folder, MntFlags::MNT_DETACH));
    }
}

/// A file system whose server says nothing, as an NFS server that is gone; until it is dropped, when all that waits for it fails.
struct DeadMount<'a> {
    e2e: &'a Fixture,
    folder: std::path::PathBuf,
    server: Option<std::fs::File>,
}

impl<'a> DeadMount<'a> {
    fn new(e2e: &'a Fixture, folder: std::path::PathBuf) -> DeadMount<'a> {
        let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let mounted = mount(Some("e2e"), &folder, Some("fuse"), MsFlags::empty(), Some(options.as_str()));
        mounted.expect("mount fuse");
        DeadMount { e2e, folder, server: Some(server) }
    }
}

impl Drop for DeadMount<'_> {
    fn drop(&mut self) {
        self.server = None;
        let _ = self.e2e.inside(|| umount2(&self.folder, MntFlags::MNT_DETACH));
    }
}

/// Rule 35: whoever asks about other pods, or about this one, does not wait with it.
#[tokio::test]
async fn strict_a_dead_mount_delays_only_its_own_container() {
    let e2e = Fixture::shared().await;
    let folder = e2e.folder("dead");
    let dead = e2e.inside(|| DeadMount::new(&e2e, folder.clone()));
    let (pod, other) = (e2e.pod("dead").await, e2e.pod("dead-not").await);
    let waiting =
        pod.try_create("main", &["true"], |config| config.mounts = vec![bind(&folder.join("x"), "/v", false)]);
    let mut waiting = std::pin::pin!(waiting);
    let asked = async {
        for _ in 0..20 {
            assert_eq!(pod.status().await.state(), v1::PodSandboxState::SandboxReady);
            assert!(e2e.client.list_containers(None).await.is_ok() && e2e.client.status().await.is_ok());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let alive = other.start("alive", &["sleep", "1000"]).await;
        assert_eq!(alive.exec(&["echo", "hi"]).await.stdout, "hi\n");
        assert!(e2e.client.list_stats(None).await.is_ok());
    };
    tokio::select! {
        created = &mut waiting => panic!("it did not wait for the mount: {:?}", created.map(|container| container.id)),
        () = asked => {}
    }
    drop(dead);
    assert!(waiting.await.is_err(), "there is nothing to mount");
}
