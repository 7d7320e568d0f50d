//! Facts and the configuration in, checks out: what is well, what is missing, how to get it. Pure.

use rustix::io::Errno;

use super::facts::{Cgroups, Disk, Facts};
use crate::config::{CgroupDriver, Config};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Level {
    /// As it should be.
    Ok,
    /// Something will not work, the rest will.
    Warn,
    /// The agent cannot work.
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Check {
    /// What was looked at.
    pub(in crate::cli) name: &'static str,
    /// How it is.
    pub(in crate::cli) level: Level,
    /// What was found.
    pub(in crate::cli) found: String,
    /// What to do about it; empty when nothing.
    pub(in crate::cli) remedy: String,
}

/// clone3 into a cgroup is of 5.7, mount_setattr of 5.12, cgroup.kill of 5.14.
const OLDEST_KERNEL: (u32, u32) = (5, 14);
/// Overlay takes layers one by one (`lowerdir+`) from 6.8 on: any number of them, by file descriptor.
const OVERLAY_BY_FD: (u32, u32) = (6, 8);
/// Owners can be mapped on overlay's layers from 5.19 on, on a tmpfs from 6.3 on.
const MAPPED_OWNERS: (u32, u32) = (6, 3);
/// Below this a pull is likely to fail half way.
const LITTLE_DISK: u64 = 1 << 30;
const FEW_INODES: u64 = 100_000;

/// Capabilities by number (capabilities(7)) with what fails without them.
const CAPABILITIES: [(u32, &str, Level, &str); 10] = [
    (21, "CAP_SYS_ADMIN", Level::Fail, "mounts and namespaces"),
    (12, "CAP_NET_ADMIN", Level::Fail, "the pod network"),
    (1, "CAP_DAC_OVERRIDE", Level::Fail, "files of other users in images and volumes"),
    (0, "CAP_CHOWN", Level::Fail, "owners of files in images"),
    (3, "CAP_FOWNER", Level::Fail, "modes of files in images"),
    (27, "CAP_MKNOD", Level::Fail, "devices"),
    (7, "CAP_SETUID", Level::Fail, "containers' users"),
    (6, "CAP_SETGID", Level::Fail, "containers' groups"),
    (8, "CAP_SETPCAP", Level::Fail, "taking capabilities away from containers"),
    (24, "CAP_SYS_RESOURCE", Level::Warn, "OOM scores below the agent's own and raised limits; they are clamped"),
];

/// All findings, in the order of the host's layers.
pub(in crate::cli) fn evaluate(facts: &Facts, config: &Config) -> Vec<Check> {
    vec![
        user(facts.uid),
        kernel(&facts.kernel),
        capabilities(facts.capabilities),
        system_calls(&facts.calls),
        overlay(facts.overlay, &facts.kernel),
        user_namespaces(facts.max_user_namespaces, &facts.kernel),
        seccomp(facts.seccomp.as_deref()),
        cgroup_mounts(&facts.cgroups),
        cgroup_driver(config.cgroups.driver, facts.systemd),
        forwarding(facts),
        programs(facts),
        monitor(facts, config),
        runtimes(&facts.runtimes),
        disk(&facts.disk, config),
        run_root(facts.run_root_tmpfs, config),
    ]
}

fn check(name: &'static str, level: Level, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, level, found: found.into(), remedy: remedy.into() }
}

fn user(uid: u32) -> Check {
    match uid {
        0 => check("user", Level::Ok, "root", ""),
        uid => check("user", Level::Fail, format!("uid {uid}"), "run berth as root: sudo berth …"),
    }
}

/// `6.1.0-18-amd64` → (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str) -> Check {
    let (major, minor) = OLDEST_KERNEL;
    match version(release) {
        Some(version) if version >= OLDEST_KERNEL => check("kernel", Level::Ok, release, ""),
        Some(_) => check(
            "kernel",
            Level::Fail,
            release,
            format!("Linux {major}.{minor} or newer is needed: upgrade the kernel"),
        ),
        None => check("kernel", Level::Warn, release, format!("cannot tell whether this is {major}.{minor} or newer")),
    }
}

