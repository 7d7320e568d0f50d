//! The host as the pure code sees it: plain data, filled in by `libcontainer::host` and by tests.

use std::path::PathBuf;

/// What this host can do; the same for every container, found once at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Capabilities that the agent itself holds and can pass on, as a bit mask.
    pub held_caps: u64,
    /// The agent's own oom_score_adj: without CAP_SYS_RESOURCE nothing can go below it (proc_pid_oom_score_adj(5)).
    pub oom_score_adj: i32,
    /// For pods that ask for no hostname.
    pub hostname: String,
    /// The kernel accounts swap to cgroups, so that a limit on memory can be one on memory and swap.
    pub swap_limit: bool,
    /// Huge pages can be limited.
    pub hugetlb: bool,
    /// mount_setattr(2) can make a whole tree of mounts read-only (Linux 5.12).
    pub recursive_readonly: bool,
    /// Pods can have user namespaces: layers and tmpfs can be mounted with mapped owners (Linux 6.3), and there may be some.
    pub user_namespaces: bool,
    /// AppArmor is active.
    pub apparmor: bool,
    /// Name of the loaded AppArmor profile for containers that ask for none; `None` where it could not be loaded.
    pub apparmor_default: Option<String>,
    /// SELinux is enforcing or permissive.
    pub selinux: bool,
    /// How the host mounts its cgroup hierarchies.
    pub cgroups: CgroupMounts,
    /// `(major, minor)` of the running kernel.
    pub kernel: (u32, u32),
}

/// The host's cgroup file systems, as /sys/fs/cgroup of a container shows them too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupMounts {
    /// cgroup2 at /sys/fs/cgroup.
    Unified,
    /// A tmpfs with one folder per v1 hierarchy, and `unified` where the host is hybrid.
    Legacy {
        /// In the host's order.
        hierarchies: Vec<Hierarchy>,
        /// Names that lead to a comounted hierarchy, e.g. `cpu` to `cpu,cpuacct`.
        links: Vec<(String, String)>,
        /// There is a cgroup2 at /sys/fs/cgroup/unified.
        unified: bool,
    },
}

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Name of its folder, e.g. `cpu,cpuacct`.
    pub folder: String,
    /// Mount options that select it, e.g. `cpu`, `cpuacct` or `none`, `name=systemd`.
    pub options: Vec<String>,
}

impl HostFacts {
    /// The nearest to an oom_score_adj that the agent can give.
    pub fn oom_score_adj_for(&self, asked: i32) -> i32 {
        if self.has_sys_resource() { asked } else { asked.max(self.oom_score_adj) }
    }

    /// The agent may raise limits and lower oom_score_adj.
    pub fn has_sys_resource(&self) -> bool {
        self.held_caps & (1 << 24) != 0
    }

    /// Overlays of any number of layers can be mounted without a mount table: `lowerdir+` is Linux 6.8, and layers with mapped
    /// owners, which are mounts of their own, are taken without being in a mount table since 6.15.
    pub fn detached_overlay(&self, idmapped: bool) -> bool {
        self.kernel >= if idmapped { (6, 15) } else { (6, 8) }
    }
}

/// The devices that one request means, as they are on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDevices {
    /// Parallel to `ContainerConfig.devices`: one device, or all below a folder.
    pub requested: Vec<Vec<HostDevice>>,
    /// All devices of the host; only filled for a privileged container.
    pub all: Vec<HostDevice>,
}

/// A device node of the host (stat(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it is on the host.
    pub path: PathBuf,
    /// A block device; otherwise a character device.
    pub block: bool,
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
