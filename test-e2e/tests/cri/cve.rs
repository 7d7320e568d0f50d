//! Ways out of a container that runtimes have had. Each test is named after the advisory whose attack it tries; the image, the
//! request or what already runs in the container is the attacker's. docs/security.md has the list.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use cri_api::v1;
use serde_json::{Value, json};
use test_e2e::cri_log::Stream;
use test_e2e::fixture::{Fixture, seconds};
use test_e2e::image::{self, Compression, Format, Layer};
use test_e2e::spec::{self, bind, capabilities, int, security};

/// An image with a layer and configuration of the attacker's on top of busybox; pulled.
async fn hostile_image(e2e: &Fixture, name: &str, fill: impl FnOnce(&mut Layer), config: &[(&str, Value)]) -> String {
    let mut layer = Layer::new();
    layer.file("made-for", name.as_bytes(), 0o644).expect("file");
    fill(&mut layer);
    let blob = layer.finish(Compression::Gzip).expect("layer");
    let image = image::busybox(Format::Oci).expect("busybox").layer(blob);
    let image = config.iter().fold(image, |image, (field, value)| image.set(field, value.clone()));
    let reference = e2e.registry().push(&format!("e2e/cve-{name}"), "1", &image.build()).expect("push");
    e2e.client.pull(&reference).await.expect("pull");
    reference
}

fn of_image(config: &mut v1::ContainerConfig, reference: &str) {
    config.image = Some(v1::ImageSpec { image: reference.to_owned(), ..Default::default() });
}

/// What a script printed in a container of its own; `None` when the runtime refused to create or to start it.
async fn said(
    e2e: &Fixture,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut v1::ContainerConfig),
) -> Option<String> {
    let pod = e2e.pod(name).await;
    let container = pod.try_create("main", &["sh", "-c", script], change).await.ok()?;
    e2e.client.start_container(&container.id).await.ok()?;
    container.wait_exit().await;
    Some(container.written(Stream::Stdout))
}

/// A folder on the host with a file in it that no container was given.
fn secret(e2e: &Fixture) -> PathBuf {
    let folder = e2e.folder("secret");
    std::fs::write(folder.join("secret"), "of the host\n").expect("file");
    folder
}

/// The volume at /dev is the attacker's, and what its `null` is a link to would show where a path is to be hidden.
#[tokio::test]
async fn cve_2025_31133_masks_are_not_what_dev_null_leads_to() {
    let e2e = Fixture::shared().await;
    let dev = e2e.folder("dev");
    std::os::unix::fs::symlink("/etc/passwd", dev.join("null")).expect("link");
    let script = "cat /proc/meminfo; cat /proc/keys; sleep 0";
    let output = said(&e2e, "cve-31133", script, |config| {
        config.mounts = vec![bind(&dev, "/dev", false)];
        security(config).masked_paths = vec!["/proc/meminfo".into(), "/proc/keys".into()];
    })
    .await;
    assert!(matches!(output.as_deref(), None | Some("")), "{output:?}");
}

/// What masks a path and what is standard input where the container has no /dev/null: not the host's own device, whose mode
/// the container could then change.
#[tokio::test]
async fn strict_cve_2025_31133_no_mask_is_the_hosts_null_device() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let e2e = Fixture::shared().await;
    let hosts = || e2e.inside(|| std::fs::metadata("/dev/null").expect("/dev/null"));
    let before = hosts().mode();
    let (_pod, container) = e2e
        .run_with("cve-31133-null", &["sleep", "1000"], |config| {
            security(config).masked_paths = vec!["/proc/meminfo".into()];
        })
        .await;
    container.exec(&["sh", "-c", "chmod 667 /proc/meminfo; chown 12345 /proc/meminfo"]).await;
    container.exec(&["rm", "/dev/null"]).await;
    container.exec(&["sh", "-c", "chmod 667 /proc/self/fd/0 2>&1"]).await;
    let after = hosts();
    if after.mode() != before || after.uid() != 0 {
        // It is everybody's.
        e2e.inside(|| {
            std::fs::set_permissions("/dev/null", std::fs::Permissions::from_mode(before & 0o7777)).expect("mode");
            std::os::unix::fs::chown("/dev/null", Some(0), Some(0)).expect("owner");
        });
        panic!("the host's /dev/null became {:o} of {}", after.mode(), after.uid());
    }
}

