//! The pod's network: an address of each family, pods and host reach each other, host-network pods, DNS files.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use cri_api::v1;
use test_e2e::fixture::{Container, Fixture, Pod, eventually};
use test_e2e::spec::{container_namespaces, pod_namespaces};

/// Every address of a pod.
async fn addresses(pod: &Pod<'_>) -> Vec<IpAddr> {
    let network = pod.status().await.network.expect("network");
    let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    all.map(|ip| ip.parse().unwrap_or_else(|e| panic!("{ip:?}: {e}"))).collect()
}

/// A container that serves "hello" over HTTP on every address, port 8080.
async fn serve<'a>(pod: &Pod<'a>) -> Container<'a> {
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www";
    let server = pod.start("server", &["sh", "-c", script]).await;
    eventually("the server listens", async || {
        (server.exec(&["wget", "-qO-", "http://127.0.0.1:8080/"]).await.code == 0).then_some(())
    })
    .await;
    server
}

fn url(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("http://{v4}:8080/"),
        IpAddr::V6(v6) => format!("http://[{v6}]:8080/"),
    }
}

#[tokio::test]
async fn a_pod_has_its_addresses() {
    let e2e = Fixture::shared().await;
    let (pod, container) = e2e.run("address", &["sleep", "1000"]).await;
    let all = addresses(&pod).await;
    assert!(all[0].is_ipv4() && all.iter().any(IpAddr::is_ipv6), "both families: {all:?}");
    let inside = container.sh("ip addr show eth0; ip route; ip -6 route").await;
    for address in &all {
        assert!(inside.contains(&format!(" {address}/")), "{address} is on eth0:\n{inside}");
    }
    assert!(inside.contains("default via ") && inside.matches("default via ").count() == 2, "{inside}");
    assert!(!inside.contains("tentative"), "usable at once:\n{inside}");
    assert!(container.sh("ip link show lo").await.contains("UP"), "loopback is up");
    assert_eq!(pod.ip().await, all[0].to_string(), "the address does not change");
}

#[tokio::test]
async fn pods_reach_each_other() {
    let e2e = Fixture::shared().await;
    let first = e2e.pod("peer-one").await;
    let _server = serve(&first).await;
    let (second, client) = e2e.run("peer-two", &["sleep", "1000"]).await;
    for address in addresses(&first).await {
        assert_eq!(client.sh(&format!("wget -qO- {}", url(&address))).await, "hello\n", "{address}");
    }
    let (one, two) = (addresses(&first).await, addresses(&second).await);
    assert!(one.iter().all(|address| !two.contains(address)), "{one:?} {two:?}");
}

#[tokio::test]
async fn the_host_reaches_a_pod() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("from-host").await;
    let _server = serve(&pod).await;
    for address in addresses(&pod).await {
        let answer = e2e.inside(|| {
            let mut stream = TcpStream::connect_timeout(&(address, 8080).into(), Duration::from_secs(10))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        });
        assert!(answer.as_ref().is_ok_and(|text| text.ends_with("hello\n")), "{address}: {answer:?}");
    }
}

#[tokio::test]
async fn a_pod_reaches_the_host() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("to-host", &["sleep", "1000"]).await;
    let listener = e2e.inside(|| TcpListener::bind("0.0.0.0:0")).expect("listen");
    let port = listener.local_addr().expect("address").port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"from the host\n")
    });
    let line = format!("nc -w 10 $(ip route | awk '/^default/ {{print $3}}') {port} </dev/null");
    assert_eq!(container.sh(&line).await, "from the host\n");
    answering.join().expect("thread").expect("answered");
}

#[tokio::test]
async fn a_host_network_pod_is_on_the_host() {
    let e2e = Fixture::shared().await;
    let node = v1::NamespaceMode::Node;
    let on_the_host = |config: &mut v1::PodSandboxConfig| {
        config.hostname.clear();
        pod_namespaces(config).network = node.into();
    };
    let pod = e2e.pod_with("host-net", on_the_host).await;
    let change = |config: &mut v1::ContainerConfig| container_namespaces(config).network = node.into();
    let container = pod.start_with("main", &["sleep", "1000"], change).await;
    let own = e2e.inside(|| std::fs::read_link("/proc/thread-self/ns/net")).expect("link");
    assert_eq!(container.sh("readlink /proc/self/ns/net").await.trim(), own.display().to_string());
    let options = pod.status().await.linux.and_then(|l| l.namespaces).and_then(|n| n.options).expect("options");
    assert_eq!(options.network(), node, "echoed");
}

/// What a service on the node is reached by: each of its addresses, the loopback too.
#[tokio::test]
async fn host_ports_lead_to_the_pod_and_zero_is_none() {
    let e2e = Fixture::shared().await;
    let free = e2e.inside(|| TcpListener::bind("0.0.0.0:0").and_then(|listener| listener.local_addr()));
    let port = free.expect("a free port").port();
    let mapping = |host_port| v1::PortMapping { container_port: 8080, host_port, ..Default::default() };
    let ports = |config: &mut v1::PodSandboxConfig| config.port_mappings = vec![mapping(port.into()), mapping(0)];
    let pod = e2e.pod_with("host-port", ports).await;
    let server = serve(&pod).await;
    let gateway = server.sh("ip route | awk '/^default/ {print $3}'").await;
    let ask = |address: IpAddr| {
        e2e.inside(|| {
            let mut stream = TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(10))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        })
    };
    for address in ["127.0.0.1", gateway.trim()] {
        let answer = ask(address.parse().expect("an address"));
        assert!(answer.as_ref().is_ok_and(|text| text.ends_with("hello\n")), "{address}: {answer:?}");
    }
    e2e.client.stop_pod(&pod.id).await.expect("stop");
    assert!(ask(IpAddr::from([127, 0, 0, 1])).is_err(), "it goes with its pod");
}

#[tokio::test]
async fn dns_files() {
    let e2e = Fixture::shared().await;
    let resolv = async |name: &str, dns: Option<v1::DnsConfig>| {
        let pod = e2e.pod_with(name, |config| config.dns_config = dns).await;
        let container = pod.start("main", &["sleep", "1000"]).await;
        container.sh("cat /etc/resolv.conf").await
    };
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let full = v1::DnsConfig {
        servers: words(&["10.0.0.10", "fd00::10"]),
        searches: words(&["ns.svc.cluster.local", "svc.cluster.local"]),
        options: words(&["ndots:5", "timeout:1"]),
    };
    let text = resolv("dns-full", Some(full)).await;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.contains(&"search ns.svc.cluster.local svc.cluster.local"), "{text}");
    assert!(lines.contains(&"nameserver 10.0.0.10") && lines.contains(&"nameserver fd00::10"), "{text}");
    assert!(lines.contains(&"options ndots:5 timeout:1"), "{text}");
    assert!(resolv("dns-nil", None).await.contains("nameserver "), "the host's own");
}

#[tokio::test]
async fn hosts_file_names_the_loopback() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("hosts", &["sleep", "1000"]).await;
    let text = container.sh("cat /etc/hosts").await;
    assert!(text.lines().any(|line| line.split_whitespace().eq(["127.0.0.1", "localhost"])), "{text}");
}
