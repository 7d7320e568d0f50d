//! portmap behind bridge and ptp: who reaches a host port from where, and what is left behind.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use cni::types::{Code, Command};
use serde_json::{Value, json};

use crate::support::{By, Host, Pod, code, normal, own_host, run, seen_as, serve_at, with};

/// A pod on a bridge, its result, and portmap's configuration for it.
fn connected(host: &Host, id: &str, kind: &str, mappings: Value) -> (Pod, Value) {
    let pod = host.pod(id);
    let network = json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "bridge": "br0", "isGateway": true,
        "hairpinMode": true, "ipMasq": true, "ipam": host.ipam()});
    let result = host.add(By::Call, &pod, &network);
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap", "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings}, "prevResult": result});
    (pod, config)
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Whom the server sees, over UDP; none when nobody answers.
fn seen_by_udp(server: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    ask(&socket, server)
}

fn ask(socket: &UdpSocket, server: SocketAddr) -> Option<IpAddr> {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 64];
    for _ in 0..6 {
        let _ = socket.send_to(b"?", server);
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return std::str::from_utf8(&buffer[..length]).ok()?.parse().ok();
        }
    }
    None
}

/// Serves on port 80 of all of a pod's addresses.
fn serve_in(pod: &Pod, config: &Value) {
    for ip in config["prevResult"]["ips"].as_array().unwrap() {
        let ip = ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        pod.enter(|| serve_at(at(&ip, 80)));
    }
}

#[test]
fn a_port_is_reached_from_everywhere() {
    for_kind("bridge", "portmap::a_port_is_reached_from_everywhere", true);
}

#[test]
fn a_port_is_reached_where_bridges_do_not_call_the_packet_filter() {
    for_kind("bridge", "portmap::a_port_is_reached_where_bridges_do_not_call_the_packet_filter", false);
}

#[test]
fn a_port_of_a_pair_is_reached_from_everywhere() {
    for_kind("ptp", "portmap::a_port_of_a_pair_is_reached_from_everywhere", true);
}

fn for_kind(kind: &'static str, name: &str, call: bool) {
    crate::support::in_own_host(name, |host: Host| {
        for family in ["iptables", "ip6tables"] {
            // Without the module br_netfilter no bridge ever calls it.
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
            let _ = std::fs::write(file, if call { "1" } else { "0" });
        }
        let outside = host.outside();
        let mappings = json!([{"hostPort": 8080, "containerPort": 80}, {"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
        let (pod, config) = connected(&host, "c1", kind, mappings);
        let (other, _) = connected(&host, "c2", kind, json!([]));
        serve_in(&pod, &config);
        host.add(By::Exec, &pod, &config);
        if kind == "bridge" {
            let links = run("nft", &["list", "set", "ip", "berth_cni_hostports", "links"]);
            assert!(links.contains("\"br0\""), "an operator can read it: {links}");
        }

        for (ip, outsider) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let port = at(ip, 8080);
            let outsider = outsider.parse().ok();
            assert_eq!(outside.enter(|| seen_as(port)), outsider, "from outside, and seen as it is");
            assert_eq!(outside.enter(|| seen_by_udp(port)), outsider);
            assert!(seen_as(port).is_some() && seen_by_udp(port).is_some(), "from the host, by {ip}");
            assert!(pod.enter(|| seen_as(port)).is_some(), "from the pod itself, by {ip}");
            assert!(pod.enter(|| seen_by_udp(port)).is_some());
            assert!(other.enter(|| seen_as(port)).is_some(), "from another pod, by {ip}");
        }
        assert!(seen_as(at("127.0.0.1", 8080)).is_some() && seen_by_udp(at("127.0.0.1", 8080)).is_some());
        // Packets to the host's loopback may leave it, but none may come to it.
        serve_at(at("127.0.0.1", 9000));
        pod.enter(|| run("ip", &["route", "add", "127.0.0.0/8", "via", "10.9.0.1"]));
        let reached = pod.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            std::net::TcpStream::connect_timeout(&at("127.0.0.1", 9000), Duration::from_millis(400)).is_ok()
        });
        assert!(!reached, "a pod has reached what listens on the host's loopback");

        host.del(By::Exec, &pod, &config);
        assert_eq!(outside.enter(|| seen_as(at("192.0.2.1", 8080))), None);
        assert_eq!(outside.enter(|| seen_by_udp(at("192.0.2.1", 8080))), None, "no entry keeps it on its way");
        host.del(By::Call, &pod, &config);
    });
}

