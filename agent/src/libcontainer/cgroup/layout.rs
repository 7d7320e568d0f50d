//! Which hierarchies the host has: v1, v2, or both at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CgroupError;
use super::folder::Root;
use crate::libcontainer::spec::{CgroupMounts, Hierarchy};

/// Who makes the cgroups of pods and containers (CRI `CgroupDriver`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// mkdir(2).
    #[default]
    Cgroupfs,
    /// systemd, as slices and scopes.
    Systemd,
}

/// v1 controllers; other words among a mount's options are no controllers.
const V1_CONTROLLERS: [&str; 14] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
];

const BASE: &str = "/sys/fs/cgroup";

/// The host's hierarchies; cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    driver: Driver,
    unified: Option<Root>,
    v1: Vec<Root>,
    mounts: CgroupMounts,
}

/// A line of mountinfo that is a cgroup file system.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    unified: bool,
    /// v1: its controllers, or `name=…`.
    options: Vec<String>,
}

impl Layout {
    /// Looks at /proc/thread-self/mountinfo and below /sys/fs/cgroup.
    ///
    /// # Errors
    /// `CgroupError`: no cgroup file system, or one that cannot be opened.
    pub fn detect(driver: Driver) -> Result<Self, CgroupError> {
        let path = Path::new("/proc/thread-self/mountinfo");
        let text =
            fs::read_to_string(path).map_err(|source| CgroupError::Io { op: "read", path: path.to_owned(), source })?;
        let mounted = parse(&text);
        let mut v1 = Vec::new();
        let mut hierarchies = Vec::new();
        for mount in mounted.iter().filter(|mount| !mount.unified) {
            v1.push(Root::new(&mount.point, mount.options.clone())?);
            hierarchies.push(hierarchy(mount));
        }
        let unified = mounted.iter().find(|mount| mount.unified).map(|mount| &mount.point);
        let unified = match unified {
            Some(point) => {
                let list = Root::new(point, Vec::new())?.open("")?.read("cgroup.controllers")?;
                Some(Root::new(point, list.split_whitespace().map(str::to_owned).collect())?)
            }
            None => None,
        };
        if v1.is_empty() && unified.is_none() {
            return Err(CgroupError::NoHierarchy);
        }
        let mounts = if v1.is_empty() {
            CgroupMounts::Unified
        } else {
            CgroupMounts::Legacy { hierarchies, links: links(Path::new(BASE)), unified: unified.is_some() }
        };
        Ok(Self { inner: Arc::new(Inner { driver, unified, v1, mounts }) })
    }

    /// Who makes the cgroups.
    pub fn driver(&self) -> Driver {
        self.inner.driver
    }

    /// For `HostFacts`, and so for what a container sees at /sys/fs/cgroup.
    pub fn mounts(&self) -> &CgroupMounts {
        &self.inner.mounts
    }

    /// All controllers are on the unified hierarchy.
    pub fn is_unified(&self) -> bool {
        self.inner.v1.is_empty()
    }

    /// The host can limit by this controller (`cpu`, `memory`, `io` …) in either version.
    pub fn has_controller(&self, name: &str) -> bool {
        self.home(name).is_some()
    }

    /// The huge pages of every container are counted. Where the controller is in the unified hierarchy of a hybrid host, those are alone
    /// that have a limit.
    pub fn counts_huge_pages(&self) -> bool {
        let of_v1 = self.v1_roots().iter().any(|root| root.has("hugetlb"));
        of_v1 || self.is_unified() && self.has_controller("hugetlb")
    }

    /// The kernel limits swap.
    pub fn has_swap_limit(&self) -> bool {
        let Some(home) = self.home("memory") else { return false };
        if !self.is_unified() {
            return home.full("memory.memsw.limit_in_bytes").exists();
        }
        // Every cgroup but the root has the file; the agent's own is no root where there are any.
        let children = home.children("");
        children.iter().any(|child| home.full(child).join("memory.swap.max").exists())
    }

    pub(super) fn v1_roots(&self) -> &[Root] {
        &self.inner.v1
    }

    pub(super) fn unified(&self) -> Option<&Root> {
        self.inner.unified.as_ref()
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = &Root> {
        self.inner.v1.iter().chain(&self.inner.unified)
    }

    /// The hierarchy that has a controller.
    pub(super) fn home(&self, controller: &str) -> Option<&Root> {
        self.roots().find(|root| root.has(controller))
    }
}

fn hierarchy(mount: &Mounted) -> Hierarchy {
    let folder = mount.point.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut options = mount.options.clone();
    if options.iter().all(|option| option.starts_with("name=")) {
        options.insert(0, "none".to_owned());
    }
    Hierarchy { folder, options }
}

/// Names such as `cpu` that lead to `cpu,cpuacct`.
fn links(base: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let mut list: Vec<(String, String)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().into_string().ok()?, target.to_str()?.to_owned()))
        })
        .filter(|(_, target)| !target.contains('/'))
        .collect();
    list.sort();
    list
}

/// cgroup mounts of a mountinfo (proc_pid_mountinfo(5)) below /sys/fs/cgroup, one for each hierarchy.
fn parse(mountinfo: &str) -> Vec<Mounted> {
    let mut list: Vec<Mounted> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut fields = file_system.split(' ');
        let (fstype, options) = (fields.next().unwrap_or(""), fields.nth(1).unwrap_or(""));
        let Some(point) = mount.split(' ').nth(4).filter(|point| point.starts_with(BASE)) else { continue };
        let options: Vec<String> = options
            .split(',')
            .filter(|option| V1_CONTROLLERS.contains(option) || option.starts_with("name="))
            .map(str::to_owned)
            .collect();
        let mounted = match fstype {
            "cgroup2" => Mounted { point: point.into(), unified: true, options: Vec::new() },
            "cgroup" if !options.is_empty() => Mounted { point: point.into(), unified: false, options },
            _ => continue,
        };
        let known = |other: &Mounted| other.unified == mounted.unified && other.options == mounted.options;
        if !list.iter().any(known) {
            list.push(mounted);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(point: &str, options: &[&str]) -> Mounted {
        Mounted { point: point.into(), unified: false, options: options.iter().map(|&one| one.to_owned()).collect() }
    }

    #[test]
    fn hybrid_hosts_have_both() {
        let text = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
34 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 27 0:29 / /mnt/elsewhere rw - cgroup cgroup rw,cpu,cpuacct
";
        let unified = Mounted { point: "/sys/fs/cgroup/unified".into(), unified: true, options: vec![] };
        assert_eq!(
            parse(text),
            [
                v1("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                v1("/sys/fs/cgroup/systemd", &["name=systemd"]),
                unified
            ]
        );
        assert_eq!(hierarchy(&v1("/sys/fs/cgroup/systemd", &["name=systemd"])).options, ["none", "name=systemd"]);
    }

    #[test]
    fn unified_hosts_have_one() {
        let text =
            "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw\nbroken\n";
        assert_eq!(parse(text), [Mounted { point: BASE.into(), unified: true, options: vec![] }]);
    }
}
