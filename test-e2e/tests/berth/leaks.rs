//! Two hundred pods come and go, eight at a time, twice: the machine is as it was.

use test_e2e::fixture::Fixture;
use tonic::Status;

use crate::recovery::{after_first_use, nothing_more_than};

/// How many pods, and how many at a time.
const PODS: usize = 200;
const PARALLEL: usize = 8;

#[tokio::test]
async fn two_hundred_pods_twice_leave_nothing() {
    let e2e = Fixture::own("leaks").await;
    let before = after_first_use(&e2e).await;
    for _ in 0..2 {
        round(&e2e, PODS).await;
        nothing_more_than(&e2e, &before).await;
    }
}

#[tokio::test]
async fn a_running_container_mounts_nothing_on_the_host() {
    let e2e = Fixture::own("mounts").await;
    let table = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
    let pids = (e2e.machine.host.pid(), e2e.agent().pid);
    let before = (table(pids.0), table(pids.1));
    let (_pod, container) = e2e.run("mounts", &["sleep", "1000"]).await;
    container.sh("true").await;
    assert_eq!((table(pids.0), table(pids.1)), before);
}

/// So many lives of a pod with one container, some at a time.
async fn round(e2e: &Fixture, pods: usize) {
    let workers = (0..PARALLEL).map(async |worker| {
        for number in (worker..pods).step_by(PARALLEL) {
            life(e2e, &format!("pod-{number}")).await.unwrap_or_else(|e| panic!("pod {number}: {e:?}"));
        }
    });
    futures_util::future::join_all(workers).await;
}

async fn life(e2e: &Fixture, name: &str) -> Result<(), Status> {
    let pod = e2e.try_pod(name, |_| {}).await?;
    let container = pod.try_create("main", &["sh", "-c", "echo hi; exec sleep 1000"], |_| {}).await?;
    e2e.client.start_container(&container.id).await?;
    let exec = e2e.client.exec(&container.id, &["true"], 10).await?;
    assert_eq!(exec.exit_code, 0);
    e2e.client.stop_container(&container.id, 0).await?;
    e2e.client.remove_container(&container.id).await?;
    e2e.client.stop_pod(&pod.id).await?;
    e2e.client.remove_pod(&pod.id).await
}
