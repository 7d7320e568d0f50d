//! Measured by `ops`, made into messages one by one as they are taken: for the verbs that list statistics and those that
//! stream them.

use std::sync::Arc;

use cri_api::v1::{ContainerStats, ContainerStatsFilter, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter};
use tonic::Status;

use super::status::failed;
use super::{convert, filter};
use crate::model::{Container, Pod};
use crate::ops::{Engine, PodStats};

/// Those of containers, in their order.
pub(super) async fn of(
    engine: &Arc<Engine>,
    containers: Vec<Arc<Container>>,
) -> Result<impl Iterator<Item = ContainerStats> + Send + use<>, Status> {
    let stats = engine.stats(containers.clone()).await.map_err(|error| failed(&error))?;
    let disk = engine.images().fs_usage().mountpoint;
    Ok(containers.into_iter().zip(stats).map(move |(container, stats)| convert::stats(&container, &stats, &disk)))
}

/// Those of pods, in their order.
pub(super) async fn of_pods(
    engine: &Arc<Engine>,
    pods: Vec<Arc<Pod>>,
) -> Result<impl Iterator<Item = PodSandboxStats> + Send + use<>, Status> {
    let stats = engine.pod_stats(pods.clone()).await.map_err(|error| failed(&error))?;
    let disk = engine.images().fs_usage().mountpoint;
    Ok(pods.into_iter().zip(stats).map(move |(pod, stats)| convert::pod_stats(&pod, &stats, &disk)))
}

/// Those of the containers that a filter lets through.
pub(super) async fn listed(
    engine: &Arc<Engine>,
    filter: Option<ContainerStatsFilter>,
) -> Result<impl Iterator<Item = ContainerStats> + Send + use<>, Status> {
    let filter = filter.map(filter::of_stats);
    of(engine, filter::containers(&engine.snapshot(), filter.as_ref())).await
}

/// Those of the pods that a filter lets through.
pub(super) async fn listed_pods(
    engine: &Arc<Engine>,
    filter: Option<PodSandboxStatsFilter>,
) -> Result<impl Iterator<Item = PodSandboxStats> + Send + use<>, Status> {
    let filter = filter.map(filter::of_pod_stats);
    of_pods(engine, filter::pods(&engine.snapshot(), filter.as_ref())).await
}

/// The metrics of all pods.
pub(super) async fn metrics(
    engine: &Arc<Engine>,
) -> Result<impl Iterator<Item = PodSandboxMetrics> + Send + use<>, Status> {
    let pods = filter::pods(&engine.snapshot(), None);
    let stats = engine.pod_stats(pods.clone()).await.map_err(|error| failed(&error))?;
    let containers = stats.iter().flat_map(|stats| &stats.containers).map(|(container, _)| container.clone()).collect();
    let (counters, disk) = engine.counters(containers).await.map_err(|error| failed(&error))?;
    let mut counters = counters.into_iter();
    let of_pod = move |(pod, stats): (Arc<Pod>, PodStats)| {
        let own = counters.by_ref().take(stats.containers.len());
        convert::pod_metrics(&pod, &stats, own, disk)
    };
    Ok(pods.into_iter().zip(stats).map(of_pod))
}
