//! Gathers what `evaluate` judges. Every probe is harmless: it makes nothing that outlives it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfs};
use rustix::io::Errno;

use crate::config::{Config, Ipv6Subnet, Runtime};

/// What is the case on this host.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Facts {
    /// Effective user id.
    pub(super) uid: u32,
    /// `uname -r`.
    pub(super) kernel: String,
    /// CapEff of /proc/self/status.
    pub(super) capabilities: u64,
    /// System calls by name, with what trying them gave.
    pub(super) calls: Vec<(&'static str, Result<(), Errno>)>,
    /// fsopen("overlay").
    pub(super) overlay: Result<(), Errno>,
    /// /proc/sys/user/max_user_namespaces; `None` when the kernel has no user namespaces.
    pub(super) max_user_namespaces: Option<u64>,
    /// /proc/sys/kernel/seccomp/actions_avail.
    pub(super) seccomp: Option<String>,
    /// How cgroups are mounted.
    pub(super) cgroups: Cgroups,
    /// systemd is the init (sd_booted(3)).
    pub(super) systemd: bool,
    /// /proc/sys/net/ipv{4,6}: forwarding is on, `None` when the file is not there.
    pub(super) forwarding: [Option<bool>; 2],
    /// /proc/sys can be written to.
    pub(super) sysctls_writable: bool,
    /// Programs that the network runs, with where they are.
    pub(super) programs: Vec<(&'static str, Option<PathBuf>)>,
    /// The monitor's program can be executed.
    pub(super) monitor: Result<(), String>,
    /// OCI runtimes of handlers that cannot be executed, by handler, with why.
    pub(super) runtimes: Vec<(String, String)>,
    /// Where `root` is or will be.
    pub(super) disk: Result<Disk, String>,
    /// `run_root` is or will be on a tmpfs.
    pub(super) run_root_tmpfs: bool,
}

/// How cgroups are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cgroups {
    /// Where cgroup2 is, with its controllers.
    pub(super) v2: Option<(PathBuf, Vec<String>)>,
    /// The controllers of v1 hierarchies.
    pub(super) v1: Vec<String>,
}

/// A file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) free_bytes: u64,
    pub(super) free_inodes: u64,
    /// File systems that make inodes as they go have no number of them.
    pub(super) counts_inodes: bool,
    pub(super) read_only: bool,
}

impl Facts {
    /// Looks at the host, for the given configuration.
    pub(in crate::cli) fn gather(config: &Config) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            capabilities: fs::read_to_string("/proc/self/status").ok().and_then(|text| cap_eff(&text)).unwrap_or(0),
            calls: vec![("openat2", openat2()), ("pidfd_open", pidfd_open()), ("fsopen", fsopen("tmpfs"))],
            overlay: fsopen("overlay"),
            max_user_namespaces: fs::read_to_string("/proc/sys/user/max_user_namespaces")
                .ok()
                .and_then(|most| most.trim().parse().ok()),
            seccomp: fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").ok(),
            cgroups: cgroups(&mountinfo, |path| fs::read_to_string(path).ok()),
            systemd: Path::new("/run/systemd/system").is_dir(),
            forwarding: [switch("/proc/sys/net/ipv4/ip_forward"), switch("/proc/sys/net/ipv6/conf/all/forwarding")],
            sysctls_writable: writable("/proc/sys/net/ipv4/ip_forward"),
            programs: programs(config),
            monitor: executable(&config.paths.monitor),
            runtimes: runtimes(config),
            disk: disk(&config.paths.root),
            run_root_tmpfs: rustix::fs::statfs(existing(&config.paths.run_root))
                .is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC),
        }
    }
}

/// statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The CapEff line of proc_pid_status(5).
fn cap_eff(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn openat2() -> Result<(), Errno> {
    rustix::fs::openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).map(drop)
}

fn pidfd_open() -> Result<(), Errno> {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).map(drop)
}

