//! Filters over a small picture of two pods and three containers.

use super::*;
use crate::cri::convert::sample;

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (id, app) in [("aa1", "web"), ("aa2", "db")] {
        let pod = sample::pod(id, app);
        snapshot.pods.insert(pod.id.clone(), Arc::new(pod));
    }
    for (id, pod, app) in [("ca1", "aa1", "web"), ("ca2", "aa1", "log"), ("cb1", "aa2", "db")] {
        let container = sample::container(id, pod, app);
        snapshot.containers.insert(container.id.clone(), Arc::new(container));
    }
    snapshot
}

fn pod_ids(filter: PodSandboxFilter) -> Vec<String> {
    pods(&snapshot(), Some(&filter)).iter().map(|pod| pod.id.as_str().trim_end_matches('0').to_owned()).collect()
}

fn container_ids(filter: ContainerFilter) -> Vec<String> {
    let found = containers(&snapshot(), Some(&filter));
    found.iter().map(|container| container.id.as_str().trim_end_matches('0').to_owned()).collect()
}

fn app(value: &str) -> HashMap<String, String> {
    HashMap::from([("app".to_owned(), value.to_owned())])
}

#[test]
fn no_filter_and_an_empty_one_let_all_through() {
    assert_eq!(pods(&snapshot(), None).len(), 2);
    assert_eq!(containers(&snapshot(), None).len(), 3);
    assert_eq!(pod_ids(PodSandboxFilter::default()), ["aa1", "aa2"]);
    assert_eq!(container_ids(ContainerFilter::default()), ["ca1", "ca2", "cb1"]);
}

#[test]
fn the_beginning_of_one_id_finds_it_and_that_of_two_finds_none() {
    assert_eq!(pod_ids(PodSandboxFilter { id: "aa2".into(), ..Default::default() }), ["aa2"]);
    assert!(pod_ids(PodSandboxFilter { id: "aa".into(), ..Default::default() }).is_empty());
    assert_eq!(container_ids(ContainerFilter { id: "cb".into(), ..Default::default() }), ["cb1"]);
    assert!(container_ids(ContainerFilter { id: "ca".into(), ..Default::default() }).is_empty());
}

#[test]
fn labels_must_all_be_there() {
    assert_eq!(pod_ids(PodSandboxFilter { label_selector: app("db"), ..Default::default() }), ["aa2"]);
    let mut two = app("db");
    two.insert("tier".into(), "back".into());
    assert!(pod_ids(PodSandboxFilter { label_selector: two, ..Default::default() }).is_empty());
}

#[test]
fn conditions_and_together() {
    let of_pod = |pod: &str| ContainerFilter { pod_sandbox_id: pod.into(), ..Default::default() };
    assert_eq!(container_ids(of_pod("aa1")), ["ca1", "ca2"]);
    assert_eq!(container_ids(ContainerFilter { label_selector: app("log"), ..of_pod("aa1") }), ["ca2"]);
    assert!(container_ids(ContainerFilter { label_selector: app("log"), ..of_pod("aa2") }).is_empty());
    assert!(container_ids(ContainerFilter { id: "cb1".into(), ..of_pod("aa1") }).is_empty());
    assert!(container_ids(of_pod("nobody")).is_empty());
}

#[test]
fn states_are_told_apart_and_zero_is_a_state() {
    let pod = |state| PodSandboxFilter { state: Some(PodSandboxStateValue { state }), ..Default::default() };
    assert_eq!((pod_ids(pod(0)).len(), pod_ids(pod(1)).len()), (2, 0));
    let container = |state| ContainerFilter { state: Some(ContainerStateValue { state }), ..Default::default() };
    assert_eq!((container_ids(container(0)).len(), container_ids(container(1)).len()), (0, 3));
}