#[test]
fn datagrams_find_a_pod_that_came_after_the_first_of_them() {
    own_host!(datagrams_find_a_pod_that_came_after_the_first_of_them, |host: Host| {
        let outside = host.outside();
        let (pod, config) =
            connected(&host, "c1", "bridge", json!([{"hostPort": 53, "containerPort": 80, "protocol": "UDP"}]));
        serve_in(&pod, &config);
        // Tracking begins with the first rule that asks for it.
        let (warm, warming) = connected(&host, "c0", "bridge", json!([{"hostPort": 54, "containerPort": 80}]));
        host.add(By::Exec, &warm, &warming);
        for (ip, from) in [("192.0.2.1", "192.0.2.2:4000"), ("2001:db8::1", "[2001:db8::2]:4000")] {
            let client = outside.enter(|| UdpSocket::bind(from).unwrap());
            assert_eq!(ask(&client, at(ip, 53)), None, "nobody is there");
            host.add(By::Exec, &pod, &config);
            assert_eq!(ask(&client, at(ip, 53)), from.parse::<SocketAddr>().ok().map(|it| it.ip()));
            host.del(By::Exec, &pod, &config);
            assert_eq!(ask(&client, at(ip, 53)), None, "nobody is there any more");
        }
    });
}

#[test]
fn results_are_those_of_debians_plugin() {
    own_host!(results_are_those_of_debians_plugin, |host: Host| {
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let network = json!({"cniVersion": version, "name": "net", "type": "ptp", "ipam": host.ipam()});
            let pod = host.pod("c1");
            let result = host.add(By::Exec, &pod, &network);
            let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
            let config = json!({"cniVersion": version, "name": "net", "type": "portmap",
                "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": mappings}, "prevResult": result});
            let texts = [By::Debian, By::Exec, By::Call].map(|by| {
                let text = host.add_text(by, &pod, &config);
                host.del(by, &pod, &config);
                normal(&text, &pod)
            });
            assert_eq!(texts[0], texts[1], "{version}");
            assert_eq!(texts[1], texts[2], "{version}");
            host.del(By::Exec, &pod, &network);
        }
    });
}

#[test]
fn a_range_of_ports_is_many_ports() {
    own_host!(a_range_of_ports_is_many_ports, |host: Host| {
        let range: Vec<_> = (10_000..11_500).map(|port| json!({"hostPort": port, "containerPort": 80})).collect();
        let (pod, config) = connected(&host, "c1", "bridge", json!(range));
        serve_in(&pod, &config);
        host.add(By::Exec, &pod, &config);
        for port in [10_000, 11_499] {
            assert!(seen_as(at("127.0.0.1", port)).is_some(), "{port}");
        }
        host.check(By::Exec, &pod, &config, &config["prevResult"]).unwrap();
        host.del(By::Exec, &pod, &config);
        assert!(!run("nft", &["list", "ruleset"]).contains("net c1 eth0\" : "));
    });
}

#[test]
fn a_port_in_use_is_not_taken() {
    own_host!(a_port_in_use_is_not_taken, |host: Host| {
        let (one, config) = connected(&host, "c1", "bridge", json!([{"hostPort": 8080, "containerPort": 80}]));
        host.add(By::Exec, &one, &config);
        let mappings = json!([{"hostPort": 8081, "containerPort": 80}, {"hostPort": 8080, "containerPort": 80}]);
        let (two, second) = connected(&host, "c2", "bridge", mappings);
        let error = host.run(By::Exec, Command::Add, Some(&two), &second).unwrap_err();
        assert!(error.msg.contains("in use by container c1"), "{}", error.msg);
        host.check(By::Exec, &one, &config, &config["prevResult"]).unwrap();
        assert!(!host.elements().contains("net c2 eth0\" : "), "{}", host.elements());
        // Again by the same container: an ADD that was cut short.
        host.add(By::Exec, &one, &config);
        // On one address it may lead elsewhere.
        let bound = json!([{"hostPort": 8080, "containerPort": 81, "hostIP": "127.0.0.1"}]);
        host.add(By::Exec, &two, &with(&second, json!({"runtimeConfig": {"portMappings": bound}})));
        for bad in [
            json!([{"hostPort": 1, "containerPort": 0}]),
            json!([{"hostPort": 1, "containerPort": 1}, {"hostPort": 1, "containerPort": 2}]),
            json!([{"hostPort": 70000, "containerPort": 1}]),
        ] {
            let config = with(&second, json!({"runtimeConfig": {"portMappings": bad}}));
            assert_eq!(
                code(host.run(By::Exec, Command::Add, Some(&two), &config)),
                Some(Code::INVALID_CONFIG),
                "{bad}"
            );
        }
        let first = with(&config, json!({"prevResult": null}));
        assert_eq!(code(host.run(By::Exec, Command::Add, Some(&one), &first)), Some(Code::INVALID_CONFIG));
        for refused in
            [json!({"backend": "iptables"}), json!({"masqAll": true}), json!({"conditionsV4": ["-s", "1.1.1.1"]})]
        {
            let outcome = host.run(By::Exec, Command::Add, Some(&one), &with(&config, refused));
            assert_eq!(code(outcome), Some(Code::UNSUPPORTED_FIELD));
        }
    });
}

