//! Whether a container died by the kernel's OOM killer (decision 023). The kernel counts its kills for each cgroup, but not
//! whose they were; execs are counted in the container's.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, openat};

use super::cgroup_tree::read_all;
use super::container::{Cgroup, Container};
use super::oom_kills::OomKills;

/// What a process ends with that SIGKILL took, and a shell whose command it took.
const KILLED: i32 = 128 + 9;
/// PF_EXITING of a process's flags (include/linux/sched.h).
const EXITING: u64 = 4;
/// Where the flags are after the command's name (proc_pid_stat(5), field 9).
const FLAGS: usize = 6;

impl Container {
    /// Whether the first process, which ended with `exit_code`, did so for want of memory.
    pub(super) fn was_oom_killed(&self, exit_code: i32) -> bool {
        exit_code == KILLED && !self.killed && self.cgroup.has_unexplained_oom_kills()
    }

    /// An exec ended with `exit_code`, and not because it was asked to: if that was the OOM killer, the kill is not the
    /// container's. An exec that was killed because the first process of its PID namespace is dying has no part in that
    /// one's kill.
    pub(super) fn note_end_of_exec(&mut self, exit_code: i32, procfs: impl AsFd) {
        if exit_code == KILLED
            && self.death.is_none()
            && self.cgroup.has_unexplained_oom_kills()
            && !is_exiting(procfs, self.pid)
        {
            self.cgroup.oom_kills_of_execs += 1;
        }
    }
}

impl Cgroup {
    /// There were more kills since the container's start than its execs account for.
    fn has_unexplained_oom_kills(&self) -> bool {
        OomKills::of(self).since(self.oom_kills_before) > self.oom_kills_of_execs
    }
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
