//! What a container can see and do.

use std::fs;
use std::os::unix::fs::symlink;

use berth::libcontainer::plan::{
    Action, MakeDir, MountFs, MountSource, MoveMount, PathStep, SetMountAttr, Step, Sysctl, Unit,
};
use berth::libcontainer::plan::{FdSource, Missing};
use berth::monitor::client::MonitorError;
use rustix::fs::SealFlags;

use crate::support::{CAPABILITIES, Sandbox, bind, open_sources, step};

#[tokio::test]
async fn a_container_gets_what_the_plan_says() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container(
        "ls /proc/self/fd | tr '\\n' ' '; echo; id -u; id -G; umask; pwd; hostname; cat /proc/self/oom_score_adj; \
         grep -E '^(CapEff|CapBnd|NoNewPrivs|SigIgn|SigBlk)' /proc/self/status; ulimit -n; echo ok > /proc/self/fd/1; \
         cat /proc/sys/net/ipv4/ip_forward",
    );
    container
        .plan
        .steps
        .push(step(Action::Sysctl(Sysctl { key: "net.ipv4.ip_forward".to_owned(), value: "1".to_owned() })));
    let process = &mut container.plan.process;
    (process.uid, process.gid, process.groups) = (1000, 1001, vec![5, 7]);
    (process.cwd, process.umask, process.oom_score_adj) = ("/made/for me".to_owned(), Some(0o027), Some(500));
    process.rlimits = vec![berth::libcontainer::plan::Rlimit { resource: 7, soft: 100, hard: 200 }];
    let capabilities = &mut process.capabilities;
    (capabilities.effective, capabilities.permitted) = (0, 0);
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    pod.exited(&container).await;
    let lines = pod.log(&container).join("\n").replace("stdout F ", "");
    let expected = format!(
        "0 1 2 3 \n1000\n1001 5 7\n0027\n/made/for me\npod-host\n500\nSigBlk:\t0000000000000000\n\
         SigIgn:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t{CAPABILITIES:016x}\nNoNewPrivs:\t1\n100\nok\n1"
    );
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn nothing_of_the_host_is_mounted() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let container = pod.run("cut -d' ' -f2 /proc/mounts; sleep 1000").await;
    pod.until_logged(&container, "/dev/null").await;
    let mut mounts = pod.log(&container);
    mounts.sort();
    let expected = ["/", "/dev", "/dev/null", "/dev/pts", "/dev/shm", "/proc"].map(|path| format!("stdout F {path}"));
    assert_eq!(mounts, expected);
    // And nothing of the container in the host's table.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(container.dir.to_str().unwrap()), "{table}");
}

#[tokio::test]
async fn masked_and_readonly_paths_hold() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container(
        "wc -c < /proc/keys; ls -A /proc/irq | wc -l; touch /proc/irq/x || echo ro-void; \
         echo 1 > /proc/sys/kernel/hostname || echo ro-sys; touch /x || echo ro-root; touch /dev/x && echo rw-dev; \
         cat /proc/keys /proc/timer_list | wc -c",
    );
    let path = |path: &str| PathStep { path: path.to_owned() };
    container.plan.steps.extend([
        step(Action::MaskPath(path("/proc/keys"))),
        step(Action::MaskPath(path("/proc/timer_list"))),
        step(Action::MaskPath(path("/proc/irq"))),
        step(Action::MaskPath(path("/proc/no-such-file"))),
        step(Action::ReadonlyPath(path("/proc/sys"))),
        step(Action::ReadonlyPath(path("/no/such/folder"))),
        step(Action::ReadonlyRoot(Unit {})),
    ]);
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    pod.exited(&container).await;
    let lines: Vec<String> = pod.log(&container).into_iter().filter(|line| line.starts_with("stdout")).collect();
    let expected = ["0", "0", "ro-void", "ro-sys", "ro-root", "rw-dev", "0"].map(|text| format!("stdout F {text}"));
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn proc_cannot_be_covered() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    for target in ["/proc", "/proc/self", "/proc/sys/kernel", "/innocent"] {
        let mut container = pod.container("true");
        // The image's own link leads there as well.
        fs::create_dir_all(container.dir.join("upper")).unwrap();
        symlink("/proc", container.dir.join("upper/innocent")).unwrap();
        container.sources.push(bind(sandbox.dir.path()));
        let source = Some(MountSource::Fd(2));
        container.plan.steps.push(step(Action::MoveMount(MoveMount { source, target: target.to_owned() })));
        let error = pod.create(&container).await.unwrap_err();
        assert!(error.to_string().starts_with("nothing but proc may be mounted on"), "{target}: {error}");
    }
    let mut container = pod.container("true");
    let mount = MountFs { fstype: "proc".to_owned(), target: "/proc".to_owned(), ..MountFs::default() };
    container.plan.steps.push(step(Action::MountFs(mount)));
    pod.create(&container).await.unwrap();
}

