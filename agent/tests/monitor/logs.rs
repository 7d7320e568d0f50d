//! The CRI log.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use berth::libcontainer::plan::{Action, MountSource, MoveMount};
use berth::monitor::client::{CgroupFds, CreateContainer, LogTarget, MonitorError};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use crate::support::{Sandbox, bind, open, open_sources, step};

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

fn read(disk: &OwnedFd) -> String {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(disk, "0.log", flags, rustix::fs::Mode::empty()).unwrap();
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}
