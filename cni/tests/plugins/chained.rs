//! Plugins behind others: firewall, tuning, bandwidth.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use std::io::{Read, Write};

use cni::types::{Code, Command};
use serde_json::{Value, json};

use crate::support::{By, Host, Pod, code, ip, normal, own_host, run, seen_as, serve, wait_until, with};

/// A pod on a bridge, and the configuration of a plugin behind it.
fn behind_bridge(host: &Host, id: &str, bridge: &str, config: Value) -> (Pod, Value) {
    let pod = host.pod(id);
    let subnet = if bridge == "br1" { "10.8.0.0/24" } else { "10.9.0.0/24" };
    let network = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": bridge, "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": host.path(bridge), "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": subnet}]]}});
    let result = host.add(By::Call, &pod, &network);
    (pod, with(&json!({"cniVersion": "1.0.0", "name": "net", "prevResult": result}), config))
}

fn forward_rules() -> Vec<String> {
    run("iptables", &["-S"]).lines().filter(|line| line.contains("/32")).map(str::to_owned).collect()
}

#[test]
fn forwarding_is_allowed_where_the_policy_forbids_it() {
    own_host!(forwarding_is_allowed_where_the_policy_forbids_it, |host: Host| {
        let outside = host.outside();
        outside.enter(|| ip("route add 10.9.0.0/24 via 192.0.2.1"));
        run("iptables", &["-P", "FORWARD", "DROP"]);
        // Name servers may be out of reach, and iptables asks them for addresses when it is let.
        ip("route add default via 192.0.2.2");
        run("nft", &["add", "table", "inet", "names"]);
        run("nft", &["add", "chain", "inet", "names", "output", "{ type filter hook output priority 0; }"]);
        run("nft", &["add", "rule", "inet", "names", "output", "udp", "dport", "53", "counter"]);
        let (pod, config) = behind_bridge(&host, "c1", "br0", json!({"type": "firewall"}));
        let server = outside.enter(|| serve("192.0.2.2".parse().unwrap()));
        let reaches =
            || pod.enter(|| TcpStream::connect_timeout(&server, std::time::Duration::from_millis(500)).is_ok());
        assert!(!reaches(), "the policy is in force");
        for by in [By::Exec, By::Call] {
            host.add(by, &pod, &config);
            host.add(by, &pod, &config);
            assert_eq!(forward_rules().len(), 2, "each once");
            assert!(pod.enter(|| seen_as(server)).is_some());
            host.check(by, &pod, &config, &config["prevResult"]).unwrap();
            host.del(by, &pod, &config);
            host.del(by, &pod, &config);
            assert!(forward_rules().is_empty() && !reaches());
            host.check(by, &pod, &config, &config["prevResult"]).unwrap_err();
        }
        // Without a result, as a DEL after a lost one has it.
        host.add(By::Exec, &pod, &config);
        host.del(By::Exec, &pod, &json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall"}));
        assert!(forward_rules().is_empty());
        // The reference plugin's rules are taken away too.
        host.add(By::Debian, &pod, &config);
        assert_eq!(forward_rules().len(), 2);
        host.del(By::Exec, &pod, &config);
        assert!(forward_rules().is_empty());
        // GC
        let (other, second) = behind_bridge(&host, "c2", "br0", json!({"type": "firewall"}));
        host.add(By::Exec, &pod, &config);
        host.add(By::Exec, &other, &second);
        host.gc(&config, &[&other]);
        let rules = forward_rules();
        assert!(rules.len() == 2 && rules.iter().all(|rule| rule.contains("\"net c2 eth0\"")), "{rules:?}");
        let questions = run("nft", &["list", "table", "inet", "names"]);
        assert!(questions.contains("counter packets 0"), "{questions}");
        for refused in [json!({"backend": "firewalld"}), json!({"ingressPolicy": "isolated"})] {
            let outcome = host.run(By::Exec, Command::Add, Some(&pod), &with(&config, refused));
            assert_eq!(code(outcome), Some(Code::UNSUPPORTED_FIELD));
        }
    });
}

#[test]
fn bridges_are_kept_apart() {
    own_host!(bridges_are_kept_apart, |host: Host| {
        let policy = json!({"type": "firewall", "ingressPolicy": "same-bridge"});
        let (one, first) = behind_bridge(&host, "c1", "br0", policy.clone());
        let (two, second) = behind_bridge(&host, "c2", "br1", policy);
        let address = second["prevResult"]["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let server = two.enter(|| serve(address.parse().unwrap()));
        let reaches =
            || one.enter(|| TcpStream::connect_timeout(&server, std::time::Duration::from_millis(500)).is_ok());
        assert!(one.enter(|| seen_as(server)).is_some());
        host.add(By::Exec, &one, &first);
        host.add(By::Exec, &two, &second);
        assert!(!reaches(), "{}", run("iptables", &["-S"]));
        assert!(seen_as(server).is_some(), "the host reaches both");
        host.check(By::Exec, &one, &first, &first["prevResult"]).unwrap();
        // Moved behind the rules that accept, it would do nothing.
        run("iptables", &["-D", "FORWARD", "1"]);
        host.check(By::Exec, &one, &first, &first["prevResult"]).unwrap_err();
        host.add(By::Exec, &one, &first);
        assert!(!reaches());
    });
}

#[test]
fn sysctls_and_links_are_tuned_and_put_back() {
    own_host!(sysctls_and_links_are_tuned_and_put_back, |host: Host| {
        let tuning = json!({"type": "tuning", "dataDir": host.path("tuning"), "mac": "02:00:00:00:00:07", "mtu": 1300,
            "promisc": true, "allmulti": true, "txQLen": 77,
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv4/conf/all/log_martians": "1"}});
        for by in [By::Exec, By::Call] {
            let (pod, config) = behind_bridge(&host, "c1", "br0", tuning.clone());
            wait_until("eth0 has its carrier", || pod.enter(|| ip("link show eth0")).contains("state UP"));
            let before = pod.enter(|| ip("link show eth0"));
            let result = host.add(by, &pod, &config);
            assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:07");
            let link = pod.enter(|| ip("-d link show eth0"));
            for part in ["mtu 1300", "PROMISC", "ALLMULTI", "qlen 77", "02:00:00:00:00:07"] {
                assert!(link.contains(part), "{part}: {link}");
            }
            let sysctl =
                |name: &str| pod.enter(|| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}")).unwrap());
            assert_eq!((sysctl("eth0/arp_filter").trim(), sysctl("all/log_martians").trim()), ("1", "1"));
            host.check(by, &pod, &config, &result).unwrap();
            pod.enter(|| ip("link set eth0 mtu 1200"));
            host.check(by, &pod, &config, &result).unwrap_err();
            host.del(by, &pod, &config);
            wait_until("eth0 is as before", || pod.enter(|| ip("link show eth0")) == before);
            host.del(by, &pod, &config);
            assert_eq!(fs::read_dir(host.path("tuning")).unwrap().count(), 0);
            host.del(by, &pod, &json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local", "dataDir": host.path("br0"), "subnet": "10.9.0.0/24"}}));
        }
    });
}

#[test]
fn tuning_results_are_those_of_debians_plugin() {
    own_host!(tuning_results_are_those_of_debians_plugin, |host: Host| {
        let (pod, config) = behind_bridge(
            &host,
            "c1",
            "br0",
            json!({"type": "tuning", "mac": "02:00:00:00:00:07",
            "dataDir": host.path("tuning"), "sysctl": {"net.core.somaxconn": "500"}}),
        );
        let texts = [By::Debian, By::Exec].map(|by| {
            let text = host.add_text(by, &pod, &config);
            host.del(by, &pod, &config);
            normal(&text, &pod)
        });
        assert_eq!(texts[0], texts[1]);
        for bad in ["kernel.panic", "net.ipv4.../../../kernel/panic", "net.ipv4.no_such"] {
            host.run(By::Exec, Command::Add, Some(&pod), &with(&config, json!({"sysctl": {bad: "1"}}))).unwrap_err();
        }
    });
}

/// Bytes per second from one end of a connection to the other, over a second or so.
fn rate(from: &Pod, to: &str, host: impl FnOnce() -> TcpListener + Send) -> f64 {
    let listener = host();
    let address = listener.local_addr().unwrap();
    let to = std::net::SocketAddr::new(to.parse().unwrap(), address.port());
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut buffer, mut total, start) = (vec![0; 1 << 16], 0usize, Instant::now());
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                total += length;
            }
            total as f64 / start.elapsed().as_secs_f64()
        });
        from.enter(|| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(&vec![0; 600_000]).unwrap();
        });
        receiver.join().unwrap()
    })
}

