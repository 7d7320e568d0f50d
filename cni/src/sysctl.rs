//! Sysctls of the network, of the calling thread's namespace. What has its value already is not written: containers often
//! see /proc/sys read-only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct SysctlError {
    /// What was being done.
    pub operation: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SysctlError + use<> {
    let path = path.to_owned();
    move |source| SysctlError { operation, path, source }
}

/// Whether a sysctl has a value.
pub fn has(path: &Path, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

/// Sets a sysctl by its file. One of IPv6 that is not there is no error: the kernel has no IPv6 then.
///
/// # Errors
/// When it cannot be written.
pub fn set(path: &Path, value: &str) -> Result<(), SysctlError> {
    if has(path, value) {
        return Ok(());
    }
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.starts_with("/proc/sys/net/ipv6") => Ok(()),
        other => other.map_err(failed("write", path)),
    }
}

/// Sets a link's sysctl: `set_of("ipv6", "eth0", "accept_ra", "0")`.
///
/// # Errors
/// When it cannot be written.
pub fn set_of(family: &str, link: &str, name: &str, value: &str) -> Result<(), SysctlError> {
    set(&Path::new("/proc/sys/net").join(family).join("conf").join(link).join(name), value)
}

/// The same when it is known by other means what it is now: then nothing is looked up unless it has to be changed.
///
/// # Errors
/// When it cannot be written.
pub fn settle(family: &str, link: &str, name: &str, value: i32, now: Option<i32>) -> Result<(), SysctlError> {
    match now == Some(value) {
        true => Ok(()),
        false => set_of(family, link, name, &value.to_string()),
    }
}

/// The host passes IPv4 packets on.
///
/// # Errors
/// When it cannot be written.
pub fn forward_ipv4() -> Result<(), SysctlError> {
    set(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")
}

/// The host passes IPv6 packets on. A forwarding host stops listening to router advertisements, unless told otherwise
/// (`accept_ra` 2): one that has its own IPv6 route from them would lose it within minutes of becoming a router.
///
/// # Errors
/// When one cannot be written.
pub fn forward_ipv6() -> Result<(), SysctlError> {
    let all = Path::new("/proc/sys/net/ipv6/conf/all/forwarding");
    if has(all, "1") {
        return Ok(());
    }
    let folder = Path::new("/proc/sys/net/ipv6/conf");
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("list", folder))?,
    };
    for entry in listing {
        let entry = entry.map_err(failed("list", folder))?;
        let path = entry.path().join("accept_ra");
        if !["all", "default", "lo"].iter().any(|name| entry.file_name() == *name) && has(&path, "1") {
            set(&path, "2")?;
        }
    }
    set(all, "1")
}
