//! Hooks (OCI runtime-spec): programs that are given the container's state on their standard input.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::failure::{InitFailure, Step};
use crate::libcontainer::plan::Hook;

/// How much of a failed hook's own words is told.
const WORDS: usize = 512;

/// Runs hooks in their order, up to the first that fails.
///
/// # Errors
/// That one's, with its own words.
pub fn run_hooks(hooks: &[Hook], state: &str) -> Result<(), InitFailure> {
    hooks.iter().try_for_each(|hook| run_hook(hook, state))
}

/// Runs one hook and waits for it. SIGPIPE has to be ignored.
///
/// # Errors
/// It cannot be started, fails, or takes longer than it may.
pub fn run_hook(hook: &Hook, state: &str) -> Result<(), InitFailure> {
    let path = hook.path.as_str();
    // A file takes as much as a hook has to say without anybody reading along.
    let output = File::from(memfd_create("hook", MemfdFlags::CLOEXEC).step("make a file for the hook's output", path)?);
    let mut command = Command::new(path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    let copy = || output.try_clone().step("make a file for the hook's output", path);
    command.env_clear().envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    let mut child = command.stdin(Stdio::piped()).stdout(copy()?).stderr(copy()?).spawn().step("run the hook", path)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Not every hook reads it.
        let _ = stdin.write_all(state.as_bytes());
    }
    let Some(status) = wait(&mut child, hook.timeout).step("wait for the hook", path)? else {
        return Err(InitFailure::refused(&format!("the hook did not end within {} s:", hook.timeout), path));
    };
    if status.success() {
        return Ok(());
    }
    let mut words = [0u8; WORDS];
    let len = output.read_at(&mut words, 0).unwrap_or(0);
    let words = String::from_utf8_lossy(&words[..len]);
    let told = if words.trim().is_empty() { String::new() } else { format!(", {:?}", words.trim()) };
    Err(InitFailure::refused(&format!("the hook failed ({status}{told}):"), path))
}

/// `None`: it took too long, and was killed.
fn wait(child: &mut Child, seconds: u64) -> std::io::Result<Option<ExitStatus>> {
    if seconds == 0 {
        return child.wait().map(Some);
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: u64) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        Hook { path: "/bin/sh".to_owned(), args, env: vec!["A=b=c".to_owned()], timeout }
    }

    #[test]
    fn a_hook_is_given_the_state_and_its_environment_alone() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("{{ cat; echo \" $A $HOME\"; }} > {}", out.display());
        run_hook(&shell(&script, 0), "{}").unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "{} b=c \n");
    }

    #[test]
    fn the_first_that_fails_ends_the_list_and_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let later = shell(&format!("touch {}", out.display()), 0);
        let error = run_hooks(&[shell("echo no such thing >&2; exit 3", 5), later], "{}").unwrap_err();
        assert!(error.to_string().contains("exit status: 3, \"no such thing\""), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        let error = run_hook(&shell("exec sleep 100", 1), "{}").unwrap_err();
        assert!(error.to_string().contains("within 1 s"), "{error}");
    }
}
