//! The CRI log.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use berth::libcontainer::plan::{Action, MountSource, MoveMount};
use berth::monitor::client::{CgroupFds, CreateContainer, LogTarget, MonitorError, MonitorEvent};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use crate::support::{Container, Pod, Sandbox, bind, open, open_sources, step};

/// Bytes of lines from 0 to 70,000 long, and no newline at the end.
fn write_lines(path: &Path, total: usize) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut state, mut written) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    let mut line = Vec::new();
    while written < total {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let len = match state % 16 {
            0 => state as usize / 16 % 70_000,
            1 => 16_384 + (state as usize / 16 % 3),
            n => n as usize * 11 % 160,
        };
        line.clear();
        line.extend((0..len).map(|i| match (state as usize >> 8).wrapping_add(i * 7) as u8 {
            b'\n' => b'\r',
            byte => byte,
        }));
        line.push(b'\n');
        file.write_all(&line).unwrap();
        written += line.len();
    }
    file.write_all(b"and no newline").unwrap();
}

/// Puts a log's pieces together again and compares with the file; the number of lines.
fn compare(log: &Path, expected: &Path) -> usize {
    let (mut text, mut wanted) = (Vec::new(), Vec::new());
    File::open(log).unwrap().read_to_end(&mut text).unwrap();
    File::open(expected).unwrap().read_to_end(&mut wanted).unwrap();
    let (mut rest, mut lines, mut at) = (text.as_slice(), 0, 0);
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a log ends with a newline");
        let (line, tail) = (&rest[..end], &rest[end + 1..]);
        assert!(line[29] == b'Z' && &line[30..38] == b" stdout " && line[39] == b' ', "{:?}", line.get(..40));
        let piece = &line[40..];
        assert!(piece.len() <= 16 * 1024);
        assert!(wanted[at..].starts_with(piece), "line {lines} differs at byte {at}");
        at += piece.len();
        match line[38] {
            b'F' => {
                assert_eq!(wanted[at], b'\n');
                at += 1;
            }
            tag => assert!(tag == b'P' && (piece.len() == 16 * 1024 || tail.is_empty())),
        }
        (rest, lines) = (tail, lines + 1);
    }
    assert_eq!(at, wanted.len(), "the log ends early");
    lines
}

async fn print_file(total: usize) {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let data = sandbox.dir.path().join("data");
    write_lines(&data, total);
    let mut container = pod.container("exec cat /data");
    container
        .plan
        .steps
        .push(step(Action::MoveMount(MoveMount { source: Some(MountSource::Fd(2)), target: "/data".to_owned() })));
    container.sources.push(bind(&data));
    pod.create(&container).await.unwrap();
    let begun = std::time::Instant::now();
    pod.monitor.start(&container.id).await.unwrap();
    assert_eq!(pod.exited(&container).await.exit_code, 0);
    let took = begun.elapsed();
    let lines = compare(&container.dir.join("log/0.log"), &data);
    println!("{total} bytes in {lines} lines: {took:?}");
}

#[tokio::test]
async fn no_byte_is_lost() {
    print_file(8 << 20).await;
}

#[tokio::test]
#[ignore = "200 MB: run with --ignored"]
async fn no_byte_of_200_mb_is_lost() {
    print_file(200 << 20).await;
}

#[tokio::test]
async fn a_reopened_log_goes_on_without_a_gap() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; sleep 0.1; echo end").await;
    let log = container.dir.join("log/0.log");
    for n in 1..=5 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        fs::rename(&log, container.dir.join(format!("log/old.{n}"))).unwrap();
        pod.monitor.reopen_log(&container.id, container.log_target("0.log")).await.unwrap();
        assert!(log.exists(), "the new file is there when reopen returns");
    }
    pod.exited(&container).await;
    let mut lines: Vec<String> = (1..=5).flat_map(|n| container.log(&format!("old.{n}"))).collect();
    lines.extend(container.log("0.log"));
    let expected = (0..3000).map(|i| format!("stdout F {i}")).chain(["stdout F end".to_owned()]);
    assert!(lines.into_iter().eq(expected));
    fs::remove_file(&log).unwrap();
    let late = pod.monitor.reopen_log(&container.id, container.log_target("0.log")).await;
    assert!(matches!(late, Err(MonitorError::WrongState(_))), "{late:?}");
    assert!(!log.exists(), "a container that does not run gets no log");
}

