//! User namespaces below the CRI: who owns what, and the way to a root that older kernels need.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::chown;

use berth::libcontainer::plan::{IdRange, UserNamespace};
use berth::libcontainer::run;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};

use crate::support::{Pod, Sandbox};

const FIRST: u32 = 900_000_000;

async fn mapped_pod(sandbox: &Sandbox) -> Pod<'_> {
    let range = IdRange { first: FIRST, count: 65_536 };
    let pod = sandbox.pod_with(|pod| pod.user_namespace = Some(UserNamespace { uids: range, gids: range }));
    pod.await.unwrap()
}

#[tokio::test]
async fn the_monitor_keeps_the_hosts_user_namespace() {
    let sandbox = Sandbox::new().await;
    let pod = mapped_pod(&sandbox).await;
    let link = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let monitor = pod.namespaces.pid.to_string();
    assert_eq!(link(&monitor, "user"), link("self", "user"));
    for name in ["net", "ipc", "uts"] {
        assert_ne!(link(&monitor, name), link("self", name), "{name}");
    }
    assert!(pod.monitor.user_namespace().is_some());
    assert!(sandbox.pod().await.monitor.user_namespace().is_none());
}

#[tokio::test]
async fn a_lent_process_mounts_layers_with_mapped_owners() {
    let sandbox = Sandbox::new().await;
    let pod = mapped_pod(&sandbox).await;
    let namespace = pod.monitor.user_namespace().map(|fd| fd.as_fd());
    let (below, above) = (sandbox.dir.path().join("rootfs"), sandbox.dir.path().join("above"));
    fs::create_dir(&above).unwrap();
    fs::write(above.join("users"), "x").unwrap();
    chown(above.join("users"), Some(1000), Some(1001)).unwrap();
    let layer = sandbox.dir.path().join("layer");
    for name in ["upper", "work"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    chown(layer.join("upper"), Some(FIRST), Some(FIRST)).unwrap();
    let layers = run::open_mapped_layers(&[above, below], namespace).unwrap();
    let writable = run::open_folder(&layer).unwrap();
    let root = sandbox.spawner.mount_overlay(layers, Some(writable), true, String::new()).await.unwrap();
    let owner = |path| statat(&root, path, AtFlags::EMPTY_PATH).map(|stat| (stat.st_uid, stat.st_gid)).unwrap();
    assert_eq!(owner(""), (FIRST, FIRST));
    assert_eq!(owner("bin/busybox"), (FIRST, FIRST));
    assert_eq!(owner("users"), (FIRST + 1000, FIRST + 1001));
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(&root, "new", flags, Mode::from_raw_mode(0o644)).unwrap();
    assert!(layer.join("upper/new").exists(), "and it can be written to");
    drop(root);

    let nowhere = run::open_folder(&sandbox.dir.path().join("rootfs")).unwrap();
    let layers = run::open_mapped_layers(&[sandbox.dir.path().join("rootfs")], namespace).unwrap();
    let failure =
        sandbox.spawner.mount_overlay(layers, Some(nowhere), true, String::new()).await.unwrap_err().to_string();
    assert!(failure.contains("upperdir"), "the step is told: {failure}");
}
