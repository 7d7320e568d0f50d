//! Credentials, limits and execve: the last things a container's or an exec'd process does before it is the program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::unistd::execve;
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat, major, minor, openat};
use rustix::io::Errno;
use rustix::process::{chdir, getcwd, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::failure::{InitFailure, Step};
use super::launch::Stdio;
use crate::libcontainer::plan::{ProcessPlan, Scheduler};
use crate::sys::scheduling::{self, Attributes};
use crate::sys::{confine, in_root, signal};

const DEFAULT_UMASK: u32 = 0o022;

/// Makes fds 0–2. What is absent becomes the container's own /dev/null, or `spare_null` where it has none.
pub(super) fn take_stdio(
    root: &OwnedFd,
    stdio: Stdio,
    spare_null: BorrowedFd<'_>,
    process: &ProcessPlan,
) -> Result<(), InitFailure> {
    let null = || match in_root::open(root, "/dev/null", OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK) {
        Ok(fd) if is_null(&fd) => Ok(fd),
        _ => rustix::io::fcntl_dupfd_cloexec(spare_null, 3).step("open", "/dev/null"),
    };
    let or_null = |fd: Option<OwnedFd>| match fd {
        Some(fd) => own(fd, process),
        None => null(),
    };
    let step = "set up standard input and output";
    dup2_stdin(or_null(stdio.stdin)?).step(step, "")?;
    dup2_stdout(or_null(stdio.stdout)?).step(step, "")?;
    dup2_stderr(or_null(stdio.stderr)?).step(step, "")
}

/// A pipe or terminal belongs to the user, who may reopen it as /dev/stdout; files and devices stay whose they are.
fn own(fd: OwnedFd, process: &ProcessPlan) -> Result<OwnedFd, InitFailure> {
    let stat = fstat(&fd).step("look at standard input and output", "")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_terminal = kind.is_char_device() && (136..144).contains(&major(stat.st_rdev));
    if process.uid != stat.st_uid && (kind.is_fifo() || is_terminal) {
        match fchown(&fd, Some(Uid::from_raw(process.uid)), None) {
            // In a user namespace of its own a process owns nothing that it was given: it can go on using it, not reopen it.
            Err(Errno::PERM) => {}
            other => other.step("give standard input and output to the user", "")?,
        }
    }
    Ok(fd)
}

fn is_null(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode).is_char_device() && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

/// How soon the kernel's OOM killer takes process `who` (a process id, or `self`) and the children that it has later. To
/// lower it one has to be the host's root. `procfs` is the host's, which no process of a container has open.
pub(super) fn set_oom_score(process: &ProcessPlan, procfs: BorrowedFd<'_>, who: &str) -> Result<(), InitFailure> {
    match process.oom_score_adj {
        Some(adjustment) => write(procfs, &format!("{who}/oom_score_adj"), &adjustment.to_string()),
        None => Ok(()),
    }
}

/// Everything that can be done before the release: scheduling, limits, working directory, user.
pub(super) fn prepare(process: &ProcessPlan) -> Result<(), InitFailure> {
    set_scheduling(process)?;
    // Nothing is opened from here on: a small limit of files is the program's alone.
    for limit in &process.rlimits {
        confine::set_rlimit(limit.resource, limit.soft, limit.hard)
            .step(&format!("set resource limit {}", limit.resource), "")?;
    }
    umask(Mode::from_raw_mode(process.umask.unwrap_or(DEFAULT_UMASK)));
    let cwd = enter(process);
    become_user(process)?;
    match cwd {
        // Root may be the one who is kept out, e.g. by a file server that squashes it.
        Err(Errno::ACCESS) => enter(process),
        other => other,
    }
    .step("enter the working directory", &process.cwd)?;
    check_cwd(process)?;
    if !needs_privilege_for_seccomp(process) {
        drop_capabilities(process)?;
    }
    Ok(())
}

/// While this process is still privileged: a real-time class is nothing that anybody may have.
fn set_scheduling(process: &ProcessPlan) -> Result<(), InitFailure> {
    if let Some(priority) = process.io_priority {
        scheduling::set_io_priority(priority).step("set the I/O priority", "")?;
    }
    if let Some(domain) = process.personality {
        scheduling::set_personality(domain).step("set the personality", "")?;
    }
    if let Some(plan) = process.scheduler {
        let Scheduler { policy, flags, nice, priority, runtime, deadline, period } = plan;
        let attributes = Attributes { policy, flags, nice, priority, runtime, deadline, period };
        scheduling::set_scheduler(attributes).step("set the scheduler", "")?;
    }
    Ok(())
}

/// The system call filter, and the program.
pub(super) fn execute(process: &ProcessPlan) -> Result<Infallible, InitFailure> {
    if process.no_new_privileges {
        confine::no_new_privileges().step("set no_new_privs", "")?;
    }
    let (argv, env) = (c_strings(process.args.iter().map(String::as_bytes))?, c_strings(process.env.iter())?);
    signal::reset().step("reset signals", "")?;
    if !process.seccomp_filter.is_empty() {
        confine::load_seccomp(&process.seccomp_filter, process.seccomp_flags).step("load the seccomp filter", "")?;
    }
    if needs_privilege_for_seccomp(process) {
        drop_capabilities(process)?;
    }
    let Some(name) = process.args.first() else { return Err(InitFailure::refused("no program to execute", "")) };
    let mut last = Errno::NOENT;
    for candidate in candidates(name, process) {
        let candidate =
            CString::new(candidate).map_err(|_| InitFailure::refused("a nul byte in the program's name", name))?;
        let Err(errno) = execve(&candidate, &argv, &env);
        match Errno::from_raw_os_error(errno as i32) {
            // As execvp(3): go on looking, but a file that may not be executed is worth telling.
            Errno::NOENT | Errno::NOTDIR => {}
            errno @ (Errno::ACCESS | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT) => last = errno,
            errno => return Err(errno).step("exec", name),
        }
    }
    Err(last).step("exec", name)
}

/// A filter may be loaded by who has CAP_SYS_ADMIN or can gain no privileges any more (seccomp(2)).
fn needs_privilege_for_seccomp(process: &ProcessPlan) -> bool {
    !process.no_new_privileges && !process.seccomp_filter.is_empty()
}

fn write(procfs: BorrowedFd<'_>, path: &str, text: &str) -> Result<(), InitFailure> {
    let shown = format!("/proc/{path}");
    let file = openat(procfs, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).step("open", &shown)?;
    rustix::io::write(&file, text.as_bytes()).step(&format!("write {text:?} to"), &shown).map(drop)
}

fn enter(process: &ProcessPlan) -> Result<(), Errno> {
    chdir(if process.cwd.is_empty() { "/" } else { process.cwd.as_str() })
}

/// CVE-2024-21626: a working directory outside the root would be a way out. There is no fd that could lead there, and
/// the kernel says "(unreachable)" of one.
fn check_cwd(process: &ProcessPlan) -> Result<(), InitFailure> {
    let cwd = getcwd(Vec::new()).step("look at the working directory", &process.cwd)?;
    if cwd.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(InitFailure::refused("the working directory is outside the container's root:", &process.cwd))
    }
}