fn fsopen(kind: &str) -> Result<(), Errno> {
    rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).map(|_: OwnedFd| ())
}

fn switch(path: &str) -> Option<bool> {
    fs::read_to_string(path).ok().map(|text| text.trim() != "0")
}

fn writable(path: &str) -> bool {
    fs::OpenOptions::new().write(true).open(path).is_ok()
}

/// The programs that masquerading execs, of the address families that are configured.
fn programs(config: &Config) -> Vec<(&'static str, Option<PathBuf>)> {
    let mut wanted = Vec::new();
    if config.network.ipv4.is_some() {
        wanted.push("iptables");
    }
    if config.network.ipv6 != Ipv6Subnet::Off && Path::new("/proc/sys/net/ipv6").exists() {
        wanted.push("ip6tables");
    }
    wanted.into_iter().map(|name| (name, on_path(name))).collect()
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| executable(file).is_ok())
}

fn runtimes(config: &Config) -> Vec<(String, String)> {
    let broken = |(name, runtime): (&String, &Runtime)| {
        let path = runtime.path.as_ref()?;
        let error = executable(path).err()?;
        Some((name.clone(), format!("{}: {error}", path.display())))
    };
    config.runtimes.iter().filter_map(broken).collect()
}

fn executable(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err("is no program that may be executed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The path, or the nearest folder above it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn disk(root: &Path) -> Result<Disk, String> {
    let stat: StatVfs = rustix::fs::statvfs(existing(root)).map_err(|errno| io::Error::from(errno).to_string())?;
    Ok(Disk {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        free_inodes: stat.f_favail,
        counts_inodes: stat.f_files > 0,
        read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}

/// Where mountinfo (proc_pid_mountinfo(5)) says that cgroups are. `read` reads cgroup.controllers.
fn cgroups(mountinfo: &str, read: impl Fn(&Path) -> Option<String>) -> Cgroups {
    let mut found = Cgroups::default();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(point), mut after) = (before.split(' ').nth(4), after.split(' ')) else { continue };
        match after.next() {
            Some("cgroup2") if found.v2.is_none() => {
                let path = PathBuf::from(point);
                let controllers = read(&path.join("cgroup.controllers")).unwrap_or_default();
                found.v2 = Some((path, controllers.split_whitespace().map(str::to_owned).collect()));
            }
            Some("cgroup") => {
                let options = after.nth(1).unwrap_or_default();
                let controllers = options.split(',').filter(|option| CONTROLLERS.contains(option));
                found.v1.extend(controllers.map(str::to_owned));
            }
            _ => {}
        }
    }
    found
}

/// Those that limits are written to.
pub(super) const CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "devices"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified_mounts_are_told_apart() {
        let v1 = "31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                  32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  33 30 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                  34 30 0:30 / /proc rw - proc proc rw";
        let found = cgroups(v1, |_| Some("hugetlb\n".into()));
        assert_eq!(found.v1, ["memory", "cpu", "cpuacct"]);
        assert_eq!(found.v2, Some(("/sys/fs/cgroup/unified".into(), vec!["hugetlb".into()])));
        let v2 = "33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        let found = cgroups(v2, |path| path.ends_with("cgroup.controllers").then(|| "cpu memory pids".into()));
        assert_eq!(
            found,
            Cgroups {
                v2: Some(("/sys/fs/cgroup".into(), vec!["cpu".into(), "memory".into(), "pids".into()])),
                v1: vec![],
            }
        );
    }

    #[test]
    fn the_capability_line_is_read() {
        assert_eq!(cap_eff("Name:\tx\nCapPrm:\t0\nCapEff:\t000001fffeffffff\n"), Some(0x1ff_feff_ffff));
        assert_eq!(cap_eff("Name:\tx\n"), None);
    }

    #[test]
    fn a_path_that_will_be_made_is_judged_by_what_is_there() {
        assert_eq!(existing(Path::new("/proc/self/no/such/thing")), Path::new("/proc/self"));
    }
}
