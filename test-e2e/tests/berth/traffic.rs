//! Real traffic by programs that others wrote (curl, iperf3, dig and dnsmasq, socat): pod to pod, pod to node, node to pod, outside to
//! host port, and pod to outside, over IPv4 and IPv6. The programs run from this machine's file system in each place's network namespace.

use std::net::IpAddr;
use std::process::{Command, Output};

use cri_api::v1::{DnsConfig, PodSandboxConfig, PortMapping, Protocol};
use test_e2e::fixture::{Container, Fixture, Pod, eventually};
use test_e2e::host::Spawn;

const HTTP: u16 = 8080;
const IPERF: u16 = 5201;
const DNS: u16 = 53;
const SCTP: u16 = 8132;
/// What is added to a port for the node's port that leads to it.
const HOST_PORT: u16 = 10_000;

/// What the node's and the outside's ends of the link between them have.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// What the DNS servers know.
const NAME: &str = "web.traffic.test";

/// A network namespace with its addresses.
struct Place {
    netns: String,
    addresses: Vec<IpAddr>,
}

impl Place {
    fn of(pid: i32, addresses: Vec<IpAddr>) -> Place {
        Place { netns: format!("--net=/proc/{pid}/ns/net"), addresses }
    }

    /// Runs a program here.
    fn run(&self, program: &[&str]) -> Output {
        let output = Command::new("nsenter").arg(&self.netns).arg("--").args(program).output();
        output.unwrap_or_else(|e| panic!("nsenter: {e}"))
    }

    fn must(&self, program: &[&str]) {
        let output = self.run(program);
        assert!(output.status.success(), "{program:?}: {output:?}");
    }

    /// Starts a server here, which ends with the machine.
    fn serve(&self, e2e: &Fixture, program: &[&str]) {
        let argv = ["nsenter", &self.netns, "--"].iter().chain(program).map(|&word| word.to_owned()).collect();
        let log = e2e.machine.folder.join(format!("{}.log", program[0]));
        e2e.machine.host.spawn(&Spawn { argv, env: Vec::new(), log }).unwrap_or_else(|e| panic!("{program:?}: {e}"));
    }
}

/// A pod that calls, one that is called, the node, and what is beyond its uplink and knows no way to pods.
struct Scene {
    client: Place,
    server: Place,
    node: Place,
    outside: Place,
    /// The node's addresses that are pods' neighbours. iperf3 answers over UDP by the address that is next to who asks, whichever was
    /// asked (no IP_PKTINFO).
    gateways: Vec<IpAddr>,
}

/// A way that packets go: from where, to which addresses, and what is added to ports.
type Way<'a> = (&'static str, &'a Place, &'a [IpAddr], u16);