fn capabilities(held: u64) -> Check {
    let missing: Vec<_> = CAPABILITIES.iter().filter(|(number, ..)| held & (1 << number) == 0).collect();
    let Some(level) = missing.iter().map(|(_, _, level, _)| *level).max() else {
        return check("capabilities", Level::Ok, "all that are needed", "");
    };
    let names: Vec<_> = missing.iter().map(|(_, name, ..)| *name).collect();
    let lost: Vec<_> = missing.iter().map(|(.., lost)| *lost).collect();
    let remedy = format!("without: {}. Give them to the agent (systemd: CapabilityBoundingSet=)", lost.join("; "));
    check("capabilities", level, format!("missing {}", names.join(", ")), remedy)
}

fn system_calls(calls: &[(&'static str, Result<(), Errno>)]) -> Check {
    let refused: Vec<_> = calls
        .iter()
        .filter_map(|(name, result)| result.err().map(|errno| format!("{name}: {}", std::io::Error::from(errno))))
        .collect();
    if refused.is_empty() {
        let names: Vec<_> = calls.iter().map(|(name, _)| *name).collect();
        return check("system calls", Level::Ok, names.join(", "), "");
    }
    let remedy = "a newer kernel, or a seccomp profile around the agent that allows them (and root)";
    check("system calls", Level::Fail, refused.join(", "), remedy)
}

fn overlay(result: Result<(), Errno>, release: &str) -> Check {
    match result {
        Ok(()) if version(release).is_some_and(|version| version >= OVERLAY_BY_FD) => {
            check("overlay", Level::Ok, "layers by file descriptor", "")
        }
        Ok(()) => check("overlay", Level::Ok, "layers by path (before Linux 6.8)", ""),
        Err(errno) => {
            let remedy = "load it: modprobe overlay (or build the kernel with CONFIG_OVERLAY_FS)";
            check("overlay", Level::Fail, std::io::Error::from(errno).to_string(), remedy)
        }
    }
}

/// Few pods ask for one, so that a host without is no bad host.
fn user_namespaces(most: Option<u64>, release: &str) -> Check {
    let name = "user namespaces";
    let (major, minor) = MAPPED_OWNERS;
    match most {
        Some(1..) if version(release).is_some_and(|version| version >= MAPPED_OWNERS) => {
            check(name, Level::Ok, "for pods", "")
        }
        Some(1..) => check(name, Level::Ok, format!("not for pods, before Linux {major}.{minor}"), ""),
        Some(0) => check(
            name,
            Level::Warn,
            "turned off",
            "pods with hostUsers: false cannot run: sysctl -w user.max_user_namespaces=15000",
        ),
        None => check(name, Level::Warn, "none", "pods with hostUsers: false cannot run without CONFIG_USER_NS"),
    }
}

fn seccomp(actions: Option<&str>) -> Check {
    match actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            check("seccomp", Level::Ok, "filters", "")
        }
        _ => check("seccomp", Level::Fail, "no filters", "a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

fn cgroup_mounts(cgroups: &Cgroups) -> Check {
    let needed = ["cpu", "memory", "pids"];
    let Some((path, v2)) = &cgroups.v2 else {
        let found = if cgroups.v1.is_empty() { "none mounted" } else { "v1 only" };
        let remedy =
            "mount a cgroup2 hierarchy (systemd.unified_cgroup_hierarchy=1, or at /sys/fs/cgroup/unified beside v1)";
        return check("cgroups", Level::Fail, found, remedy);
    };
    let has = |controller: &str| cgroups.v1.iter().chain(v2).any(|name| name == controller);
    let missing: Vec<_> = needed.into_iter().filter(|controller| !has(controller)).collect();
    let kind = if cgroups.v1.is_empty() { "v2" } else { "v1, with v2" };
    let found = format!("{kind} at {}", path.display());
    if missing.is_empty() {
        return check("cgroups", Level::Ok, found, "");
    }
    let remedy = format!(
        "limits of {} have no effect: enable the controllers (cgroup_enable=memory on the kernel's command line, delegation in a container)",
        missing.join(", ")
    );
    check("cgroups", Level::Warn, format!("{found}, without {}", missing.join(", ")), remedy)
}

fn cgroup_driver(driver: CgroupDriver, systemd: bool) -> Check {
    let name = "cgroup driver";
    match (driver, systemd) {
        (CgroupDriver::Systemd, false) => {
            check(name, Level::Fail, "systemd, which is not the init here", "set cgroups.driver: cgroupfs")
        }
        (CgroupDriver::Cgroupfs, true) => {
            let remedy =
                "systemd is the init and expects to be the only one that writes cgroups: set cgroups.driver: systemd";
            check(name, Level::Warn, "cgroupfs", remedy)
        }
        (driver, _) => check(name, Level::Ok, driver.to_string(), ""),
    }
}

fn forwarding(facts: &Facts) -> Check {
    let word = |on: Option<bool>| match on {
        Some(true) => "on",
        Some(false) => "off",
        None => "absent",
    };
    let [ipv4, ipv6] = facts.forwarding;
    let found = format!("IPv4 {}, IPv6 {}", word(ipv4), word(ipv6));
    // The agent turns it on by itself when it may.
    if facts.sysctls_writable || (ipv4 != Some(false) && ipv6 != Some(false)) {
        return check("forwarding", Level::Ok, found, "");
    }
    let remedy = "/proc/sys/net cannot be written to: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
    check("forwarding", Level::Warn, found, remedy)
}

fn programs(facts: &Facts) -> Check {
    let missing: Vec<_> = facts.programs.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        let found: Vec<_> =
            facts.programs.iter().filter_map(|(_, path)| Some(path.as_ref()?.display().to_string())).collect();
        return check("iptables", Level::Ok, found.join(", "), "");
    }
    check("iptables", Level::Fail, format!("no {}", missing.join(", no ")), "install it: apt install iptables")
}

fn monitor(facts: &Facts, config: &Config) -> Check {
    let path = config.paths.monitor.display();
    match &facts.monitor {
        Ok(()) => check("monitor", Level::Ok, path.to_string(), ""),
        Err(error) => {
            let remedy = "install berth-monitor beside berth, or set `monitor` in the configuration";
            check("monitor", Level::Fail, format!("{path}: {error}"), remedy)
        }
    }
}

/// One that is missing takes its own pods along, and no others.
fn runtimes(broken: &[(String, String)]) -> Check {
    // The default handler's name is the first of all.
    let Some(default) = broken.first().map(|(name, _)| name.is_empty()) else {
        return check("runtimes", Level::Ok, "every handler's can be executed", "");
    };
    let level = if default { Level::Fail } else { Level::Warn };
    let found: Vec<_> = broken.iter().map(|(name, why)| format!("handler {name:?}: {why}")).collect();
    let remedy = "install the OCI runtime, or set `runtimes.NAME.path` in the configuration";
    check("runtimes", level, found.join("; "), remedy)
}

fn disk(disk: &Result<Disk, String>, config: &Config) -> Check {
    let root = config.paths.root.display();
    let disk = match disk {
        Ok(disk) => disk,
        Err(error) => {
            return check("disk", Level::Fail, format!("{root}: {error}"), "set `root` to a folder on a disk");
        }
    };
    let found = format!("{} MiB free at {root}", disk.free_bytes >> 20);
    if disk.read_only {
        return check(
            "disk",
            Level::Fail,
            format!("{root} is read-only"),
            "set `root` to a folder that can be written to",
        );
    }
    if disk.free_bytes < LITTLE_DISK {
        return check("disk", Level::Warn, found, "images may not fit: make room, or set `root` to a larger disk");
    }
    if disk.counts_inodes && disk.free_inodes < FEW_INODES {
        let found = format!("{found}, {} inodes", disk.free_inodes);
        return check("disk", Level::Warn, found, "images are many small files: a file system with more inodes");
    }
    check("disk", Level::Ok, found, "")
}

fn run_root(tmpfs: bool, config: &Config) -> Check {
    let path = config.paths.run_root.display().to_string();
    if tmpfs {
        return check("run_root", Level::Ok, format!("{path} on a tmpfs"), "");
    }
    let remedy = "what is there must not survive a reboot: set `run_root` to a folder on a tmpfs";
    check("run_root", Level::Warn, format!("{path} is not on a tmpfs"), remedy)
}

#[cfg(test)]
mod tests;