/// Also CVE-2023-28642: the image's /proc is a link to where a volume may be.
#[tokio::test]
async fn cve_2019_19921_proc_and_sys_are_folders() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    for (fstype, target) in [("proc", "/proc2"), ("sysfs", "/sys"), ("proc", "/dangling/proc")] {
        let mut container = pod.container("true");
        let upper = container.dir.join("upper");
        fs::create_dir(upper.join("elsewhere")).unwrap();
        symlink("elsewhere", upper.join("proc2")).unwrap();
        symlink("/elsewhere", upper.join("sys")).unwrap();
        symlink("/not-there", upper.join("dangling")).unwrap();
        let mount = MountFs { fstype: fstype.to_owned(), target: target.to_owned(), ..MountFs::default() };
        container.plan.steps.push(step(Action::MountFs(mount)));
        let refused = pod.create(&container).await.expect_err(target).to_string();
        assert!(refused.starts_with("the image has a symbolic link instead of the folder"), "{refused}");
    }
}

#[tokio::test]
async fn links_in_an_image_lead_nowhere_outside() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container("cat /etc/file; ls /run/deep/er");
    let upper = container.dir.join("upper");
    symlink("../../../../../../run", upper.join("up")).unwrap();
    symlink("/run", upper.join("absolute")).unwrap();
    let file = sandbox.dir.path().join("file");
    fs::write(&file, "content\n").unwrap();
    container.sources.push(bind(&file));
    let mount = |index, target: &str| {
        step(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(index)), target: target.to_owned() }))
    };
    container.plan.steps.extend([
        mount(2, "/etc/file"),
        // Both links lead to a folder that does not exist yet: it is made, inside.
        step(Action::MakeDir(MakeDir { path: "/up/deep".to_owned(), mode: 0o755 })),
        step(Action::MakeDir(MakeDir { path: "/absolute/deep/er".to_owned(), mode: 0o755 })),
    ]);
    let host_run = std::path::Path::new("/run/deep").exists();
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    assert_eq!(pod.exited(&container).await.exit_code, 0);
    assert_eq!(pod.log(&container), ["stdout F content"]);
    assert!(container.dir.join("upper/run/deep/er").is_dir());
    assert_eq!(std::path::Path::new("/run/deep").exists(), host_run);
}

/// What the monitor has open must not be a way to programs of the host, for the container could then write to them by
/// /proc/self/exe.
#[tokio::test]
async fn cve_2024_21626_no_file_descriptor_leads_out_of_an_exec() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    fs::copy("/bin/busybox", sandbox.dir.path().join("true")).unwrap();
    for fd in 3..64 {
        // The last is what a procfs of the host would have, and the container's root has not.
        for below in ["../true", "true", "1/root/true", "self/exe"] {
            let program = format!("/proc/self/fd/{fd}/{below}");
            let refused = pod.exec_raw(&container, &program, &[&program]).await;
            assert!(matches!(refused, Err(MonitorError::Init { .. })), "{program} was executed");
        }
    }
}

