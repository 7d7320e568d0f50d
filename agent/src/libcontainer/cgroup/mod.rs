//! cgroups v1, v2 and hybrid: make, limit, enter, kill, freeze, measure, remove.
//!
//! A container has one path, the same in every hierarchy. Nothing is held open between calls: the kernel is the only
//! memory. Calls block, for microseconds but for `freeze` and `remove`, which wait within a bound.

/// Kill, freeze, remove, and who is in a cgroup.
mod control;
/// Counters for metrics.
mod counters;
/// Device rules, for v1's files and v2's programs.
mod devices;
/// Why a cgroup could not be made or used.
mod error;
/// Folders and files of cgroup file systems.
mod folder;
/// Huge pages in use.
mod huge_pages;
/// Which hierarchies the host has.
mod layout;
/// Limits, set and changed.
mod limits;
/// The processes' rank when memory runs out.
mod oom_score;
/// What the processes have open.
mod open_files;
/// A container's place below its pod's cgroup.
mod path;
/// Pressure.
mod psi;
/// Usage.
mod stats;
/// The systemd driver: scopes over D-Bus.
mod systemd;

use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;

pub use counters::{Counters, DiskCounters};
pub use devices::attach_device_rules;
pub use error::CgroupError;
pub use huge_pages::HugePages;
pub use layout::{Driver, Layout};
pub use limits::{Change, cpu_weight};
pub use open_files::OpenFiles;
pub use psi::{Psi, Stall};
pub use stats::CgroupStats;
pub use systemd::Systemd;

use folder::{Folder, Root};

/// A container's cgroup as the monitor uses it.
#[derive(Debug, Default)]
pub struct CgroupFds {
    /// Its folder in the unified hierarchy: entered by CLONE_INTO_CGROUP, killed by cgroup.kill.
    pub unified: Option<OwnedFd>,
    /// `tasks` of its folder in each v1 hierarchy, open for writing: for a process with one thread, which enters by writing 0.
    pub v1_tasks: Vec<OwnedFd>,
    /// The folder with memory.events (v2) or memory.oom_control (v1), for exact OOM detection.
    pub memory: Option<OwnedFd>,
    /// Its folder in v1's freezer hierarchy, by which it is killed where there is no unified one.
    pub freezer: Option<OwnedFd>,
}

/// One path in all of the host's hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Layout,
    /// Without a leading slash.
    path: String,
}

impl Cgroup {
    /// Makes the cgroup with its missing parents, and sets its limits. What exists is taken over.
    ///
    /// # Errors
    /// `CgroupError`, after the cgroup (but not its parents) is removed again; a scope stays.
    pub fn create(layout: &Layout, path: &str, limits: Option<&LinuxResources>) -> Result<Self, CgroupError> {
        let cgroup = Self::open(layout, path);
        path::check(&cgroup.path)?;
        let made = cgroup.make(limits).and_then(|()| limits.map_or(Ok(()), |limits| cgroup.apply(limits)));
        if let Err(error) = made {
            // The first error is the one to tell; what stays behind now is found by the sweep. A scope has somebody in
            // it already, and whoever had it started ends it.
            if layout.driver() == Driver::Cgroupfs {
                let _ = cgroup.remove();
            }
            return Err(error);
        }
        Ok(cgroup)
    }

    /// A cgroup that may or may not exist: the calls on it say so.
    pub fn open(layout: &Layout, path: &str) -> Self {
        Self { layout: layout.clone(), path: path.trim_matches('/').to_owned() }
    }

    /// Where it is, below the root of each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Changes limits of a running container, all that are set or none; what is not set stays, and so do device rules.
    ///
    /// # Errors
    /// As `change` and `Change::carry_out`.
    pub fn update(&self, limits: &LinuxResources) -> Result<(), CgroupError> {
        self.change(limits)?.carry_out()
    }

