//! PodSandboxStats and ListPodSandboxStats: the pod's own cgroup and network, beside the readings of its containers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::interfaces::{self, Interface};
use super::{FRESH, Stats, nano_cores};
use crate::libcontainer::cgroup::{Cgroup, CgroupStats};
use crate::model::{Container, Pod, PodPhase};
use crate::ops::{Engine, Error, now};

/// One pod's numbers at one moment.
#[derive(Debug, Clone)]
pub struct PodStats {
    /// When, in nanoseconds since the epoch.
    pub timestamp: i64,
    /// The pod's cgroup; `None` when it is not ready.
    pub cgroup: Option<CgroupStats>,
    /// Processes and threads of the whole pod; `None` when it is not ready, and where the kernel does not count them.
    pub tasks: Option<u64>,
    /// CPU in use between this reading and the one before, in billionths of a core; `None` at the first.
    pub usage_nano_cores: Option<u64>,
    /// Its interfaces but for the loopback one; `None` in the host's network, and when the pod is not ready.
    pub network: Option<Vec<Interface>>,
    /// Its containers, oldest first.
    pub containers: Vec<(Arc<Container>, Arc<Stats>)>,
}

/// A reading of the pod itself.
#[derive(Clone)]
pub(super) struct Reading {
    at: Instant,
    timestamp: i64,
    cgroup: Option<CgroupStats>,
    tasks: Option<u64>,
    usage_nano_cores: Option<u64>,
    network: Option<Vec<Interface>>,
}

impl Engine {
    /// The numbers of these pods, in their order.
    ///
    /// # Errors
    /// When the readings are given up because the agent goes down.
    pub async fn pod_stats(self: &Arc<Self>, pods: Vec<Arc<Pod>>) -> Result<Vec<PodStats>, Error> {
        let snapshot = self.snapshot();
        let mut of_pod: HashMap<&str, Vec<Arc<Container>>> = pods.iter().map(|pod| (pod.id.as_str(), vec![])).collect();
        for container in snapshot.containers.values() {
            if let Some(list) = of_pod.get_mut(container.spec.pod.as_str()) {
                list.push(container.clone());
            }
        }
        of_pod.values_mut().for_each(|list| list.sort_by_key(|container| container.spec.created_at));
        let mut containers: Vec<_> =
            pods.iter().map(|pod| of_pod.remove(pod.id.as_str()).unwrap_or_default()).collect();
        drop(of_pod);
        let mut stats = self.stats(containers.iter().flatten().cloned().collect()).await?.into_iter();
        let measured: Vec<Vec<_>> =
            containers.iter_mut().map(|list| list.drain(..).zip(stats.by_ref()).collect()).collect();
        let read = move |engine: &Engine| {
            let whole = |(pod, containers): (&Arc<Pod>, Vec<_>)| engine.read_pod(pod, containers);
            Ok(pods.iter().zip(measured).map(whole).collect())
        };
        self.on_disk(read).await
    }

    fn read_pod(&self, pod: &Pod, containers: Vec<(Arc<Container>, Arc<Stats>)>) -> PodStats {
        let last = self.stats.pods().get(&pod.id).cloned();
        let reading = match last {
            Some(last) if last.at.elapsed() < FRESH => last,
            last => self.read_pod_anew(pod, last.as_ref(), &containers),
        };
        let Reading { timestamp, cgroup, tasks, usage_nano_cores, network, .. } = reading;
        PodStats { timestamp, cgroup, tasks, usage_nano_cores, network, containers }
    }

    fn read_pod_anew(&self, pod: &Pod, last: Option<&Reading>, containers: &[(Arc<Container>, Arc<Stats>)]) -> Reading {
        let timestamp = now();
        let ready = pod.state.phase == PodPhase::Ready;
        let (cgroup, tasks) = if ready { self.pod_cgroup(pod, containers) } else { (None, None) };
        let rate = |last: &Reading| nano_cores((last.timestamp, last.cgroup.as_ref()?), (timestamp, cgroup.as_ref()?));
        let usage_nano_cores = last.and_then(rate);
        let network = self.network_counters(pod);
        let reading = Reading { at: Instant::now(), timestamp, cgroup, tasks, usage_nano_cores, network };
        let mut pods = self.stats.pods();
        // One that was removed meanwhile has been forgotten, and nobody would forget it again.
        if self.state.snapshot().pods.contains_key(&pod.id) {
            pods.insert(pod.id.clone(), reading.clone());
        } else {
            pods.remove(&pod.id);
        }
        reading
    }

    /// The cgroup that the client made for the pod. A pod that named none shares its parent with others: it is what its
    /// containers use.
    fn pod_cgroup(&self, pod: &Pod, containers: &[(Arc<Container>, Arc<Stats>)]) -> (Option<CgroupStats>, Option<u64>) {
        let open = |path: &str| Cgroup::open(&self.cgroups, path);
        let tasks = |path: &str| open(path).tasks().ok().flatten();
        if pod.spec.config.linux.as_ref().is_some_and(|linux| !linux.cgroup_parent.is_empty()) {
            let Ok(path) = self.cgroups.parent_path(&pod.spec.cgroup_parent) else { return (None, None) };
            return (open(&path).stats().ok(), tasks(&path));
        }
        let alive = || containers.iter().filter(|(_, stats)| stats.cgroup.is_some());
        let all = CgroupStats::sum(alive().filter_map(|(_, stats)| stats.cgroup.as_ref()));
        let counted = self.cgroups.has_controller("pids");
        (Some(all), counted.then(|| alive().filter_map(|(container, _)| tasks(&container.spec.cgroup)).sum()))
    }

    /// By the monitor, which lives in the pod's network namespace.
    fn network_counters(&self, pod: &Pod) -> Option<Vec<Interface>> {
        if pod.spec.host_network() {
            return None;
        }
        let monitor = self.monitors.get(&pod.id)?;
        let text = std::fs::read_to_string(format!("/proc/{}/net/dev", monitor.client.pid())).ok()?;
        Some(interfaces::parse(&text))
    }
}