/// A process on its way to the container's program runs the monitor's: whoever is in the container must not be able to
/// change that, not even when no process runs it any more (which alone would keep writers away).
#[tokio::test]
async fn cve_2019_5736_the_monitors_program_cannot_change() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let container = pod.container("true");
    let init = pod.create(&container).await.unwrap();
    for pid in [init, pod.monitor.pid()] {
        let program = fs::File::open(format!("/proc/{pid}/exe")).unwrap();
        let seals = rustix::fs::fcntl_get_seals(&program).expect("a memory file");
        let wanted = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        assert!(seals.contains(wanted), "{seals:?}");
    }
}

/// Whoever shares a volume with the container may have put anything where /proc is, or on top of it.
#[tokio::test]
async fn cve_2025_52881_what_is_written_to_the_kernel_reaches_the_kernel() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let with_false_proc = || {
        let mut container = pod.container("sleep 1000");
        let is_proc = |step: &Step| matches!(&step.action, Some(Action::MountFs(mount)) if mount.fstype == "proc");
        container.plan.steps.retain(|step| !is_proc(step));
        let own = container.dir.join("upper/proc/self");
        fs::create_dir_all(own.join("attr/apparmor")).unwrap();
        let files = ["oom_score_adj", "attr/exec", "attr/apparmor/exec"].map(|name| own.join(name));
        files.iter().for_each(|file| fs::write(file, "").unwrap());
        (container, files)
    };
    let (mut container, files) = with_false_proc();
    container.plan.process.oom_score_adj = Some(500);
    let pid = pod.create(&container).await.unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "500\n");
    assert!(files.iter().all(|file| fs::read(file).unwrap().is_empty()));
    for (profile, label) in [("no-such-profile", ""), ("", "no:such:label:s0")] {
        let (mut container, files) = with_false_proc();
        let process = &mut container.plan.process;
        (process.apparmor_profile, process.selinux_label) = (profile.to_owned(), label.to_owned());
        let refused = pod.create(&container).await.expect_err("the kernel knows neither");
        assert!(refused.to_string().contains("/proc/self/attr/"), "{refused}");
        assert!(files.iter().all(|file| fs::read(file).unwrap().is_empty()));
    }
}

#[tokio::test]
async fn cve_2025_52565_the_console_covers_nothing_of_proc() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let mut container = pod.container("true");
    // As on a volume at /dev that another container shares.
    let is_dev = |step: &Step| matches!(&step.action, Some(Action::MountFs(mount)) if mount.target == "/dev");
    container.plan.steps.retain(|step| !is_dev(step));
    fs::create_dir_all(container.dir.join("upper/dev")).unwrap();
    symlink("/proc/sys/kernel/domainname", container.dir.join("upper/dev/console")).unwrap();
    container.plan.tty = true;
    let refused = pod.create(&container).await.expect_err("it would cover a file of proc");
    assert!(refused.to_string().starts_with("this leads into proc:"), "{refused}");
}

