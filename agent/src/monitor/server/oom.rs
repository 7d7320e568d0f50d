//! Whether a container died by the kernel's OOM killer (decision 023). The kernel counts its kills for each cgroup, but not
//! whose they were; execs are counted in the container's.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat};

use super::cgroup_tree::read_all;
use super::container::{Cgroup, Container};

/// What a process ends with that SIGKILL took, and a shell whose command it took.
const KILLED: i32 = 128 + 9;
/// PF_EXITING of a process's flags (include/linux/sched.h).
const EXITING: u64 = 4;
/// Where the flags are after the command's name (proc_pid_stat(5), field 9).
const FLAGS: usize = 6;

impl Container {
    /// Whether the first process, which ended with `exit_code`, did so for want of memory.
    pub(super) fn was_oom_killed(&self, exit_code: i32) -> bool {
        exit_code == KILLED && !self.killed && oom_kills(&self.cgroup) > self.cgroup.oom_kills_of_others
    }

    /// An exec ended with `exit_code`, and not because it was asked to: if that was the OOM killer, the kill is not the
    /// container's. An exec that was killed because the first process of its PID namespace is dying has no part in that
    /// one's kill.
    pub(super) fn note_end_of_exec(&mut self, exit_code: i32, procfs: impl AsFd) {
        if exit_code == KILLED
            && self.death.is_none()
            && oom_kills(&self.cgroup) > self.cgroup.oom_kills_of_others
            && !is_exiting(procfs, self.pid)
        {
            self.cgroup.oom_kills_of_others += 1;
        }
    }
}

/// How often the kernel's OOM killer took a process of that cgroup: the kernel's own count (v2 memory.events, v1
/// memory.oom_control), so nothing is missed or guessed.
pub(super) fn oom_kills(cgroup: &Cgroup) -> u64 {
    let Some(dir) = &cgroup.memory else { return 0 };
    let open = |name| openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let Ok(file) = open("memory.events").or_else(|_| open("memory.oom_control")) else { return 0 };
    let text = read_all(&file);
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// A process is on its way out; one that nobody can look at any more is, too.
fn is_exiting(procfs: impl AsFd, pid: i32) -> bool {
    let file = openat(procfs, format!("{pid}/stat"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.map_or(true, |file| flags_of(&read_all(&file)).is_none_or(|flags| flags & EXITING != 0))
}

/// The flags in /proc/<pid>/stat. The command's name may be anything, parentheses included.
fn flags_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(FLAGS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::flags_of;

    #[test]
    fn the_flags_are_the_ninth_field() {
        let flags = |name: &str| flags_of(&format!("7 ({name}) S 1 7 7 0 -1 4194564 158 0"));
        assert_eq!(flags("sleep"), Some(4_194_564));
        assert_eq!(flags("a) R 2 (b"), Some(4_194_564));
        assert_eq!((flags_of(""), flags_of("7 (x) S 1")), (None, None));
    }
}
