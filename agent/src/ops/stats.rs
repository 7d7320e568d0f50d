//! ContainerStats and ListContainerStats: the cgroups are read when somebody asks, and never otherwise, so an idle node
//! costs nothing. Requests within the same second share one reading.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, Error, now};
use crate::libcontainer::cgroup::{Cgroup, CgroupStats};
use crate::model::{Container, ContainerId, ContainerState};

/// How old a reading may be that is given again.
const FRESH: Duration = Duration::from_secs(1);

/// How old the measure of a writable layer may be: walking it costs a disk access a folder.
const LAYER_FRESH: Duration = Duration::from_secs(10);

/// One container's numbers at one moment.
#[derive(Debug, Clone)]
pub struct Stats {
    /// When, in nanoseconds since the epoch.
    pub timestamp: i64,
    /// Its cgroup's counters; `None` when it is not running.
    pub cgroup: Option<CgroupStats>,
    /// CPU in use between this reading and the one before, in billionths of a core; `None` at the first.
    pub usage_nano_cores: Option<u64>,
    /// The writable layer.
    pub layer: LayerUsage,
}

/// What a writable layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
}

/// The last readings.
#[derive(Default)]
pub(super) struct Sampler {
    readings: Mutex<HashMap<ContainerId, Reading>>,
}

#[derive(Clone)]
struct Reading {
    at: Instant,
    layer_at: Instant,
    stats: Arc<Stats>,
}

impl Sampler {
    fn get(&self, id: &ContainerId) -> Option<Reading> {
        self.lock().get(id).cloned()
    }

    fn put(&self, id: ContainerId, reading: Reading) {
        self.lock().insert(id, reading);
    }

    /// The container is removed.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, Reading>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// The numbers of these containers, in their order.
    ///
    /// # Errors
    /// When the readings are given up because the agent goes down.
    pub async fn stats(self: &Arc<Self>, containers: Vec<Arc<Container>>) -> Result<Vec<Arc<Stats>>, Error> {
        let fresh = |container: &Arc<Container>| {
            self.stats.get(&container.id).filter(|reading| reading.at.elapsed() < FRESH).map(|reading| reading.stats)
        };
        if let Some(all) = containers.iter().map(fresh).collect::<Option<Vec<_>>>() {
            return Ok(all);
        }
        self.on_disk(move |engine| Ok(containers.iter().map(|container| engine.read_stats(container)).collect())).await
    }

    fn read_stats(&self, container: &Container) -> Arc<Stats> {
        let last = self.stats.get(&container.id);
        let alive = !matches!(container.state, ContainerState::Exited { .. });
        // A container that ends while it is read has no cgroup any more: that is no failure of the request.
        let cgroup = alive.then(|| Cgroup::open(&self.cgroups, &container.spec.cgroup).stats().ok()).flatten();
        let timestamp = now();
        let usage_nano_cores = last.as_ref().and_then(|last| nano_cores(&last.stats, cgroup.as_ref()?, timestamp));
        let measured = last.as_ref().filter(|last| last.layer_at.elapsed() < LAYER_FRESH);
        let (layer, layer_at) = match measured {
            Some(last) => (last.stats.layer, last.layer_at),
            None => (measure(&self.paths.container_layer(&container.id).join("upper")), Instant::now()),
        };
        let stats = Arc::new(Stats { timestamp, cgroup, usage_nano_cores, layer });
        // One that was removed meanwhile has been forgotten, and nobody would forget it again.
        if self.state.snapshot().containers.contains_key(&container.id) {
            self.stats.put(container.id.clone(), Reading { at: Instant::now(), layer_at, stats: stats.clone() });
        }
        stats
    }
}

fn nano_cores(last: &Stats, current: &CgroupStats, timestamp: i64) -> Option<u64> {
    let used = current.cpu_usage_ns.checked_sub(last.cgroup.as_ref()?.cpu_usage_ns)?;
    let elapsed = u64::try_from(timestamp - last.timestamp).ok().filter(|elapsed| *elapsed > 0)?;
    u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed)).ok()
}

/// Disk usage of a tree; what vanishes meanwhile is not counted. A file with several names counts once a name is met.
fn measure(root: &Path) -> LayerUsage {
    let mut usage = LayerUsage::default();
    let mut linked = std::collections::HashSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        usage.inodes += 1;
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if metadata.nlink() == 1 || linked.insert(metadata.ino()) {
                usage.inodes += 1;
            } else {
                continue;
            }
            usage.bytes += metadata.blocks() * 512;
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_measured_with_each_file_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1u8; 8192]).unwrap();
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        let usage = measure(dir.path());
        assert_eq!(usage.inodes, 3);
        assert!((8192..3 * 8192).contains(&usage.bytes), "{usage:?}");
    }
}