/// A tiny tmpfs that is mounted nowhere.
fn tiny_disk() -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", "64k").unwrap();
    fsconfig_create(&context).unwrap();
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

#[tokio::test]
async fn a_full_disk_harms_no_container_and_tears_no_line() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let (full, roomy) = (tiny_disk(), tiny_disk());
    let target = |disk: &OwnedFd| LogTarget { dir: disk.try_clone().unwrap(), name: "0.log".to_owned() };
    let container = pod.container(
        "yes 0123456789 | head -n 20000; touch /through; while ! [ -e /go ]; do sleep 0.02; done; echo last",
    );
    let create = CreateContainer {
        id: container.id.clone(),
        plan: container.plan.clone(),
        fds: open_sources(&container.sources).unwrap(),
        cgroup: CgroupFds { unified: Some(open(&container.cgroup)), ..CgroupFds::default() },
        log: Some(target(&full)),
        record_dir: open(&container.dir),
        runtime: None,
    };
    pod.monitor.create(create).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    // It gets through its 220,000 bytes although the disk has 65,536.
    pod.until(|| container.dir.join("upper/through").exists()).await;
    pod.exec(&container, "sleep 0.05").await;
    pod.monitor.reopen_log(&container.id, target(&roomy)).await.unwrap();
    pod.exec(&container, "touch /go").await;
    assert_eq!(pod.exited(&container).await.exit_code, 0);
    let is_marker = |line: &str| line.starts_with(" stderr F [berth: ") && line.ends_with(" not be written here]");
    let text = read(&full);
    let is_whole = |line: &str| line.get(30..).is_some_and(|line| line == " stdout F 0123456789" || is_marker(line));
    assert!(text.ends_with('\n') && text.lines().all(is_whole), "a line is torn");
    // What is missing is told before what comes next: at the end of the old file, where a short line may still have had
    // room, or at the beginning of the new one.
    let told_there = text.lines().last().is_some_and(|line| is_marker(&line[30..]));
    let text = read(&roomy);
    let lines: Vec<&str> = text.lines().map(|line| &line[30..]).collect();
    match lines.as_slice() {
        [marker, " stdout F last"] => assert!(is_marker(marker), "{text}"),
        [" stdout F last"] => assert!(told_there, "{text}"),
        _ => panic!("{text}"),
    }
}

/// A file system that can be frozen, mounted nowhere.
struct Disk {
    root: OwnedFd,
    device: String,
}

impl Disk {
    fn new(sandbox: &Sandbox) -> Self {
        let image = sandbox.dir.path().join("disk");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        command("mkfs.ext4", &["-q", image.to_str().unwrap()]);
        let device = command("losetup", &["--find", "--show", image.to_str().unwrap()]).trim().to_owned();
        let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(&context, "source", &device).unwrap();
        fsconfig_create(&context).unwrap();
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        Self { root, device }
    }