#[test]
fn a_check_sees_a_port_that_is_gone() {
    own_host!(a_check_sees_a_port_that_is_gone, |host: Host| {
        let (pod, config) = connected(&host, "c1", "bridge", json!([{"hostPort": 8080, "containerPort": 80}]));
        host.add(By::Exec, &pod, &config);
        host.check(By::Call, &pod, &config, &config["prevResult"]).unwrap();
        run("nft", &["flush", "map", "ip6", "berth_cni_hostports", "ports"]);
        host.check(By::Call, &pod, &config, &config["prevResult"]).unwrap_err();
        host.del(By::Exec, &pod, &config);
        run("nft", &["flush", "ruleset"]);
        host.del(By::Exec, &pod, &config);
        host.add(By::Exec, &pod, &config);
        host.check(By::Call, &pod, &config, &config["prevResult"]).unwrap();
    });
}

#[test]
fn del_takes_a_pods_own_and_leaves_what_is_anothers_by_now() {
    own_host!(del_takes_a_pods_own_and_leaves_what_is_anothers_by_now, |host: Host| {
        let mappings = |port: u16| {
            json!([{"hostPort": port, "containerPort": 80}, {"hostPort": port, "containerPort": 80, "protocol": "udp"},
                {"hostPort": port, "containerPort": 80, "hostIP": "127.0.0.1"}])
        };
        for (kind, by) in [("bridge", By::Call), ("ptp", By::Exec)] {
            let published = |id: &str, port| {
                let (pod, config) = connected(&host, id, kind, mappings(port));
                host.add(by, &pod, &config);
                (pod, config)
            };
            let ((one, first), (two, second)) = (published("c1", 8081), published("c2", 8082));
            let before = host.elements();
            assert!(before.contains("net c1 eth0"), "{before}");
            host.del(by, &one, &first);
            let after = host.elements();
            let lost: Vec<_> = before.lines().filter(|line| !after.contains(*line)).collect();
            assert!(!lost.is_empty() && lost.iter().all(|line| line.contains("net c1 eth0")), "{kind}: {lost:?}");
            assert_eq!(after.matches("net c1 eth0").count(), 2, "{kind}: masquerade alone is left: {after}");
            // Its ports are another's by now.
            let again = with(&second, json!({"runtimeConfig": {"portMappings": mappings(8081)}}));
            host.add(by, &two, &again);
            let taken = host.elements();
            host.del(by, &one, &first);
            assert_eq!(host.elements(), taken, "{kind}");
            host.del(by, &two, &again);
            host.del(by, &two, &second);
            let left = host.elements();
            assert!(!left.contains("8081") && !left.contains("8082"), "{kind}: {left}");
            for pod in [&one, &two] {
                let network =
                    json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "bridge": "br0", "ipam": host.ipam()});
                host.del(by, pod, &network);
            }
            assert!(!host.elements().contains("net c"), "{kind}: {}", host.elements());
        }
    });
}

#[test]
fn gc_takes_the_ports_of_the_dead() {
    own_host!(gc_takes_the_ports_of_the_dead, |host: Host| {
        let published = |id: &str, port: u16| {
            let (pod, config) = connected(&host, id, "ptp", json!([{"hostPort": port, "containerPort": 80}]));
            host.add(By::Exec, &pod, &config);
            (pod, config)
        };
        let (one, config) = published("c1", 8081);
        let (_two, _) = published("c2", 8082);
        host.gc(&config, &[&one]);
        let text = ["ip", "ip6"].map(|family| run("nft", &["list", "table", family, "berth_cni_hostports"])).join("");
        assert_eq!(text.matches("net c1 eth0").count(), 8, "port, link and two pairs of each family: {text}");
        assert!(!text.contains("net c2 eth0"), "{text}");
        host.gc(&config, &[]);
        host.del(By::Exec, &one, &config);
        let text = run("nft", &["list", "table", "ip", "berth_cni_hostports"]);
        assert!(!text.contains("elements"), "{text}");
    });
}
