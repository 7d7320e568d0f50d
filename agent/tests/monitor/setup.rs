//! What a process on its way to its program has open: a neighbour in its PID namespace may take it from there.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use berth::libcontainer::plan::{Action, MountFs, Step, Sysctl};
use berth::monitor::client::{ExecRequest, MonitorError};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount,
};

use crate::support::{Container, Pod, Sandbox, open, process, step};

/// A working directory on a file system whose server does not answer: who enters it waits.
const DEAF: &str = "/deaf/x";
/// PROC_SUPER_MAGIC.
const PROC: i64 = 0x9fa0;

/// FUSE. Whoever waits gets an error when the device is closed.
fn deaf_file_system() -> (OwnedFd, File) {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let fd = device.as_raw_fd().to_string();
    for (key, value) in [("fd", fd.as_str()), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
        fsconfig_set_string(&context, key, value).unwrap();
    }
    fsconfig_create(&context).unwrap();
    (fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap(), device)
}

/// Puts it on /deaf of a running container.
fn mount_in(pid: i32, deaf: &OwnedFd) {
    let namespace = open(Path::new(&format!("/proc/{pid}/ns/mnt")));
    std::thread::scope(|scope| {
        let enter = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            move_mount(deaf, "", CWD, "/deaf", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        };
        scope.spawn(enter);
    });
}

/// The only process of a cgroup, once it waits in this system call.
async fn waiting_in(pod: &Pod<'_>, cgroup: &Path, call: i64) -> i32 {
    let mut found = 0;
    pod.until(|| {
        let Ok(text) = fs::read_to_string(cgroup.join("cgroup.procs")) else { return false };
        let Some(pid) = text.lines().next().and_then(|line| line.parse::<i32>().ok()) else { return false };
        found = pid;
        fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| text.starts_with(&format!("{call} ")))
    })
    .await;
    found
}

fn has_a_procfs(pid: i32) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let types: Vec<i64> = fds.filter_map(|fd| rustix::fs::statfs(fd.path()).ok()).map(|stat| stat.f_type).collect();
    assert!(types.len() > 3, "it has its pipes and its socket: {types:x?}");
    types.contains(&PROC)
}

#[tokio::test]
async fn no_exec_has_the_hosts_procfs() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let container = pod.container("sleep 1000");
    fs::create_dir(container.dir.join("upper/deaf")).unwrap();
    let pid = pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    let (deaf, device) = deaf_file_system();
    mount_in(pid, &deaf);
    let mut process = process(&["/bin/true"]);
    (process.cwd, process.oom_score_adj) = (DEAF.to_owned(), Some(345));
    let exec = ExecRequest {
        container: container.id.clone(),
        exec: "deaf".to_owned(),
        process,
        tty: false,
        stdin: None,
        stdout: None,
        stderr: None,
    };
    let seen = async {
        pod.until(|| !container.exec_cgroups().is_empty()).await;
        let pid = waiting_in(&pod, &container.exec_cgroups()[0], libc::SYS_chdir).await;
        let seen = (has_a_procfs(pid), fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap());
        drop(device);
        seen
    };
    let (failed, (has_a_procfs, adjustment)) = tokio::join!(pod.monitor.exec(exec), seen);
    assert!(matches!(&failed, Err(MonitorError::Init { path, .. }) if path == DEAF), "{failed:?}");
    assert!(!has_a_procfs);
    assert_eq!(adjustment, "345\n");
    // It was the child's own.
    let monitor = fs::read_to_string(format!("/proc/{}/oom_score_adj", pod.monitor.pid())).unwrap();
    assert_ne!(monitor, "345\n");
}

/// What is asked for an exec before it is cloned is refused as plainly as what it asks for itself.
#[tokio::test]
async fn an_execs_label_is_asked_of_the_kernel() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    for (profile, label) in [("no-such-profile", ""), ("", "no:such:label:s0")] {
        let mut process = process(&["/bin/true"]);
        (process.apparmor_profile, process.selinux_label) = (profile.to_owned(), label.to_owned());
        let exec = ExecRequest {
            container: container.id.clone(),
            exec: "labelled".to_owned(),
            process,
            tty: false,
            stdin: None,
            stdout: None,
            stderr: None,
        };
        let refused = pod.monitor.exec(exec).await.expect_err("the kernel knows neither").to_string();
        assert!(refused.contains("/proc/self/attr/"), "{refused}");
    }
    assert_eq!(pod.exec(&container, "echo on").await, (0, "on\n".to_owned()));
}

/// An adjustment that the kernel refuses leaves nothing of the container.
#[tokio::test]
async fn a_refused_oom_adjustment_is_told() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let mut container = pod.container("true");
    container.plan.process.oom_score_adj = Some(1001);
    let refused = pod.create(&container).await;
    let Err(MonitorError::Init { step, errno, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!((step.starts_with("write \"1001\" to"), *errno), (true, libc::EINVAL), "{refused:?}");
    assert!(pod.monitor.inspect().await.unwrap().containers.is_empty());
    assert!(crate::support::cgroup_is_empty(&container.cgroup));
    let container = pod.run("true").await;
    pod.exited(&container).await;
}

fn with_sysctl(pod: &Pod<'_>, script: &str) -> Container {
    let mut container = pod.container(script);
    let (key, value) = ("net.ipv4.ip_default_ttl".to_owned(), "77".to_owned());
    container.plan.steps.push(step(Action::Sysctl(Sysctl { key, value })));
    container
}

#[tokio::test]
async fn a_containers_sysctl_is_set_by_its_own_procfs() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = with_sysctl(&pod, "cat /proc/sys/net/ipv4/ip_default_ttl");
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    pod.exited(&container).await;
    assert_eq!(pod.log(&container), ["stdout F 77"]);
}

/// CVE-2025-52881: what is at /proc, or on a part of it, may be anything.
#[tokio::test]
async fn no_sysctl_is_written_to_what_is_no_procfs() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let mut container = with_sysctl(&pod, "true");
    let is_proc =
        |step: &Step| matches!(&step.action, Some(Action::MountFs(MountFs { fstype, .. })) if fstype == "proc");
    container.plan.steps.retain(|step| !is_proc(step));
    let file = container.dir.join("upper/proc/sys/net/ipv4/ip_default_ttl");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "").unwrap();
    let refused = pod.create(&container).await.expect_err("it is no procfs").to_string();
    assert!(refused.starts_with("there is no procfs to set"), "{refused}");
    assert!(fs::read(&file).unwrap().is_empty());
}
