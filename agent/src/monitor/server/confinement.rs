//! What processes that came from a checkpoint have, held against what the container's request allows: capabilities, a system call
//! filter, no_new_privs and being root come from criu's images, and so from wherever the archive does.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::Pid;

use super::cgroup_tree;
use crate::libcontainer::run::failure::{InitFailure, Step};
use crate::monitor::protocol::Confinement;

/// proc_pid_status(5) is shorter but for its list of groups, which is not last.
const LONGEST_STATUS: usize = 64 << 10;

/// Looks at every thread of every process in the cgroup but the init that waited, `init`. They are all stopped.
pub(super) fn check(
    procfs: &OwnedFd,
    cgroup: Option<&OwnedFd>,
    init: i32,
    allowed: &Confinement,
) -> Result<(), InitFailure> {
    let Some(cgroup) = cgroup else {
        return Err(InitFailure::refused("the container has no cgroup to find its processes in", ""));
    };
    for pid in cgroup_tree::processes(cgroup).into_iter().map(Pid::as_raw_pid).filter(|pid| *pid != init) {
        let folder = format!("{pid}/task");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let threads = match openat(procfs, &folder, flags, Mode::empty()) {
            // One that criu needed for the making is gone.
            Err(Errno::NOENT | Errno::SRCH) => continue,
            other => other.step("list the threads of a restored process", &folder)?,
        };
        let threads = Dir::new(threads).step("list the threads of a restored process", &folder)?;
        for thread in threads.filter_map(Result::ok).filter(|thread| !thread.file_name().to_bytes().starts_with(b".")) {
            let path = format!("{folder}/{}/status", thread.file_name().to_string_lossy());
            match read(procfs, &path) {
                Err(Errno::NOENT | Errno::SRCH) => {}
                other => verdict(&other.step("read", &path)?, allowed)?,
            }
        }
    }
    Ok(())
}

fn read(procfs: impl AsFd, path: &str) -> Result<String, Errno> {
    let file = openat(procfs, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(4096);
    let mut buffer = [0u8; 4096];
    while text.len() < LONGEST_STATUS {
        match rustix::io::read(&file, &mut buffer)? {
            0 => break,
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What a thread has more than it may, by its status. One that does not tell has all.
fn verdict(status: &str, allowed: &Confinement) -> Result<(), InitFailure> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let mask = |key| value(key).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(u64::MAX);
    let held = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(mask).into_iter().fold(0, |all, one| all | one);
    let is_root = value("Uid").is_none_or(|ids| ids.split_whitespace().any(|id| id == "0"));
    let excess = if held & !allowed.capabilities != 0 {
        "a process of the checkpoint has capabilities that the container's request does not give"
    } else if allowed.seccomp && value("Seccomp") != Some("2") {
        "a process of the checkpoint has no system call filter, and the container's request wants one"
    } else if allowed.no_new_privileges && value("NoNewPrivs") != Some("1") {
        "a process of the checkpoint lacks no_new_privs, which the container's request wants"
    } else if is_root && !allowed.root {
        "a process of the checkpoint is user 0, and the container's request names another"
    } else {
        return Ok(());
    };
    Err(InitFailure::refused(excess, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\nUid:\t1000\t1000\t1000\t1000\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000003\n\
        CapEff:\t0000000000000001\nCapBnd:\t0000000000000003\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t1\n";
    const ALLOWED: Confinement = Confinement { capabilities: 3, seccomp: true, no_new_privileges: true, root: false };

    #[test]
    fn a_process_may_have_what_the_request_gives_and_no_more() {
        verdict(STATUS, &ALLOWED).unwrap();
        verdict(STATUS, &Confinement { capabilities: u64::MAX, root: true, ..Confinement::default() }).unwrap();
        for (status, allowed, words) in [
            (STATUS.to_owned(), Confinement { capabilities: 1, ..ALLOWED }, "capabilities"),
            (STATUS.replace("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000004"), ALLOWED, "capabilities"),
            (STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), ALLOWED, "filter"),
            (STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), ALLOWED, "no_new_privs"),
            (STATUS.replace("1000\t1000\n", "0\t1000\n"), ALLOWED, "user 0"),
            (String::new(), Confinement { capabilities: 3, root: true, ..Confinement::default() }, "capabilities"),
        ] {
            let failure = verdict(&status, &allowed).unwrap_err();
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}