/// The container's root has put a folder of its own over /proc. What the runtime writes there about a new process must
/// reach the kernel, not the file that a link of the attacker's names.
#[tokio::test]
async fn strict_cve_2025_52881_exec_writes_nothing_to_a_false_proc() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod_with("cve-52881", |config| spec::pod_security(config).privileged = true).await;
    let container = pod
        .start_with("main", &["sleep", "1000"], |config| {
            security(config).privileged = true;
            spec::resources(config).oom_score_adj = 321;
        })
        .await;
    let script = "mkdir -p /false/self/attr/apparmor && cd /false/self && echo untouched > /victim && \
        for file in oom_score_adj loginuid attr/exec attr/apparmor/exec; do ln -s /victim $file; done && \
        mount --bind /false /proc";
    container.sh(script).await;
    // A runtime that finds no proc there may refuse; it may not write.
    let _ = e2e.client.exec(&container.id, &["true"], seconds(10)).await;
    assert_eq!(container.sh("umount /proc && cat /victim").await, "untouched\n");
}

/// A working directory that is a link to what the runtime has open.
#[tokio::test]
async fn strict_cve_2024_21626_the_working_directory_is_inside() {
    let e2e = Fixture::shared().await;
    for number in 3..24 {
        let path = format!("/proc/self/fd/{number}");
        let image = hostile_image(&e2e, &format!("cwd-{number}"), |_| {}, &[("WorkingDir", json!(path))]).await;
        let output = said(&e2e, "cve-21626", "pwd; ls -d ../../etc", |config| of_image(config, &image)).await;
        assert_eq!(output, None, "{path}");
    }
    let volume = e2e.folder("cwd");
    let (_pod, container) = e2e
        .run_with("cve-21626-exec", &["sleep", "1000"], |config| {
            config.working_dir = "/work/here".into();
            config.mounts = vec![bind(&volume, "/work", false)];
        })
        .await;
    std::fs::remove_dir(volume.join("here")).expect("made for the container");
    for number in 3..24 {
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), volume.join("here")).expect("link");
        // A procfs of the host has this file; seen from the container's root there is none of that name.
        let look = ["/bin/sh", "-c", "cat sys/kernel/core_pattern"];
        let looked = e2e.client.exec(&container.id, &look, seconds(10)).await;
        // It may be allowed where the link leads to the container's own root.
        let shown = looked.map(|output| output.stdout).unwrap_or_default();
        assert!(shown.is_empty(), "an exec in /proc/self/fd/{number} saw {shown:?}");
        std::fs::remove_file(volume.join("here")).expect("link");
    }
}

