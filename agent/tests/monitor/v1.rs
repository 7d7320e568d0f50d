//! Hosts with v1 hierarchies only: there is no cgroup.kill. On a host that has none of them there is nothing to try.

use std::fs;
use std::path::Path;
use std::time::Duration;

use berth::libcontainer::plan::PidNamespace;

use crate::support::{Container, Pod, Sandbox};

/// Daemons that left session, parent and group.
const DAEMONS: &str = "(setsid sh -c 'sleep 2000 & sleep 3000' &) ; sleep 4000";

/// A container in the node's PID namespace, where the death of its first process takes nobody along.
fn container(pod: &Pod<'_>) -> Option<Container> {
    let mut container = pod.container(DAEMONS);
    container.plan.namespaces.pid = PidNamespace::Node.into();
    container.only_v1().then_some(container)
}

fn processes(cgroup: &Path) -> usize {
    fs::read_to_string(cgroup.join("cgroup.procs")).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn a_stop_kills_all_of_a_container() {
    let sandbox = Sandbox::new().await;
    let mut pod = sandbox.pod().await;
    for how in ["stop", "end"] {
        let Some(container) = container(&pod) else { return };
        let cgroup = container.freezer.clone().unwrap();
        let pid = pod.create(&container).await.unwrap();
        pod.monitor.start(&container.id).await.unwrap();
        pod.until(|| processes(&cgroup) >= 3).await;
        if how == "stop" {
            pod.monitor.stop(&container.id, 9, Duration::ZERO).await.unwrap();
        } else {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
            pod.exited(&container).await;
        }
        pod.until(|| processes(&cgroup) == 0).await;
        assert_eq!(fs::read_to_string(cgroup.join("freezer.state")).unwrap(), "THAWED\n");
        container.remove_v1();
    }
}

#[tokio::test]
async fn kill_exec_takes_the_whole_tree_and_nothing_else() {
    let sandbox = Sandbox::new().await;
    let pod = sandbox.pod().await;
    let Some(container) = container(&pod) else { return };
    let cgroup = container.freezer.clone().unwrap();
    pod.create(&container).await.unwrap();
    pod.monitor.start(&container.id).await.unwrap();
    pod.until(|| processes(&cgroup) >= 3).await;
    pod.exec_raw(&container, "tree", &["/bin/sh", "-c", DAEMONS]).await.unwrap();
    let exec = || fs::read_dir(&cgroup).unwrap().flatten().map(|entry| entry.path()).find(|path| path.is_dir());
    pod.until(|| exec().is_some_and(|exec| processes(&exec) >= 3)).await;
    let before = processes(&cgroup);
    pod.monitor.kill_exec("tree").await.unwrap();
    pod.until(|| exec().is_none_or(|exec| processes(&exec) == 0)).await;
    assert_eq!(processes(&cgroup), before);
    // A next exec finds the place free, and the stop reaches what is in both.
    pod.exec_raw(&container, "again", &["/bin/sleep", "5000"]).await.unwrap();
    pod.monitor.stop(&container.id, 9, Duration::ZERO).await.unwrap();
    pod.until(|| processes(&cgroup) == 0 && exec().is_none_or(|exec| processes(&exec) == 0)).await;
    crate::support::remove_tree(&cgroup);
}