    fn frozen(&self, frozen: bool) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd());
        let how = if frozen { "--freeze" } else { "--unfreeze" };
        command("fsfreeze", &[how, &path]);
    }

    fn target(&self, name: &str) -> LogTarget {
        LogTarget { dir: self.root.try_clone().unwrap(), name: name.to_owned() }
    }

    /// The log's lines without their times.
    fn lines(&self, name: &str) -> Vec<String> {
        read_file(&self.root, name).lines().map(|line| line[31..].to_owned()).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd());
        // Of a test that failed; whoever hangs in it would be there for ever.
        let _ = Command::new("fsfreeze").args(["--unfreeze", &path]).stderr(Stdio::null()).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn command(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn run_logging_to(pod: &Pod<'_>, script: &str, log: LogTarget) -> Container {
    let container = pod.container(script);
    let create = CreateContainer {
        id: container.id.clone(),
        plan: container.plan.clone(),
        fds: open_sources(&container.sources).unwrap(),
        cgroup: CgroupFds { unified: Some(open(&container.cgroup)), ..CgroupFds::default() },
        log: Some(log),
        record_dir: open(&container.dir),
        runtime: None,
    };
    pod.monitor.create(create).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    container
}

/// Decision 024: who writes to a disk that hangs is not the monitor.
#[tokio::test]
async fn a_log_on_a_disk_that_hangs_stops_its_own_container_only() {
    let sandbox = Sandbox::new().await;
    let disk = Disk::new(&sandbox);
    let mut pod = sandbox.pod().await;
    let script = "echo begun; while ! [ -e /go ]; do sleep 0.02; done; i=0; while [ $i -lt 40000 ]; do echo $i; \
        i=$((i+1)); done; touch /through";
    let stuck = run_logging_to(&pod, script, disk.target("stuck")).await;
    let script = "echo begun; while ! [ -e /go ]; do sleep 0.02; done; echo last; printf words; sleep 1000";
    let stopped = run_logging_to(&pod, script, disk.target("stopped")).await;
    pod.until(|| disk.lines("stuck").len() == 1 && disk.lines("stopped").len() == 1).await;

    disk.frozen(true);
    for container in [&stuck, &stopped] {
        // Its log's writer gets something to do first.
        assert_eq!(pod.exec(container, "touch /go; sleep 0.1; echo answer").await, (0, "answer\n".to_owned()));
    }
    let other = pod.run("echo other").await;
    assert_eq!(pod.exited(&other).await.exit_code, 0);
    assert_eq!(pod.log(&other), ["stdout F other"]);
    let record = pod.monitor.stop(&stopped.id, 9, std::time::Duration::ZERO).await.unwrap();
    assert_eq!((record.exit_code, stopped.record()), (137, record));
    let new = pod.container("true");
    let created = pod.monitor.create(CreateContainer {
        id: new.id.clone(),
        plan: new.plan.clone(),
        fds: open_sources(&new.sources).unwrap(),
        cgroup: CgroupFds { unified: Some(open(&new.cgroup)), ..CgroupFds::default() },
        log: Some(disk.target("new")),
        record_dir: open(&new.dir),
        runtime: None,
    });
    let reopened = pod.monitor.reopen_log(&stuck.id, disk.target("reopened"));
    let thaw = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(!stuck.dir.join("upper/through").exists(), "it waits for its log");
        let state = pod.monitor.inspect().await.unwrap();
        assert_eq!(state.containers.len(), 4);
        disk.frozen(false);
    };
    let (created, reopened, ()) = tokio::join!(created, reopened, thaw);
    created.unwrap();
    reopened.unwrap();
    assert_eq!(pod.exited(&stuck).await.exit_code, 0);
    let mut lines = disk.lines("stuck");
    assert!(disk.lines("reopened").len() > 1);
    lines.extend(disk.lines("reopened"));
    let expected = (0..40_000).map(|number| format!("stdout F {number}"));
    assert!(lines.into_iter().eq(std::iter::once("stdout F begun".to_owned()).chain(expected)));
    pod.until(|| disk.lines("stopped").len() == 3).await;
    assert_eq!(disk.lines("stopped"), ["stdout F begun", "stdout F last", "stdout P words"]);
    pod.monitor.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_pod_can_be_ended_while_its_logs_disk_hangs() {
    let sandbox = Sandbox::new().await;
    let disk = Disk::new(&sandbox);
    let mut pod = sandbox.pod().await;
    let script = "echo begun; while ! [ -e /go ]; do sleep 0.02; done; yes 0123456789";
    let container = run_logging_to(&pod, script, disk.target("0.log")).await;
    pod.until(|| disk.lines("0.log").len() == 1).await;
    disk.frozen(true);
    pod.exec(&container, "touch /go; sleep 0.1").await;
    pod.monitor.shutdown().await.unwrap();
    while !matches!(pod.event().await, MonitorEvent::Lost) {}
    pod.until(|| !Path::new(&format!("/proc/{}", pod.monitor.pid())).exists()).await;
    assert_eq!(container.record().exit_code, 137);
    disk.frozen(false);
}

fn writers(pod: &Pod<'_>) -> usize {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.monitor.pid())).unwrap();
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    children.split_whitespace().filter(|pid| name(pid) == "berth-log\n").count()
}

/// A container that says nothing for a while costs no writer.
#[tokio::test]
async fn a_logs_writer_goes_when_it_has_nothing_to_write() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    let container = pod.run("echo one; while ! [ -e /go ]; do sleep 0.02; done; echo two; sleep 1000").await;
    pod.until(|| pod.log(&container) == ["stdout F one"]).await;
    pod.until(|| writers(&pod) == 0).await;
    pod.exec(&container, "touch /go").await;
    pod.until(|| pod.log(&container) == ["stdout F one", "stdout F two"]).await;
    pod.until(|| writers(&pod) == 0).await;
}

fn read(disk: &OwnedFd) -> String {
    read_file(disk, "0.log")
}

fn read_file(disk: &OwnedFd, name: &str) -> String {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(disk, name, flags, rustix::fs::Mode::empty()).unwrap();
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}
