//! Which pods and containers a filter lets through. Conditions AND together; what is not set lets all through. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use cri_api::v1::{
    ContainerFilter, ContainerStateValue, ContainerStatsFilter, PodSandboxFilter, PodSandboxStateValue,
    PodSandboxStatsFilter,
};

use super::convert;
use crate::model::{Container, Pod};
use crate::state::Snapshot;

/// The pods that pass. An id may be the beginning of one, if of only one.
pub(super) fn pods(snapshot: &Snapshot, filter: Option<&PodSandboxFilter>) -> Vec<Arc<Pod>> {
    let Some(filter) = filter else { return snapshot.pods.values().cloned().collect() };
    let state = filter.state.as_ref().map(PodSandboxStateValue::state);
    let passes = |pod: &Pod| {
        state.is_none_or(|state| state == convert::pod_state(pod.state.phase))
            && has_labels(&pod.spec.config.labels, &filter.label_selector)
    };
    by_id(&filter.id, || snapshot.pod(&filter.id).found(), || snapshot.pods.values(), passes)
}

/// The containers that pass. Both ids may be the beginning of one, if of only one.
pub(super) fn containers(snapshot: &Snapshot, filter: Option<&ContainerFilter>) -> Vec<Arc<Container>> {
    let Some(filter) = filter else { return snapshot.containers.values().cloned().collect() };
    let state = filter.state.as_ref().map(ContainerStateValue::state);
    let pod = match filter.pod_sandbox_id.as_str() {
        "" => None,
        id => match snapshot.pod(id).found() {
            Some(pod) => Some(pod),
            None => return Vec::new(),
        },
    };
    let passes = |container: &Container| {
        state.is_none_or(|state| state == convert::container_state(&container.state))
            && pod.as_ref().is_none_or(|pod| container.spec.pod == pod.id.as_str())
            && has_labels(&container.spec.config.labels, &filter.label_selector)
    };
    by_id(&filter.id, || snapshot.container(&filter.id).found(), || snapshot.containers.values(), passes)
}

/// A statistics filter as one that knows states too.
pub(super) fn of_stats(filter: ContainerStatsFilter) -> ContainerFilter {
    let ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter;
    ContainerFilter { id, state: None, pod_sandbox_id, label_selector }
}

/// As `of_stats`, for pods.
pub(super) fn of_pod_stats(filter: PodSandboxStatsFilter) -> PodSandboxFilter {
    let PodSandboxStatsFilter { id, label_selector } = filter;
    PodSandboxFilter { id, state: None, label_selector }
}

fn by_id<'a, T: 'a, All: Iterator<Item = &'a Arc<T>>>(
    id: &str,
    one: impl FnOnce() -> Option<Arc<T>>,
    all: impl FnOnce() -> All,
    passes: impl Fn(&T) -> bool,
) -> Vec<Arc<T>> {
    if id.is_empty() {
        all().filter(|object| passes(object)).cloned().collect()
    } else {
        one().filter(|object| passes(object)).into_iter().collect()
    }
}

fn has_labels(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests;
