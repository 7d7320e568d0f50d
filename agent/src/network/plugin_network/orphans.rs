//! Programs of plugins that an agent has started which was killed before they came to their end. They go on, and so would what they make, behind
//! the back of whoever takes it back: they are waited for first. They are known by their environment, which theirs inherit.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::model::PodId;

/// How long what was killed is waited for. A program that hangs in the kernel comes to its end there, and to nothing more.
const KILLED: Duration = Duration::from_secs(10);

/// Comes back when no program is at work for a pod any more. Who is when the patience ends is killed. Blocks.
pub(super) fn await_end(pod: &PodId, patience: Duration) {
    let deadline = Instant::now() + patience;
    // They may start others meanwhile.
    loop {
        let found = at_work(pod);
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(one) = found.first() else { return };
        if left.is_zero() {
            if deadline.elapsed() > KILLED {
                tracing::warn!(%pod, programs = found.len(), "CNI plugins of an earlier agent hang in the kernel though they were killed");
                return;
            }
            tracing::warn!(%pod, programs = found.len(), "CNI plugins of an earlier agent do not end; they are killed");
            for program in &found {
                // It has ended.
                let _ = pidfd_send_signal(program, Signal::KILL);
            }
        }
        let wait = if left.is_zero() { Duration::from_secs(1) } else { left };
        let _ = poll(&mut [PollFd::new(one, PollFlags::IN)], Some(&Timespec::try_from(wait).unwrap_or_default()));
    }
}

/// Processes outside of containers that were started for a pod by who calls plugins.
fn at_work(pod: &PodId) -> Vec<OwnedFd> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| program_of(entry.file_name().to_str()?.parse().ok()?, pod)).collect()
}

fn program_of(pid: i32, pod: &PodId) -> Option<OwnedFd> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    if !is_for(&folder, pod) || !is_of_the_host(&folder) {
        return None;
    }
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // The number may be another's by now.
    is_for(&folder, pod).then_some(fd)
}

/// A zombie has no environment any more.
fn is_for(folder: &Path, pod: &PodId) -> bool {
    let Ok(environment) = fs::read(folder.join("environ")) else { return false };
    let variable = format!("CNI_CONTAINERID={}", pod.as_str());
    environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}

/// What runs in a container can give itself any environment, and is not to be waited for, or killed.
fn is_of_the_host(folder: &Path) -> bool {
    let namespace = |path: &Path| fs::read_link(path.join("ns/pid")).map(|it| it.as_os_str().as_bytes().to_vec());
    matches!((namespace(folder), namespace(Path::new("/proc/self"))), (Ok(its), Ok(own)) if its == own)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn programs_are_waited_for_and_killed_in_the_end() {
        let (one, other) = (PodId::random().unwrap(), PodId::random().unwrap());
        let start = |time: &str| {
            let mut command = Command::new("sleep");
            command.arg(time).env("CNI_CONTAINERID", one.as_str()).stdout(Stdio::null()).spawn().unwrap()
        };
        assert!(at_work(&one).is_empty());
        let mut long = start("1000");
        let deadline = Instant::now() + Duration::from_secs(20);
        while at_work(&one).is_empty() {
            assert!(Instant::now() < deadline, "it is found as soon as it has its environment");
        }
        assert!(at_work(&other).is_empty());
        await_end(&other, Duration::from_secs(60));
        assert!(long.try_wait().unwrap().is_none(), "another pod's is nobody's business");
        await_end(&one, Duration::ZERO);
        assert!(!long.wait().unwrap().success(), "it was killed");
        let mut short = start("0.3");
        await_end(&one, Duration::from_secs(60));
        assert!(short.wait().unwrap().success(), "it came to its end");
    }
}