/// Swaps a folder on a shared volume for a link, again and again, until it is dropped.
struct Swapping {
    ended: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapping {
    fn start(one: PathBuf, other: PathBuf) -> Swapping {
        let ended = std::sync::Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let thread = std::thread::spawn(move || {
            let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            while !seen.load(Ordering::Relaxed) {
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &one, nix::fcntl::AT_FDCWD, &other, exchange)
                    .expect("swap");
            }
        });
        Swapping { ended, thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Also CVE-2024-45310. A mount point on a shared volume becomes a link while the mount is being made: nothing is mounted on
/// proc, nothing of the host shows, and nothing is made on the host.
#[tokio::test]
async fn cve_2021_30465_a_mount_point_that_becomes_a_link() {
    let e2e = Fixture::shared().await;
    let (volume, inner) = (e2e.folder("swapped"), e2e.folder("inner"));
    let outside = e2e.folder("outside");
    std::fs::write(inner.join("inner"), "").expect("file");
    std::fs::create_dir(volume.join("target")).expect("folder");
    let climb = format!("../../../../../..{}", outside.display());
    for (link, leads_to) in [("to-proc", "/proc/tty"), ("up", climb.as_str())] {
        std::os::unix::fs::symlink(leads_to, volume.join(link)).expect("link");
    }
    let attempt = async |name: &str, target: &str| {
        let script = "cut -d' ' -f5 /proc/self/mountinfo; find / -xdev -name secret";
        let mounts = vec![bind(&volume, "/vol", false), bind(&inner, &format!("/vol/{target}"), false)];
        let output = said(&e2e, name, script, |config| {
            config.mounts = mounts;
            security(config).masked_paths = vec!["/proc/keys".into()];
            security(config).readonly_paths = vec!["/proc/sys".into()];
        })
        .await;
        let output = output.unwrap_or_default();
        let on_proc: Vec<&str> = output.lines().filter(|line| line.starts_with("/proc/")).collect();
        assert!(on_proc.iter().all(|line| ["/proc/keys", "/proc/sys"].contains(line)), "{target}: {output}");
        assert!(!output.contains("secret"), "{target}: {output}");
        let left: Vec<_> = std::fs::read_dir(&outside).expect("outside").collect();
        assert!(left.is_empty(), "{target}: {left:?}");
    };
    // As if the attacker had won, then the race itself.
    attempt("cve-30465-proc", "to-proc").await;
    attempt("cve-30465-up", "up/made-by-the-runtime").await;
    for link in ["to-proc", "up"] {
        let _swapping = Swapping::start(volume.join("target"), volume.join(link));
        for round in 0..8 {
            attempt(&format!("cve-30465-{round}"), "target/x").await;
            attempt(&format!("cve-30465-{round}-itself"), "target").await;
        }
    }
}

/// The image says which of its folders are volumes. A runtime that fills them from the image must not follow them out.
#[tokio::test]
async fn cve_2022_23648_an_images_volumes_show_nothing_of_the_host() {
    let e2e = Fixture::shared().await;
    let secret = secret(&e2e);
    let path = secret.display();
    let volumes = json!({ format!("/../../../../../../../..{path}"): {}, format!("{path}"): {}, "/link": {} });
    let fill = |layer: &mut Layer| {
        layer.symlink("link", &format!("../../../../../../..{path}")).expect("link");
    };
    let image = hostile_image(&e2e, "volumes", fill, &[("Volumes", volumes)]).await;
    let script = format!("cat {path}/secret /link/secret; find / -xdev -name secret; cut -d' ' -f5 /proc/mounts");
    let output = said(&e2e, "cve-23648", &script, |config| of_image(config, &image)).await.unwrap_or_default();
    assert!(!output.contains("of the host") && !output.contains("secret/secret"), "{output}");
}

/// A sysctl that carries another one, which the whole node would feel.
#[tokio::test]
async fn cve_2022_0811_a_sysctl_carries_no_other() {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    let e2e = Fixture::shared().await;
    let before = std::fs::read_to_string(PATTERN).expect("core_pattern");
    let smuggled = [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=evil"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=evil"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "evil"),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "evil"),
        ("net.ipv4.ip_forward\nkernel.core_pattern", "evil"),
        ("net/../kernel/core_pattern", "evil"),
        ("kernel.core_pattern", "evil"),
    ];
    for (key, value) in smuggled {
        let asked = [(key.to_owned(), value.to_owned())].into();
        let refused = e2e.try_pod("cve-0811", |config| config.linux.get_or_insert_default().sysctls = asked).await;
        let after = std::fs::read_to_string(PATTERN).expect("core_pattern");
        if after != before {
            std::fs::write(PATTERN, &before).expect("put back");
            panic!("{key:?} = {value:?} made core_pattern {after:?}");
        }
        assert!(refused.is_err(), "{key:?} = {value:?}");
    }
}

/// A command that writes without end is somebody else's memory.
#[tokio::test]
async fn strict_cve_2022_1708_output_without_end_costs_no_memory() {
    const WRITTEN: usize = 1 << 29;
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("cve-1708", &["sleep", "1000"]).await;
    let agent = e2e.machine.agent.is_some().then(|| e2e.agent().pid);
    let peak = || agent.map_or(0, peak_of_memory);
    let before = peak();
    let script = format!("head -c {WRITTEN} /dev/zero; head -c 100000000 /dev/zero >&2");
    let response = e2e.client.exec(&container.id, &["sh", "-c", &script], seconds(110)).await.expect("exec");
    assert!(response.stdout.len() + response.stderr.len() <= 16 << 20, "more than a message");
    // Other tests' requests are in it, too.
    let grown = peak() - before;
    assert!(grown < (WRITTEN / 2) as u64, "{grown} bytes more");
}

/// VmHWM of proc_pid_status(5), in bytes.
fn peak_of_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Ids that are too large for the kernel's become root's when they are cut to 32 bits.
#[tokio::test]
async fn cve_2024_40635_an_id_that_overflows_is_not_root() {
    let e2e = Fixture::shared().await;
    for (index, user) in
        ["4294967296", "4294967296:4294967296", "1000:4294967296", "18446744073709551616"].into_iter().enumerate()
    {
        let image = hostile_image(&e2e, &format!("user-{index}"), |_| {}, &[("User", json!(user))]).await;
        let output = said(&e2e, "cve-40635-image", "id -u; id -G", |config| of_image(config, &image)).await;
        let ids = output.as_deref().unwrap_or("refused").split_whitespace();
        assert!(!ids.into_iter().any(|id| id == "0"), "{user}: {output:?}");
    }
    type Change = fn(&mut v1::LinuxContainerSecurityContext);
    let changes: [Change; 4] = [
        |context| context.run_as_user = int(1 << 32),
        |context| context.run_as_user = int(-(1 << 32)),
        |context| (context.run_as_user, context.run_as_group) = (int(1), int(1 << 32)),
        |context| (context.run_as_user, context.supplemental_groups) = (int(1000), vec![1 << 32]),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let output = said(&e2e, "cve-40635", "id -u; id -G", |config| change(security(config))).await;
        let ids = output.as_deref().unwrap_or("refused").split_whitespace();
        assert!(!ids.into_iter().any(|id| id == "0"), "{index}: {output:?}");
    }
}

/// Also CVE-2022-24769. What is inheritable is given to every program with file capabilities, whoever runs it.
#[tokio::test]
async fn cve_2022_29162_no_capability_is_inheritable() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e
        .run_with("cve-29162", &["sleep", "1000"], |config| {
            security(config).capabilities = capabilities(&["NET_ADMIN"], &[]);
        })
        .await;
    let of = |pid: &str| format!("grep -E '^Cap(Inh|Amb)' /proc/{pid}/status | cut -f2");
    let none = "0000000000000000\n0000000000000000\n";
    assert_eq!((container.sh(&of("1")).await, container.sh(&of("self")).await), (none.into(), none.into()));
}