/// Whether the terminal is one is decided by what is opened, not by its path.
#[tokio::test]
async fn cve_2025_52565_a_false_devpts_gives_no_terminal() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    for kind in ["link", "file", "fifo", "null"] {
        let mut container = pod.container("true");
        let is_pts = |step: &Step| matches!(&step.action, Some(Action::MountFs(mount)) if mount.fstype == "devpts");
        container.plan.steps.retain(|step| !is_pts(step));
        let volume = sandbox.dir.path().join(kind);
        fs::create_dir(&volume).unwrap();
        let ptmx = volume.join("ptmx");
        let node = |kind, device| rustix::fs::mknodat(rustix::fs::CWD, &ptmx, kind, 0o666.into(), device).unwrap();
        match kind {
            "link" => symlink("/proc/self/fd/0", &ptmx).unwrap(),
            "file" => fs::write(&ptmx, "").unwrap(),
            "fifo" => node(rustix::fs::FileType::Fifo, 0),
            _ => node(rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        }
        container.sources.push(bind(&volume));
        let source = Some(MountSource::Fd(2));
        container.plan.steps.push(step(Action::MoveMount(MoveMount { source, target: "/dev/pts".to_owned() })));
        container.plan.tty = true;
        let refused = pod.create(&container).await.expect_err(kind).to_string();
        let expected = if kind == "link" { "open a terminal from" } else { "this is no devpts:" };
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[tokio::test]
async fn a_small_limit_of_files_is_the_programs_alone() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container("true");
    let process = &mut container.plan.process;
    process.oom_score_adj = Some(100);
    process.rlimits = vec![berth::libcontainer::plan::Rlimit { resource: 7, soft: 3, hard: 3 }];
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    assert_eq!(pod.exited(&container).await.exit_code, 0, "{:?}", pod.log(&container));
}

#[tokio::test]
async fn containers_of_a_pod_share_memory_and_a_host_name() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let writer = pod.run("echo shared > /dev/shm/file").await;
    pod.exited(&writer).await;
    let mut reader = pod.container("cat /dev/shm/file; touch /dev/shm/more || echo read-only");
    reader.plan.steps.push(step(Action::SetMountAttr(SetMountAttr {
        path: "/dev/shm".to_owned(),
        set: 1,
        recursive: false,
    })));
    pod.create(&reader).await.unwrap();
    pod.monitor.start(&reader.id).await.unwrap();
    pod.exited(&reader).await;
    let mut lines = pod.log(&reader);
    lines.retain(|line| line.starts_with("stdout"));
    assert_eq!(lines, ["stdout F shared", "stdout F read-only"]);
    let mut lost = pod.container("true");
    lost.plan.steps.push(step(Action::MoveMount(MoveMount {
        source: Some(MountSource::Pod("nothing".to_owned())),
        target: "/x".to_owned(),
    })));
    let Err(MonitorError::Init { path, .. }) = pod.create(&lost).await else { panic!() };
    assert_eq!(path, "/nothing");
}

#[tokio::test]
async fn layers_are_stacked_in_order_and_a_missing_source_is_made() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container("cat /which; ls /volume; touch /volume/x");
    let layers: Vec<_> = (0..100).map(|n| sandbox.dir.path().join(format!("a layer, with: odd \\ name {n}"))).collect();
    for (n, layer) in layers.iter().enumerate() {
        fs::create_dir(layer).unwrap();
        fs::write(layer.join("which"), format!("{n}\n")).unwrap();
    }
    let FdSource::Overlay(overlay) = &mut container.sources[0] else { panic!() };
    overlay.lower.splice(0..0, layers);
    let volume = sandbox.dir.path().join("not/there/yet");
    let mut source = bind(&volume);
    let FdSource::Bind(bind) = &mut source else { panic!() };
    bind.missing = Missing::Fail;
    let error = open_sources(&[source.clone()]).unwrap_err();
    assert_eq!(error.path, volume);
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOENT));
    let FdSource::Bind(bind) = &mut source else { panic!() };
    (bind.missing, bind.attributes.set) = (Missing::MakeDir, 1);
    container.sources.push(source);
    let source = Some(MountSource::Fd(2));
    container.plan.steps.push(step(Action::MoveMount(MoveMount { source, target: "/volume".to_owned() })));
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    pod.exited(&container).await;
    let mut lines = pod.log(&container);
    lines.sort();
    assert_eq!(lines, ["stderr F touch: /volume/x: Read-only file system", "stdout F 0"]);
}

