//! Events of pods and containers.

use cri_api::v1;

use super::{container_status, pod_status};
use crate::state::{Event, EventKind};

/// One event, with the pod as it was right after it.
pub(in crate::cri) fn event(event: &Event) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.subject.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: event.pod.as_ref().map(|pod| pod_status(pod)),
        containers_statuses: event.containers.iter().map(|container| container_status(container)).collect(),
    }
}
