//! GetContainerEvents, which kubelet's evented PLEG lives on.

use std::time::Duration;

use cri_api::v1;
use test_e2e::fixture::{Fixture, seconds};
use v1::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};

/// The next event of a pod; the other tests' pods are told of, too.
async fn next(events: &mut tonic::Streaming<v1::ContainerEventResponse>, pod: &str) -> v1::ContainerEventResponse {
    let of_pod = async {
        loop {
            let event = events.message().await.expect("an event").expect("the stream goes on");
            if event.pod_sandbox_status.as_ref().is_some_and(|status| status.id == pod) {
                return event;
            }
        }
    };
    let limit = Duration::from_secs(seconds(60).unsigned_abs());
    tokio::time::timeout(limit, of_pod).await.unwrap_or_else(|_| panic!("no further event of {pod}"))
}

#[tokio::test]
async fn newer_events_tell_a_life_in_its_order() {
    let e2e = Fixture::shared().await;
    let request = v1::GetEventsRequest {};
    let mut events = e2e.client.runtime.clone().get_container_events(request).await.expect("events").into_inner();
    let pod = e2e.pod("events").await;
    let container = pod.start("main", &["true"]).await;
    container.wait_exit().await;
    e2e.client.remove_container(&container.id).await.expect("remove");
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    e2e.client.remove_pod(&pod.id).await.expect("remove");

    let expected = [
        (&pod.id, ContainerCreatedEvent),
        (&pod.id, ContainerStartedEvent),
        (&container.id, ContainerCreatedEvent),
        (&container.id, ContainerStartedEvent),
        (&container.id, ContainerStoppedEvent),
        (&container.id, ContainerDeletedEvent),
        (&pod.id, ContainerStoppedEvent),
        (&pod.id, ContainerDeletedEvent),
    ];
    let mut last = 0;
    for (id, kind) in expected {
        let event = next(&mut events, &pod.id).await;
        assert_eq!((&event.container_id, event.container_event_type()), (id, kind), "{event:?}");
        assert!(event.created_at >= last.max(1), "{event:?}");
        last = event.created_at;
        let listed = event.containers_statuses.iter().map(|status| (&status.id, status.state()));
        let listed: Vec<_> = listed.collect();
        if id == &container.id && kind == ContainerStoppedEvent {
            assert_eq!(listed, [(id, v1::ContainerState::ContainerExited)]);
        }
        if id == &container.id && kind == ContainerDeletedEvent {
            assert_eq!(listed, [], "it is gone");
        }
        let ready = event.pod_sandbox_status.expect("the pod").state() == v1::PodSandboxState::SandboxReady;
        assert_eq!(ready, id == &container.id || kind != ContainerStoppedEvent && kind != ContainerDeletedEvent);
    }
}

#[tokio::test]
async fn newer_what_an_event_tells_can_be_read() {
    let e2e = Fixture::shared().await;
    let request = v1::GetEventsRequest {};
    let mut events = e2e.client.runtime.clone().get_container_events(request).await.expect("events").into_inner();
    let (pod, container) = e2e.run("events-read", &["sleep", "1000"]).await;
    let kill = async {
        e2e.client.stop_container(&container.id, 0).await.expect("stop");
    };
    let read = async {
        loop {
            let event = next(&mut events, &pod.id).await;
            if event.container_event_type() == ContainerStoppedEvent {
                // Not a moment later: this is what an event is for.
                assert_eq!(container.status().await.state(), v1::ContainerState::ContainerExited);
                return;
            }
        }
    };
    tokio::join!(kill, read);
}
