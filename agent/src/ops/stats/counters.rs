//! What ListPodSandboxMetrics has beside the statistics: more of the cgroups, and the disk of the writable layers.

use std::sync::Arc;

use crate::libcontainer::cgroup::{Cgroup, Counters};
use crate::model::{Container, ContainerState};
use crate::ops::{Engine, Error};

/// The file system of the writable layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Device number: major and minor.
    pub device: (u32, u32),
    /// Its size in bytes.
    pub bytes: u64,
    /// How many files it can have; 0 where there is no such number.
    pub inodes: u64,
    /// How many more.
    pub free_inodes: u64,
}

impl Engine {
    /// The counters of these containers, in their order, `None` for one that does not run; and the disk.
    ///
    /// # Errors
    /// When the reading is given up because the agent goes down.
    pub async fn counters(
        self: &Arc<Self>,
        containers: Vec<Arc<Container>>,
    ) -> Result<(Vec<Option<Counters>>, Disk), Error> {
        let read = move |engine: &Engine| {
            let of = |container: &Arc<Container>| {
                let alive = !matches!(container.state, ContainerState::Exited { .. });
                // One that ends while it is read has no cgroup any more.
                alive.then(|| Cgroup::open(&engine.cgroups, &container.spec.cgroup).counters().ok()).flatten()
            };
            Ok((containers.iter().map(of).collect(), engine.disk()))
        };
        self.on_disk(read).await
    }

    /// Whether this host's cgroups count the huge pages of every container.
    pub fn counts_huge_pages(&self) -> bool {
        self.cgroups.counts_huge_pages()
    }

    fn disk(&self) -> Disk {
        let root = &self.paths.root;
        let (Ok(size), Ok(file)) = (rustix::fs::statvfs(root), rustix::fs::stat(root)) else { return Disk::default() };
        Disk {
            device: (rustix::fs::major(file.st_dev), rustix::fs::minor(file.st_dev)),
            bytes: size.f_blocks.saturating_mul(size.f_frsize),
            inodes: size.f_files,
            free_inodes: size.f_favail,
        }
    }
}
