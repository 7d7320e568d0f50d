//! This program as a sealed memory file. What a container's first process was before its execve can be opened by way of
//! /proc/<pid>/exe, and must not be the file that the host runs as root the next time (CVE-2019-5736).

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::Error;
use crate::sys::memfd;

/// Shown in /proc/<pid>/exe.
const NAME: &str = "/memfd:berth-oci";

/// Executes this program again from memory, unless that is where it runs already.
///
/// # Errors
/// Only what kept it from doing so comes back.
pub(super) fn ensure() -> Result<(), Error> {
    let own = "/proc/self/exe";
    let path = fs::read_link(own).map_err(Error::io("look at", own))?;
    if path.to_string_lossy().starts_with(NAME) {
        return Ok(());
    }
    let program = fs::read(own).map_err(Error::io("read", own))?;
    let copy = memfd::sealed(c"berth-oci", &program).map_err(Error::io("copy into memory", own))?;
    drop(program);
    let mut arguments = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    Err(Error::io("execute again", own)(command.args(arguments).exec()))
}
