//! Many pods of CNI plugins at one time, ours and Debian's, leave nothing behind.

use cri_api::v1;
use test_e2e::fixture::eventually;

use crate::cni::{Node, after_first_port, portmap};
use crate::recovery::nothing_more_than;

#[tokio::test]
async fn five_hundred_pods_sixteen_at_a_time_leave_nothing() {
    let node = Node::new("cni-500").await;
    node.network("1.0.0", &[node.bridge("bridge"), portmap("portmap")]).await;
    many(&node, 500).await;
}

#[tokio::test]
async fn pods_of_debians_plugins_sixteen_at_a_time_leave_nothing() {
    many_of_debians("cni-32-debian", 32).await;
}

#[tokio::test]
#[ignore = "takes minutes: a dozen programs a pod"]
async fn five_hundred_pods_of_debians_plugins_leave_nothing() {
    many_of_debians("cni-500-debian", 500).await;
}

async fn many_of_debians(name: &str, pods: usize) {
    let node = Node::new(name).await;
    node.network("1.0.0", &[node.bridge("debian-bridge"), portmap("debian-portmap")]).await;
    many(&node, pods).await;
}

/// All at one time there, and gone again.
async fn many(node: &Node, pods: usize) {
    let before = after_first_port(node).await;
    let workers = (0..16).map(async |worker| {
        let mut ids = Vec::new();
        for number in (worker..pods).step_by(16) {
            let mapping =
                v1::PortMapping { container_port: 80, host_port: 20_000 + number as i32, ..Default::default() };
            let pod = node.e2e.pod_with(&format!("many-{number}"), |config| config.port_mappings = vec![mapping]).await;
            ids.push(pod.id);
        }
        ids
    });
    let ids = futures_util::future::join_all(workers).await;
    assert_eq!((node.leases().len(), node.records().len()), (2 * pods, pods));
    let enders = ids.iter().map(async |ids| {
        for id in ids {
            node.e2e.client.stop_pod(id).await.expect("stop");
            node.e2e.client.remove_pod(id).await.expect("remove");
        }
    });
    futures_util::future::join_all(enders).await;
    // A removal waits for its plugins, but not for ever.
    let gone = async || (node.leases().is_empty() && node.records().is_empty()).then_some(());
    eventually("the plugins have taken all of them out", gone).await;
    nothing_more_than(&node.e2e, &before).await;
}