#[test]
fn traffic_is_limited_both_ways() {
    own_host!(traffic_is_limited_both_ways, |host: Host| {
        let outside = host.outside();
        outside.enter(|| ip("route add 10.9.0.0/24 via 192.0.2.1"));
        let limits = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}, "runtimeConfig": {"bandwidth":
            {"ingressRate": 4_000_000, "ingressBurst": 400_000, "egressRate": 8_000_000, "egressBurst": 400_000}}});
        let (pod, config) = behind_bridge(&host, "c1", "br0", limits);
        let address = "10.9.0.2";
        let ingress = || rate(&outside, address, || pod.enter(|| TcpListener::bind((address, 0)).unwrap()));
        let egress = || rate(&pod, "192.0.2.2", || outside.enter(|| TcpListener::bind("192.0.2.2:0").unwrap()));
        let free = (ingress(), egress());
        for by in [By::Exec, By::Call] {
            let result = host.add(by, &pod, &config);
            let block = result["interfaces"][3]["name"].as_str().unwrap().to_owned();
            let limited = (ingress(), egress());
            // 500 kB and 1 MB a second, and what the buckets hold at the start.
            assert!(limited.0 < 800_000.0 && limited.1 < 1_600_000.0, "{limited:?} after {free:?}");
            host.check(by, &pod, &config, &result).unwrap();
            ip(&format!("link set {block} down"));
            host.check(by, &pod, &config, &result).unwrap_err();
            host.del(by, &pod, &config);
            host.del(by, &pod, &config);
            assert!(!host.links().contains(&block));
            run("tc", &["qdisc", "del", "dev", result["interfaces"][1]["name"].as_str().unwrap(), "root"]);
            run("tc", &["qdisc", "del", "dev", result["interfaces"][1]["name"].as_str().unwrap(), "ingress"]);
        }
        host.add(By::Exec, &pod, &config);
        host.gc(&config, &[&pod]);
        assert!(host.links().iter().any(|link| link.starts_with("bwp")));
        host.gc(&config, &[]);
        assert!(!host.links().iter().any(|link| link.starts_with("bwp")));
        for bad in [json!({"ingressRate": 8000}), json!({"egressBurst": 8000})] {
            let config = with(&config, json!({"runtimeConfig": {"bandwidth": bad}}));
            assert_eq!(code(host.run(By::Exec, Command::Add, Some(&pod), &config)), Some(Code::INVALID_CONFIG));
        }
        let none = with(&config, json!({"runtimeConfig": {}}));
        assert_eq!(host.add(By::Exec, &pod, &none), config["prevResult"]);
    });
}