/// The attribute can be written where SELinux is off, too; no label of a real policy, so that nothing comes to mean something.
#[test]
fn a_volume_is_relabelled_and_what_its_links_lead_to_is_not() {
    const LABEL: &str = "of:a:test:s0";
    let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |path: &std::path::Path| fs::write(path, "").unwrap();
    fs::create_dir_all(volume.path().join("a/b")).unwrap();
    file(&volume.path().join("a/b/file"));
    file(&outside.path().join("file"));
    symlink(outside.path(), volume.path().join("a/folder-link")).unwrap();
    symlink(outside.path().join("file"), volume.path().join("file-link")).unwrap();
    symlink("/no/such/file", volume.path().join("dangling")).unwrap();
    let label_of = |path: &std::path::Path| {
        let mut label = [0u8; 64];
        let len = rustix::fs::lgetxattr(path, "security.selinux", &mut label).unwrap_or(0);
        String::from_utf8_lossy(&label[..len]).into_owned()
    };
    let relabel = |path: &std::path::Path| {
        let FdSource::Bind(mut source) = bind(path) else { panic!() };
        source.relabel = Some(LABEL.to_owned());
        open_sources(&[FdSource::Bind(source)])
    };
    for _ in 0..2 {
        relabel(volume.path()).unwrap();
        for name in ["", "a", "a/b", "a/b/file", "a/folder-link", "file-link", "dangling"] {
            assert_eq!(label_of(&volume.path().join(name)), LABEL, "{name}");
        }
    }
    assert_eq!((label_of(outside.path()), label_of(&outside.path().join("file"))), (String::new(), String::new()));
    relabel(&volume.path().join("a/folder-link")).unwrap();
    assert_eq!(label_of(&outside.path().join("file")), LABEL, "the source itself may be a link");
    symlink("/usr", volume.path().join("system")).unwrap();
    let refused = relabel(&volume.path().join("system")).unwrap_err();
    assert!(refused.source.to_string().contains("node's own folders"), "{refused}");
    let deep = (0..300).fold(volume.path().to_owned(), |path, _| path.join("d"));
    fs::create_dir_all(deep).unwrap();
    assert!(relabel(volume.path()).unwrap_err().source.to_string().contains("256 folders"));
}

#[tokio::test]
async fn a_filter_is_loaded_with_and_without_new_privileges() {
    /// `BPF_RET | BPF_K` SECCOMP_RET_ALLOW.
    const ALLOW: [u8; 8] = [0x06, 0, 0, 0, 0, 0, 0xff, 0x7f];
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    for (no_new_privileges, uid) in [(true, 0), (true, 1000), (false, 0), (false, 1000)] {
        let script = "grep -E '^(CapEff|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\n\\t'";
        let mut container = pod.container(script);
        let process = &mut container.plan.process;
        (process.seccomp_filter, process.no_new_privileges, process.uid) = (ALLOW.repeat(3), no_new_privileges, uid);
        // CAP_NET_BIND_SERVICE, which a user other than root keeps only as ambient.
        let capabilities = &mut process.capabilities;
        (capabilities.effective, capabilities.permitted) = (1 << 10, 1 << 10);
        (capabilities.inheritable, capabilities.ambient) = (1 << 10, 1 << 10);
        capabilities.bounding = 1 << 10;
        pod.create(&container).await.unwrap();
        pod.monitor.start(&container.id).await.unwrap();
        pod.exited(&container).await;
        let nnp = u8::from(no_new_privileges);
        let expected = format!("stdout P CapEff:{0:016x}CapAmb:{0:016x}NoNewPrivs:{nnp}Seccomp:2", 1 << 10);
        assert_eq!(pod.log(&container), [expected], "{no_new_privileges} {uid}");
    }
    let mut broken = pod.container("true");
    broken.plan.process.seccomp_filter = vec![0xff; 16];
    pod.create(&broken).await.unwrap();
    let error = pod.monitor.start(&broken.id).await.unwrap_err();
    assert_eq!(error.to_string(), "load the seccomp filter: Invalid argument (os error 22)");
}