    /// A change of limits, looked up and ready to be made.
    ///
    /// # Errors
    /// `CgroupError`: the cgroup is gone, the host does not have such a limit, or more memory is in use than the new
    /// limit allows. The limits are as they were.
    pub fn change(&self, limits: &LinuxResources) -> Result<Change, CgroupError> {
        let hugepages = limits.hugepage_limits().as_ref().is_some_and(|list| !list.is_empty());
        // Not at creation, maybe: see `make`.
        if let Some(root) = self.layout.unified().filter(|_| hugepages && !self.layout.is_unified()) {
            self.enable_controllers(root)?;
        }
        Change::of(self, limits)
    }

    /// What a process needs to enter, and what tells of out-of-memory kills.
    ///
    /// # Errors
    /// `CgroupError::Io` when the cgroup is gone.
    pub fn join_fds(&self) -> Result<CgroupFds, CgroupError> {
        let mut fds = CgroupFds::default();
        let memory = self.layout.home("memory");
        for root in self.layout.v1_roots() {
            let folder = root.open(&self.path)?;
            fds.v1_tasks.push(folder.open_file("tasks", OFlags::WRONLY)?);
            if memory.is_some_and(|home| std::ptr::eq(home, root)) {
                fds.memory = Some(folder.into_fd());
            }
        }
        if let (None, Some(root)) = (self.layout.unified(), self.layout.home("freezer")) {
            fds.freezer = Some(root.open(&self.path)?.into_fd());
        }
        if let Some(root) = self.layout.unified() {
            if memory.is_some_and(|home| std::ptr::eq(home, root)) {
                fds.memory = Some(root.open(&self.path)?.into_fd());
            }
            fds.unified = Some(root.open(&self.path)?.into_fd());
        }
        Ok(fds)
    }

    fn make(&self, limits: Option<&LinuxResources>) -> Result<(), CgroupError> {
        for root in self.layout.v1_roots() {
            let made = root.make(&self.path)?;
            if root.has("cpuset") {
                made.iter().try_for_each(|path| limits::inherit_cpuset(root, path))?;
            }
        }
        if let Some(root) = self.layout.unified() {
            root.make(&self.path)?;
            // On a hybrid host the unified hierarchy is for killing; its controllers are on only where they are used.
            let hugepages = limits.is_some_and(|limits| limits.hugepage_limits().is_some());
            if self.layout.is_unified() || hugepages {
                self.enable_controllers(root)?;
            }
        }
        Ok(())
    }

    /// Controllers work in a cgroup when each ancestor hands them down (cgroup-v2, "Enabling and Disabling").
    fn enable_controllers(&self, root: &Root) -> Result<(), CgroupError> {
        let wanted = root.controllers();
        let Some((parent, _)) = self.path.rsplit_once('/').or(Some(("", ""))) else { return Ok(()) };
        let missing = |folder: &Folder| -> Result<Vec<String>, CgroupError> {
            let on = folder.read("cgroup.subtree_control")?;
            let on: Vec<&str> = on.split_whitespace().collect();
            Ok(wanted.iter().filter(|one| !on.contains(&one.as_str())).map(|one| format!("+{one}")).collect())
        };
        if missing(&root.open(parent)?)?.is_empty() {
            return Ok(());
        }
        for ancestor in path::ancestors(parent) {
            let folder = root.open(ancestor)?;
            let list = missing(&folder)?;
            if !list.is_empty() && folder.write("cgroup.subtree_control", &list.join(" ")).is_err() {
                // One that cannot be had (cpu with real-time processes about) does not take the others along; a limit
                // that then has no file is told as such.
                list.iter().for_each(|one| drop(folder.write("cgroup.subtree_control", one)));
            }
        }
        Ok(())
    }

    fn apply(&self, limits: &LinuxResources) -> Result<(), CgroupError> {
        limits::set(&self.layout, &self.path, limits)?;
        devices::apply(&self.layout, &self.path, limits.devices().as_deref().unwrap_or_default())
    }
}