fn become_user(process: &ProcessPlan) -> Result<(), InitFailure> {
    confine::limit_bounding_set(process.capabilities.bounding).step("limit the bounding set", "")?;
    confine::keep_capabilities().step("keep capabilities", "")?;
    let groups: Vec<Gid> = process.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).step("set supplementary groups", "")?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    set_thread_res_gid(gid, gid, gid).step(&format!("become group {}", process.gid), "")?;
    set_thread_res_uid(uid, uid, uid).step(&format!("become user {}", process.uid), "")?;
    if needs_privilege_for_seccomp(process) && process.uid != 0 {
        // The change took the effective set away; loading the filter needs one of it.
        let held = confine::permitted().step("read capabilities", "")?;
        confine::set_capabilities(confine::CAP_SYS_ADMIN & held, held, 0).step("keep CAP_SYS_ADMIN", "")?;
    }
    Ok(())
}

fn drop_capabilities(process: &ProcessPlan) -> Result<(), InitFailure> {
    let sets = process.capabilities;
    confine::set_capabilities(sets.effective, sets.permitted, sets.inheritable).step("set capabilities", "")?;
    confine::raise_ambient(sets.ambient).step("raise ambient capabilities", "")
}

fn candidates(name: &str, process: &ProcessPlan) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = process.env.iter().find_map(|entry| entry.strip_prefix(b"PATH=".as_slice()));
    let path = String::from_utf8_lossy(path.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    path.split(':')
        // An empty entry is the working directory, which is nothing to search for a name that came from an image.
        .filter(|folder| !folder.is_empty() && !name.is_empty())
        .map(|folder| format!("{}/{name}", folder.trim_end_matches('/')))
        .collect()
}

fn c_strings<T: AsRef<[u8]>>(items: impl Iterator<Item = T>) -> Result<Vec<CString>, InitFailure> {
    items
        .map(|item| {
            CString::new(item.as_ref())
                .map_err(|_| InitFailure::refused("a nul byte in the arguments or environment", ""))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_environments_path() {
        let process = ProcessPlan { env: vec![b"A=1".to_vec(), b"PATH=/x/::/y".to_vec()], ..Default::default() };
        assert_eq!(candidates("sh", &process), ["/x/sh", "/y/sh"]);
        assert_eq!(candidates("./sh", &process), ["./sh"]);
        assert_eq!(candidates("", &process), Vec::<String>::new());
    }
}
