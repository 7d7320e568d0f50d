//! A cgroup with all below it: who is in it, and killing them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Rounds of the fallback: a fork bomb can outrun a reader of cgroup.procs for a while.
const ROUNDS: usize = 100;

/// Kills every process in it, however they fork (cgroup.kill, Linux 5.14).
pub(super) fn kill(cgroup: &OwnedFd) {
    match openat(cgroup, "cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => {
            // A cgroup that is removed meanwhile has nobody in it.
            let _ = rustix::io::write(&file, b"1");
        }
        Err(Errno::NOENT) => kill_each(cgroup),
        Err(_) => {}
    }
}

/// On v1, and before cgroup.kill. In a freezer hierarchy they are stopped meanwhile, so that none forks away; elsewhere a
/// process that was killed forks no more, and who is new in the list is killed in the next round.
fn kill_each(cgroup: &OwnedFd) {
    let set_frozen = |state: &str| {
        if let Ok(file) = openat(cgroup, "freezer.state", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            let _ = rustix::io::write(&file, state.as_bytes());
        }
    };
    set_frozen("FROZEN");
    let mut killed = Vec::new();
    for _ in 0..ROUNDS {
        let found = signal(cgroup, Signal::KILL);
        if found.iter().all(|pid| killed.contains(pid)) {
            break;
        }
        killed = found;
    }
    // They die as they thaw.
    set_frozen("THAWED");
}

/// Sends a signal to every process in it; which there were.
pub(super) fn signal(cgroup: &OwnedFd, signal: Signal) -> Vec<Pid> {
    let processes = processes(cgroup);
    for pid in &processes {
        // By pidfd: between reading and sending, a process id may come to mean another process, which must then not be hit.
        let Ok(pidfd) = pidfd_open(*pid, PidfdFlags::empty()) else { continue };
        if self::processes(cgroup).contains(pid) {
            let _ = pidfd_send_signal(&pidfd, signal);
        }
    }
    processes
}

pub(super) fn processes(cgroup: impl AsFd) -> Vec<Pid> {
    let mut found = Vec::new();
    collect(cgroup, &mut found);
    found
}

fn collect(cgroup: impl AsFd, found: &mut Vec<Pid>) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if let Ok(file) = openat(&cgroup, "cgroup.procs", flags, Mode::empty()) {
        let text = read_all(&file);
        found.extend(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw));
    }
    let Ok(dir) = openat(&cgroup, ".", flags | OFlags::DIRECTORY, Mode::empty()).and_then(Dir::new) else { return };
    for entry in dir.flatten() {
        let name = entry.file_name();
        let is_child = entry.file_type() == FileType::Directory && !matches!(name.to_bytes(), b"." | b"..");
        if is_child && let Ok(child) = openat(&cgroup, name, flags | OFlags::DIRECTORY, Mode::empty()) {
            collect(child, found);
        }
    }
}

/// The text of a small kernel file; what cannot be read is empty.
pub(super) fn read_all(file: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 1024];
    loop {
        match rustix::io::read(file, &mut chunk) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
        }
    }
}
