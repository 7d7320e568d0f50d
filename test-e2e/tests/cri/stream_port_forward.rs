//! PortForward: connections to what listens on a pod's loopback.

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture};
use test_e2e::spec;
use test_e2e::stream::Client;
use tonic::Code;

/// Of the first port: its bytes, and its errors.
const DATA: u8 = 0;
const ERROR: u8 = 1;

async fn forward(e2e: &Fixture, pod: &str, port: u16) -> Client {
    let url = e2e.client.port_forward_url(pod, vec![i32::from(port)]).await.expect("a url");
    // Over WebSocket the ports are in the query; kubelet's server reads them there.
    Client::connect(e2e, &format!("{url}?port={port}")).await
}

/// The channel's bytes after the port that comes first on each.
fn said(client: &Client, channel: u8, port: u16) -> &[u8] {
    client.received(channel).strip_prefix(&port.to_le_bytes()).expect("the port comes first")
}

/// Waits until something listens there.
async fn wait_for_listener(container: &Container<'_>, port: u16) {
    let line = format!("while ! netstat -ltn | grep -q ':{port} '; do sleep 0.02; done");
    container.sh(&line).await;
}

/// A web server with a file of three million bytes.
fn serve(address: &str) -> String {
    format!("mkdir /www; head -c 3000000 /dev/zero > /www/big; exec httpd -f -p {address} -h /www")
}

/// Gets the file, in two pieces.
async fn get(e2e: &Fixture, pod: &str, port: u16) {
    let mut client = forward(e2e, pod, port).await;
    client.send(DATA, b"GET /big HT").await;
    client.send(DATA, b"TP/1.0\r\n\r\n").await;
    client.wait_for(DATA, "\r\n\r\n").await;
    let data = client.rest(DATA).await;
    let answer = data.strip_prefix(&port.to_le_bytes()).expect("the port comes first");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", String::from_utf8_lossy(&answer[..100]));
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    assert_eq!(answer.len() - head - 4, 3_000_000);
}

#[tokio::test]
async fn newer_a_pods_port_is_reached_over_either_loopback() {
    let e2e = Fixture::shared().await;
    for (name, address) in [("forward-4", "127.0.0.1:8080"), ("forward-6", "[::1]:8080")] {
        let (pod, container) = e2e.run(name, &["sh", "-c", &serve(address)]).await;
        wait_for_listener(&container, 8080).await;
        get(&e2e, &pod.id, 8080).await;
        get(&e2e, &pod.id, 8080).await;
    }
}

#[tokio::test]
async fn newer_a_pod_in_the_hosts_network_is_reached_too() {
    let e2e = Fixture::shared().await;
    let node = v1::NamespaceMode::Node.into();
    let pod = e2e.pod_with("forward-host", |config| spec::pod_namespaces(config).network = node).await;
    let command = serve("127.0.0.1:18081");
    let change = |config: &mut v1::ContainerConfig| spec::container_namespaces(config).network = node;
    let container = pod.start_with("main", &["sh", "-c", &command], change).await;
    wait_for_listener(&container, 18081).await;
    get(&e2e, &pod.id, 18081).await;
}

#[tokio::test]
async fn newer_a_port_where_nobody_listens_is_told() {
    let e2e = Fixture::shared().await;
    let (pod, _container) = e2e.run("forward-none", &["sleep", "1000"]).await;
    let mut client = forward(&e2e, &pod.id, 9).await;
    client.wait_for(ERROR, "refused").await;
    let text = String::from_utf8_lossy(said(&client, ERROR, 9)).into_owned();
    assert!(text.contains('9') && said(&client, DATA, 9).is_empty(), "{text}");
}

#[tokio::test]
async fn strict_bad_requests_are_refused_by_kind() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("forward-refused").await;
    let refused = async |pod: &str, port: i32| e2e.client.port_forward_url(pod, vec![port]).await.expect_err("refused");
    assert_eq!(refused("no-such-pod", 80).await.code(), Code::NotFound);
    assert_eq!(refused(&pod.id, 0).await.code(), Code::InvalidArgument);
    assert_eq!(refused(&pod.id, 70_000).await.code(), Code::InvalidArgument);
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    assert_eq!(refused(&pod.id, 80).await.code(), Code::FailedPrecondition);
}
