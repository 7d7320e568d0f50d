//! Statistics of containers and pods: the cgroups are read when somebody asks, and never otherwise, so an idle node
//! costs nothing. Requests within the same second share one reading. Writable layers are measured beside it (`layers`).

/// What only metrics have.
mod counters;
/// The counters of network interfaces.
mod interfaces;
/// What the writable layers take.
mod layers;
/// Statistics of pods.
mod pods;
/// One layer's walk.
mod walk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, Error, now};
use crate::libcontainer::cgroup::{Cgroup, CgroupStats};
use crate::model::{Container, ContainerId, ContainerState, PodId};
use layers::Layers;

pub use counters::Disk;
pub use interfaces::{Interface, Traffic};
pub use pods::PodStats;
pub use walk::LayerUsage;

/// How old a reading may be that is given again.
const FRESH: Duration = Duration::from_secs(1);

/// One container's numbers at one moment.
#[derive(Debug, Clone)]
pub struct Stats {
    /// When, in nanoseconds since the epoch.
    pub timestamp: i64,
    /// Its cgroup's counters; `None` when it is not running.
    pub cgroup: Option<CgroupStats>,
    /// CPU in use between this reading and the one before, in billionths of a core; `None` at the first.
    pub usage_nano_cores: Option<u64>,
    /// The writable layer; `None` while its first measure, of a huge tree, is still under way.
    pub layer: Option<LayerUsage>,
}

/// The last readings.
#[derive(Default)]
pub(super) struct Sampler {
    readings: Mutex<HashMap<ContainerId, Reading>>,
    pods: Mutex<HashMap<PodId, pods::Reading>>,
    layers: Layers,
}

#[derive(Clone)]
struct Reading {
    at: Instant,
    stats: Arc<Stats>,
}

impl Sampler {
    fn get(&self, id: &ContainerId) -> Option<Reading> {
        self.lock().get(id).cloned()
    }

    fn fresh(&self, id: &ContainerId) -> Option<Arc<Stats>> {
        self.get(id).filter(|reading| reading.at.elapsed() < FRESH).map(|reading| reading.stats)
    }

    fn put(&self, id: ContainerId, reading: Reading) {
        self.lock().insert(id, reading);
    }

    /// The container is removed.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
        self.layers.forget(id);
    }

    /// The pod is removed.
    pub(super) fn forget_pod(&self, id: &PodId) {
        self.pods().remove(id);
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<PodId, pods::Reading>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(all) = containers.iter().map(|container| self.stats.fresh(&container.id)).collect() {
            return Ok(all);
        }
        self.on_disk(move |engine| Ok(engine.read_all(&containers))).await
    }

    fn read_all(&self, containers: &[Arc<Container>]) -> Vec<Arc<Stats>> {
        let fresh: Vec<_> = containers.iter().map(|container| self.stats.fresh(&container.id)).collect();
        let stale =
            || containers.iter().zip(&fresh).filter(|(_, fresh)| fresh.is_none()).map(|(container, _)| container);
        let layer = |id: &ContainerId| (id.clone(), self.paths.container_layer(id).join("upper"));
        let first = self.stats.layers.ask(stale().map(|container| layer(&container.id)));
        // The cgroups are read while the layers are measured.
        let read: Vec<_> = stale().map(|container| (now(), self.read_cgroup(container))).collect();
        self.stats.layers.wait(&first);
        let mut new =
            stale().zip(read).map(|(container, (timestamp, cgroup))| self.reading(container, timestamp, cgroup));
        fresh.iter().filter_map(|fresh| fresh.clone().or_else(|| new.next())).collect()
    }

    fn read_cgroup(&self, container: &Container) -> Option<CgroupStats> {
        let alive = !matches!(container.state, ContainerState::Exited { .. });
        // A container that ends while it is read has no cgroup any more: that is no failure of the request.
        alive.then(|| Cgroup::open(&self.cgroups, &container.spec.cgroup).stats().ok()).flatten()
    }

    fn reading(&self, container: &Container, timestamp: i64, cgroup: Option<CgroupStats>) -> Arc<Stats> {
        let last = self.stats.get(&container.id);
        let rate = |last: &Stats| nano_cores((last.timestamp, last.cgroup.as_ref()?), (timestamp, cgroup.as_ref()?));
        let usage_nano_cores = last.and_then(|last| rate(&last.stats));
        let layer = self.stats.layers.last(&container.id);
        let stats = Arc::new(Stats { timestamp, cgroup, usage_nano_cores, layer });
        // One that was removed meanwhile has been forgotten, and nobody would forget it again.
        if self.state.snapshot().containers.contains_key(&container.id) {
            self.stats.put(container.id.clone(), Reading { at: Instant::now(), stats: stats.clone() });
        } else {
            self.stats.forget(&container.id);
        }
        stats
    }
}

/// The rate between two readings.
fn nano_cores(last: (i64, &CgroupStats), current: (i64, &CgroupStats)) -> Option<u64> {
    let used = current.1.cpu_usage_ns.checked_sub(last.1.cpu_usage_ns)?;
    let elapsed = u64::try_from(current.0 - last.0).ok().filter(|elapsed| *elapsed > 0)?;
    u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_cpu_time_by_time() {
        let used = |cpu_usage_ns| CgroupStats { cpu_usage_ns, ..CgroupStats::default() };
        assert_eq!(nano_cores((0, &used(500)), (2_000, &used(1_500))), Some(500_000_000), "half a core");
        assert_eq!(nano_cores((0, &used(500)), (0, &used(600))), None, "no time passed");
        assert_eq!(nano_cores((0, &used(500)), (10, &used(400))), None, "another cgroup than before");
    }
}