#[tokio::test]
async fn cve_2023_25809_cgroups_cannot_be_written_to() {
    let e2e = Fixture::shared().await;
    let script = "cd /sys/fs/cgroup && for folder in . */; do \
        mkdir $folder/e2e && echo made $folder; echo 0 > $folder/cgroup.procs && echo wrote $folder; done; echo end";
    let output = said(&e2e, "cve-25809", script, |_| {}).await;
    assert_eq!(output.as_deref(), Some("end\n"));
}

/// Also CVE-2023-28642. The image's /proc is a link to a volume that somebody else can change.
#[tokio::test]
async fn cve_2019_19921_an_images_proc_is_no_link() {
    let e2e = Fixture::shared().await;
    for (name, target) in [("relative", "vol/proc"), ("absolute", "/vol/proc")] {
        let fill = |layer: &mut Layer| drop(layer.symlink("proc", target));
        let image = hostile_image(&e2e, &format!("proc-{name}"), fill, &[]).await;
        let volume = e2e.folder("false-proc");
        let output = said(&e2e, "cve-19921", "echo ran", |config| {
            of_image(config, &image);
            config.mounts = vec![bind(&volume, "/vol", false)];
        })
        .await;
        assert_eq!(output, None, "{name}");
        assert_eq!(std::fs::read_dir(&volume).expect("volume").count(), 0, "nothing was made in it");
    }
}

/// A volume on parts of proc would be what labels are written to.
#[tokio::test]
async fn cve_2019_16884_volumes_cover_nothing_of_proc() {
    let e2e = Fixture::shared().await;
    let volume = e2e.folder("over-proc");
    let fill = |layer: &mut Layer| drop(layer.symlink("innocent", "/proc/self"));
    let image = hostile_image(&e2e, "over-proc", fill, &[]).await;
    for target in ["/proc", "/proc/self", "/proc/self/attr", "/tmp/../proc/1", "/proc/sys/kernel", "/innocent/attr"] {
        let output = said(&e2e, "cve-16884", "echo ran", |config| {
            of_image(config, &image);
            config.mounts = vec![bind(&volume, target, false)];
        })
        .await;
        assert_eq!(output, None, "{target}");
    }
}

/// The image's account files are whatever its maker likes; they are read before anything is confined.
#[tokio::test]
async fn strict_cve_2025_4437_account_files_may_be_anything() {
    const ROOT: &str = "evil:x:0:0::/:/bin/sh\n";
    let e2e = Fixture::shared().await;
    let outside = e2e.folder("accounts").join("passwd");
    std::fs::write(&outside, ROOT).expect("file");
    let outside = outside.display().to_string();
    let huge = [ROOT.as_bytes(), &vec![b'x'; 20 << 20]].concat();
    type Fill<'a> = Box<dyn Fn(&mut Layer) + 'a>;
    let files: [(&str, Fill<'_>); 4] = [
        ("link-out", Box::new(|layer| drop(layer.symlink("etc/passwd", &outside)))),
        ("device", Box::new(|layer| drop(layer.symlink("etc/passwd", "/dev/zero")))),
        ("folder", Box::new(|layer| drop(layer.folder("etc/passwd/x", 0o755)))),
        ("huge", Box::new(|layer| drop(layer.file("etc/passwd", &huge, 0o644)))),
    ];
    for (name, fill) in files {
        let image = hostile_image(&e2e, &format!("passwd-{name}"), |layer| fill(layer), &[]).await;
        let output = said(&e2e, "cve-4437", "id -u", |config| {
            of_image(config, &image);
            security(config).run_as_username = "evil".into();
        })
        .await;
        assert_eq!(output, None, "{name}");
    }
}