impl Scene {
    async fn new(e2e: &Fixture, client: &Container<'_>, server: (&Pod<'_>, &Container<'_>)) -> Scene {
        let parse = |list: [&str; 2]| list.iter().map(|ip| ip.parse().expect("an address")).collect::<Vec<IpAddr>>();
        let argv = ["unshare", "--net", "sleep", "100000"].map(str::to_owned).to_vec();
        let log = e2e.machine.folder.join("outside.log");
        let pid = e2e.machine.host.spawn(&Spawn { argv, env: Vec::new(), log }).expect("a place outside");
        let netns = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let inside = e2e.machine.inside;
        eventually("the outside is another network", async || {
            (netns(pid)? != netns(inside)? && netns(pid) != netns(std::process::id() as i32)).then_some(())
        })
        .await;
        let network = server.0.status().await.network.expect("addresses");
        let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        let routes = client.sh("{ ip route; ip -6 route; } | awk '/^default/ {print $3}'").await;
        let scene = Scene {
            gateways: routes.lines().map(|ip| ip.parse().expect("a gateway")).collect(),
            client: Place::of(client.pid(), Vec::new()),
            server: Place::of(server.1.pid(), ips.map(|ip| ip.parse().expect("an address")).collect()),
            node: Place::of(inside, parse(NODE)),
            outside: Place::of(pid, parse(OUTSIDE)),
        };
        let peer = pid.to_string();
        scene.node.must(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", &peer]);
        for (place, link, addresses) in [(&scene.node, "up0", NODE), (&scene.outside, "out0", OUTSIDE)] {
            let [v4, v6] = [format!("{}/24", addresses[0]), format!("{}/64", addresses[1])];
            place.must(&["ip", "addr", "add", &v4, "dev", link]);
            place.must(&["ip", "addr", "add", &v6, "dev", link, "nodad"]);
            place.must(&["ip", "link", "set", link, "up"]);
        }
        assert_eq!((scene.server.addresses.len(), scene.gateways.len()), (2, 2), "of each family");
        scene
    }

    fn ways(&self) -> [Way<'_>; 5] {
        let (pod, node, outside) = (&self.server.addresses[..], &self.node.addresses[..], &self.outside.addresses[..]);
        [
            ("pod to pod", &self.client, pod, 0),
            ("pod to node", &self.client, &self.gateways, 0),
            ("node to pod", &self.node, pod, 0),
            ("outside to host port", &self.outside, node, HOST_PORT),
            ("pod to outside", &self.client, outside, 0),
        ]
    }

    /// Starts a server wherever one is called.
    fn serve(&self, e2e: &Fixture, program: &[&str]) {
        [&self.server, &self.node, &self.outside].iter().for_each(|place| place.serve(e2e, program));
    }

    /// Has `call` say what comes out of a call over each way, by each family, until it is as it should be.
    async fn everywhere(&self, what: &str, call: impl Fn(&Place, IpAddr, u16) -> Result<(), String>) {
        for (way, from, to, added) in self.ways() {
            for &address in to {
                let last = std::cell::RefCell::new(String::new());
                // Servers take their time to start, and iperf3's to be done with the one before.
                eventually(&format!("{what} gets through, {way}, to {address}"), async || {
                    let outcome = call(from, address, added);
                    outcome
                        .map_err(|why| {
                            if *last.borrow() != why {
                                eprintln!("{way}, {address}: {why}");
                                last.replace(why);
                            }
                        })
                        .ok()
                })
                .await;
            }
        }
    }
}

/// The pod that is called has the node's ports lead to it.
fn with_ports(config: &mut PodSandboxConfig) {
    let port = |protocol: Protocol, port: u16| PortMapping {
        protocol: protocol.into(),
        container_port: port.into(),
        host_port: (port + HOST_PORT).into(),
        ..Default::default()
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    config.port_mappings = vec![
        port(tcp, HTTP),
        port(tcp, IPERF),
        port(udp, IPERF),
        port(tcp, DNS),
        port(udp, DNS),
        port(Protocol::Sctp, SCTP),
    ];
}

/// What a program printed, if it succeeded and that is as it should be.
fn printed(output: Output, right: impl FnOnce(&[u8]) -> bool) -> Result<(), String> {
    match output.status.success() && right(&output.stdout) {
        true => Ok(()),
        false => Err(format!("{}: {} {}", output.status, text(&output.stdout), text(&output.stderr))),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(2000).collect()
}

/// An address as it stands in a URL.
fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[tokio::test]
async fn curl_and_iperf3_get_through() {
    let e2e = Fixture::own("traffic-tcp").await;
    let (_client_pod, client) = e2e.run("client", &["sleep", "1000"]).await;
    let pod = e2e.pod_with("server", with_ports).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let scene = Scene::new(&e2e, &client, (&pod, &container)).await;

    let folder = e2e.folder("www");
    let content: Vec<u8> = (0..1_000_003u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(folder.join("file"), &content).expect("a file to serve");
    let folder = folder.display().to_string();
    scene.serve(&e2e, &["busybox", "httpd", "-f", "-p", &HTTP.to_string(), "-h", &folder]);
    scene.serve(&e2e, &["iperf3", "--server", "--port", &IPERF.to_string()]);

    let curl = |from: &Place, to: IpAddr, added: u16| {
        let url = format!("http://{}:{}/file", bracketed(to), HTTP + added);
        printed(from.run(&["curl", "-sS", "--noproxy", "*", "--max-time", "20", &url]), |body| body == content)
    };
    scene.everywhere("curl", curl).await;

    let iperf = |more: &[&str], right: fn(&serde_json::Value) -> bool| {
        let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        move |from: &Place, to: IpAddr, added: u16| {
            let (to, port) = (to.to_string(), (IPERF + added).to_string());
            let mut program = vec!["timeout", "30", "iperf3", "--json", "--client", &to, "--port", &port];
            program.extend(more.iter().map(String::as_str));
            printed(from.run(&program), |json| serde_json::from_slice(json).is_ok_and(|report| right(&report)))
        }
    };
    let both_ways = |report: &serde_json::Value| {
        let bytes = |which: &str| report["end"][which]["bytes"].as_u64().unwrap_or(0);
        bytes("sum_sent") >= 4 << 20 && bytes("sum_received") > 0
    };
    scene.everywhere("iperf3 over TCP", iperf(&["--bytes", "4M"], both_ways)).await;
    scene.everywhere("iperf3 over TCP, back", iperf(&["--bytes", "4M", "--reverse"], both_ways)).await;
    // A machine that is busy may drop some.
    let some = |report: &serde_json::Value| {
        let packets = |which: &str| report["end"]["sum"][which].as_u64();
        packets("packets").zip(packets("lost_packets")).is_some_and(|(sent, lost)| sent > 100 && lost < sent)
    };
    let udp = ["--udp", "--bytes", "256K", "--length", "1200", "--bitrate", "20M"];
    scene.everywhere("iperf3 over UDP", iperf(&udp, some)).await;
}

#[tokio::test]
async fn dig_finds_names_where_the_pods_files_say() {
    let e2e = Fixture::own("traffic-dns").await;
    let pod = e2e.pod_with("server", with_ports).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let server = pod.ip().await;
    let dns = DnsConfig { servers: vec![server], searches: vec!["traffic.test".to_owned()], options: Vec::new() };
    let client_pod = e2e.pod_with("client", |config| config.dns_config = Some(dns)).await;
    let client = client_pod.start("main", &["sleep", "1000"]).await;
    let scene = Scene::new(&e2e, &client, (&pod, &container)).await;

    let [own, bound] = [format!("--host-record={NAME},203.0.113.7,2001:db8:7::7"), format!("--port={DNS}")];
    let quiet =
        ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root"];
    scene.serve(&e2e, &[&["dnsmasq"], &quiet[..], &[own.as_str(), bound.as_str()]].concat());

    for over in ["+notcp", "+tcp"] {
        let dig = |from: &Place, to: IpAddr, added: u16| {
            let (at, port) = (format!("@{to}"), (DNS + added).to_string());
            let ask = |kind: &str, answer: &[u8]| {
                let options = ["+short", "+time=3", "+tries=3", over];
                printed(from.run(&[&["dig", &at, "-p", &port, NAME, kind], &options[..]].concat()), |line| {
                    line == answer
                })
            };
            ask("A", b"203.0.113.7\n").and(ask("AAAA", b"2001:db8:7::7\n"))
        };
        scene.everywhere(&format!("dig {over}"), dig).await;
    }

    // By the file that the container sees, laid over this machine's: its server, and its search domain.
    let file = e2e.folder("dns").join("resolv.conf");
    std::fs::write(&file, client.sh("cat /etc/resolv.conf").await).expect("the pod's file");
    let line = format!("mount --bind {} /etc/resolv.conf && exec dig +search +short web A", file.display());
    printed(scene.client.run(&["unshare", "--mount", "sh", "-c", &line]), |line| line == b"203.0.113.7\n")
        .expect("by name");
}

/// Where the kernel has SCTP: in a virtual machine (docs/testing.md).
#[tokio::test]
#[ignore = "needs a kernel with SCTP"]
async fn sctp_gets_through() {
    let e2e = Fixture::own("traffic-sctp").await;
    let (_client_pod, client) = e2e.run("client", &["sleep", "1000"]).await;
    let pod = e2e.pod_with("server", with_ports).await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let scene = Scene::new(&e2e, &client, (&pod, &container)).await;
    for (family, more) in [("SCTP4", ""), ("SCTP6", ",ipv6only=1")] {
        scene.serve(
            &e2e,
            &["socat", &format!("{family}-LISTEN:{SCTP},fork,reuseaddr{more}"), "SYSTEM:read line; echo heard $line"],
        );
    }
    let ask = |from: &Place, to: IpAddr, added: u16| {
        let family = if to.is_ipv4() { 4 } else { 6 };
        let line =
            format!("echo hello | timeout 60 socat -t 30 - SCTP{family}:{}:{},shut-none", bracketed(to), SCTP + added);
        printed(from.run(&["sh", "-c", &line]), |answer| answer == b"heard hello\n")
    };
    scene.everywhere("socat over SCTP", ask).await;
}
