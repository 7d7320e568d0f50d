//! bridge: a pod's life with it, beside Debian's, and what it leaves behind.

use std::net::IpAddr;

use cni::types::{Code, Command};
use serde_json::{Value, json};

use crate::support::{By, Host, Pod, code, ip, normal, own_host, run, seen_as, serve, with};

fn bridge(host: &Host) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": true,
        "hairpinMode": true, "ipam": host.ipam()})
}

/// The addresses of a result.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let text = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    result["ips"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn results_and_links_are_those_of_debians_plugin() {
    own_host!(results_and_links_are_those_of_debians_plugin, |host: Host| {
        for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
            let config = with(&bridge(&host), json!({"cniVersion": version}));
            let seen = [By::Debian, By::Exec, By::Call].map(|by| {
                let pod = host.pod("c1");
                let text = host.add_text(by, &pod, &config);
                let routes = pod.enter(|| (ip("route"), ip("-6 route")));
                let scopes = pod.enter(|| ip("-o address show dev eth0 scope global"));
                let own =
                    |text: &str| text.split_whitespace().filter(|word| *word != "nodad").collect::<Vec<_>>().join(" ");
                host.del(by, &pod, &config);
                assert_eq!(host.links(), ["br0"]);
                ip("link del br0");
                let _ = std::fs::remove_dir_all(host.path("leases"));
                (normal(&text, &pod), routes, own(&scopes))
            });
            assert_eq!(seen[0].0, seen[1].0, "{version}");
            assert_eq!(seen[1], seen[2], "{version}");
            assert_eq!(seen[0].1.0, seen[1].1.0, "IPv4 routes");
            assert_eq!(seen[0].1.1, seen[1].1.1, "IPv6 routes");
        }
    });
}

#[test]
fn pods_reach_each_other_the_host_and_outside() {
    own_host!(pods_reach_each_other_the_host_and_outside, |host: Host| {
        let outside = host.outside();
        let config = with(&bridge(&host), json!({"ipMasq": true}));
        let (one, two) = (host.pod("c1"), host.pod("c2"));
        let first = addresses(&host.add(By::Exec, &one, &config));
        let second = addresses(&host.add(By::Call, &two, &config));
        for (index, gateway) in ["10.9.0.1", "fd00:9::1"].iter().enumerate() {
            let server = two.enter(|| serve(second[index]));
            assert_eq!(one.enter(|| seen_as(server)), Some(first[index]), "pods see each other as they are");
            assert_eq!(seen_as(server), gateway.parse().ok(), "the host is the gateway");
            let server = serve(gateway.parse().unwrap());
            assert_eq!(one.enter(|| seen_as(server)), Some(first[index]));
        }
        for (address, host_address) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            let server = outside.enter(|| serve(address.parse().unwrap()));
            assert_eq!(one.enter(|| seen_as(server)), host_address.parse().ok(), "outside sees the host");
        }
        host.del(By::Call, &one, &config);
        host.del(By::Exec, &two, &config);
        assert_eq!(host.elements(), "");
    });
}

type Damage = fn(&Pod);

#[test]
fn a_check_sees_what_was_changed() {
    own_host!(a_check_sees_what_was_changed, |host: Host| {
        let config = with(&bridge(&host), json!({"ipMasq": true}));
        let damage: [(&str, Damage); 9] = [
            ("address", |pod| drop(pod.enter(|| ip("address del 10.9.0.2/24 dev eth0")))),
            ("IPv6 address", |pod| drop(pod.enter(|| ip("address del fd00:9::2/64 dev eth0")))),
            ("route", |pod| drop(pod.enter(|| ip("route del default")))),
            ("mac", |pod| drop(pod.enter(|| ip("link set eth0 address 02:00:00:00:00:09")))),
            ("link", |pod| drop(pod.enter(|| ip("link del eth0")))),
            ("name", |pod| drop(pod.enter(|| run("sh", &["-c", "ip link set eth0 down; ip link set eth0 name x"])))),
            ("bridge", |_| drop(ip("link del br0"))),
            ("gateway", |_| drop(ip("address del 10.9.0.1/24 dev br0"))),
            ("masquerade", |_| drop(run("nft", &["flush", "ruleset"]))),
        ];
        for (what, damage) in damage {
            let _ = std::fs::remove_dir_all(host.path("leases"));
            let pod = host.pod("c1");
            let result = host.add(By::Exec, &pod, &config);
            for by in [By::Exec, By::Call] {
                host.check(by, &pod, &config, &result).unwrap_or_else(|error| panic!("before {what}: {error}"));
            }
            damage(&pod);
            assert!(host.check(By::Exec, &pod, &config, &result).is_err(), "{what}");
            host.del(By::Exec, &pod, &config);
            assert!(host.links().iter().all(|link| link == "br0") && host.leases("net").is_empty(), "{what}");
        }
    });
}

#[test]
fn a_del_needs_no_namespace_and_can_be_repeated() {
    own_host!(a_del_needs_no_namespace_and_can_be_repeated, |host: Host| {
        let config = with(&bridge(&host), json!({"ipMasq": true}));
        for by in [By::Exec, By::Call] {
            let mut pod = host.pod("c1");
            host.add(by, &pod, &config);
            pod.die();
            host.del(by, &pod, &config);
            host.del(by, &pod, &config);
            assert_eq!((host.links(), host.elements()), (vec!["br0".to_owned()], String::new()));
            assert!(host.leases("net").is_empty());
        }
        // A pod of Debian's plugin is taken away by ours.
        let pod = host.pod("c1");
        host.add(By::Debian, &pod, &bridge(&host));
        host.del(By::Exec, &pod, &config);
        assert!(pod.links().is_empty() && host.leases("net").is_empty() && host.links() == ["br0"]);
    });
}

#[test]
fn a_second_add_is_refused_and_takes_nothing() {
    own_host!(a_second_add_is_refused_and_takes_nothing, |host: Host| {
        let pod = host.pod("c1");
        host.add(By::Exec, &pod, &bridge(&host));
        let (leases, links) = (host.leases("net"), host.links());
        for by in [By::Exec, By::Call] {
            let again = host.run(by, Command::Add, Some(&pod), &bridge(&host));
            assert_eq!(code(again), Some(Code::INTERNAL));
            assert_eq!((host.leases("net"), host.links()), (leases.clone(), links.clone()));
        }
    });
}

#[test]
fn a_leftover_of_another_is_taken_over() {
    own_host!(a_leftover_of_another_is_taken_over, |host: Host| {
        let config = with(&bridge(&host), json!({"ipMasq": true}));
        let (old, new) = (host.pod("old"), host.pod("new"));
        host.add(By::Exec, &old, &config);
        // The node crashed, and its leases with it; the same addresses are leased again.
        std::fs::remove_dir_all(host.path("leases")).unwrap();
        host.add(By::Exec, &new, &config);
        host.del(By::Exec, &old, &config);
        assert_eq!(host.elements().matches("\"net new eth0\"").count(), 2, "{}", host.elements());
    });
}

#[test]
fn gc_takes_the_dead_away_and_nobody_else() {
    own_host!(gc_takes_the_dead_away_and_nobody_else, |host: Host| {
        let config = with(&bridge(&host), json!({"ipMasq": true}));
        let pods: Vec<_> = (0..3).map(|n| host.pod(&format!("c{n}"))).collect();
        for pod in &pods {
            host.add(By::Exec, pod, &config);
        }
        // Another network on the same bridge, and one whose name begins like it.
        let others = [host.pod("c0"), host.pod("c1")];
        for (number, (name, pod)) in ["other", "net2"].iter().zip(&others).enumerate() {
            let subnet = format!("10.{number}.0.0/24");
            let ipam = json!({"type": "host-local", "dataDir": host.path("leases"), "subnet": subnet});
            host.add(By::Exec, pod, &with(&config, json!({"name": name, "isGateway": false, "ipam": ipam})));
        }
        host.gc(&config, &[&pods[1]]);
        assert_eq!(pods.iter().map(|pod| pod.links().len()).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(others.iter().all(|pod| pod.links().len() == 1));
        assert_eq!((host.leases("net").len(), host.leases("other").len(), host.leases("net2").len()), (2, 1, 1));
        let elements = host.elements();
        assert!(elements.contains("\"net c1 eth0\"") && elements.contains("\"other c0 eth0\""), "{elements}");
        assert!(!elements.contains("\"net c0 eth0\"") && !elements.contains("\"net c2 eth0\""), "{elements}");
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    own_host!(a_failed_add_leaves_nothing, |host: Host| {
        let good = with(&bridge(&host), json!({"ipMasq": true}));
        let pod = host.pod("c1");
        // The interface is there.
        pod.enter(|| ip("link add eth0 type veth peer name other"));
        for by in [By::Exec, By::Call] {
            host.run(by, Command::Add, Some(&pod), &good).unwrap_err();
            assert!(host.leases("net").is_empty() && host.links() == ["br0"] && host.elements().is_empty());
        }
        assert_eq!(pod.links().len(), 2, "what was there stays");
        // A route that the kernel refuses, after the link was made.
        let mut bad = good.clone();
        bad["ipam"]["routes"] = json!([{"dst": "10.77.0.0/16", "gw": "10.200.0.1"}]);
        let pod = host.pod("c2");
        let error = host.run(By::Exec, Command::Add, Some(&pod), &bad).unwrap_err();
        assert!(error.msg.contains("10.77.0.0/16 by 10.200.0.1"), "{}", error.msg);
        assert!(host.leases("net").is_empty() && host.links() == ["br0"] && pod.links().is_empty());
        // The bridge has another address.
        let other = with(
            &good,
            json!({"name": "other", "ipam": {"type": "host-local", "dataDir": host.path("leases"),
            "subnet": "10.8.0.0/24"}}),
        );
        assert_eq!(code(host.run(By::Exec, Command::Add, Some(&pod), &other)), Some(Code::INVALID_CONFIG));
        assert!(host.leases("other").is_empty());
        host.add(By::Exec, &pod, &with(&other, json!({"forceAddress": true})));
        let listing = ip("-4 -o address show dev br0");
        assert!(listing.contains("10.8.0.1/24") && !listing.contains("10.9.0.1"), "{listing}");
    });
}

#[test]
fn the_bridge_is_as_configured() {
    own_host!(the_bridge_is_as_configured, |host: Host| {
        let config = with(
            &bridge(&host),
            json!({"cniVersion": "1.1.0", "mtu": 1400, "isDefaultGateway": true, "promiscMode": true, "hairpinMode": false,
                "portIsolation": true, "mac": "02:00:00:00:00:05", "dns": {"nameservers": ["10.9.0.1"]}}),
        );
        let mut config = config;
        config["ipam"]["routes"] = json!([]);
        let (one, two) = (host.pod("c1"), host.pod("c2"));
        let result = host.add(By::Exec, &one, &config);
        let second = addresses(&host.add(By::Exec, &two, &with(&config, json!({"mac": ""}))));
        assert_eq!(result["interfaces"][2]["mac"], "02:00:00:00:00:05");
        assert_eq!(result["interfaces"][2]["mtu"], 1400);
        assert_eq!(result["dns"], json!({"nameservers": ["10.9.0.1"]}));
        assert_eq!(result["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.9.0.1"}));
        assert!(one.enter(|| ip("route")).contains("default via 10.9.0.1"));
        assert!(ip("link show br0").contains("PROMISC") && ip("link show br0").contains("mtu 1400"));
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        assert!(ip(&format!("-d link show {port}")).contains("isolated on"));
        let server = two.enter(|| serve(second[0]));
        assert_eq!(
            one.enter(|| std::net::TcpStream::connect_timeout(&server, std::time::Duration::from_millis(300)).ok())
                .map(drop),
            None,
            "isolated from each other"
        );
        assert!(seen_as(server).is_some(), "not from the host");

        for bad in [
            json!({"hairpinMode": true}),
            json!({"bridge": "a/b"}),
            json!({"mac": "x"}),
            json!({"bridge": port}),
            json!({"vlan": 5}),
            json!({"macspoofchk": true}),
            json!({"ipMasqBackend": "iptables"}),
        ] {
            let refused = code(host.run(By::Exec, Command::Add, Some(&host.pod("c3")), &with(&config, bad.clone())));
            assert!(matches!(refused, Some(Code::INVALID_CONFIG | Code::UNSUPPORTED_FIELD)), "{bad}: {refused:?}");
        }
        assert_eq!(host.leases("net").len(), 4);
    });
}

#[test]
fn duplicates_are_looked_for_when_asked() {
    own_host!(duplicates_are_looked_for_when_asked, |host: Host| {
        let config = with(&bridge(&host), json!({"enabledad": true}));
        let pod = host.pod("c1");
        host.add(By::Exec, &pod, &config);
        let listing = pod.enter(|| ip("-6 -o address show dev eth0"));
        assert!(
            listing.contains("fd00:9::2/64") && !listing.contains("tentative") && !listing.contains("nodad"),
            "{listing}"
        );
        // Another pod has the next address already, and says so.
        let thief = host.pod("c2");
        host.add(
            By::Exec,
            &thief,
            &with(
                &config,
                json!({"name": "thieves", "isGateway": false,
            "ipam": {"type": "static", "addresses": [{"address": "fd00:9::3/64"}]}}),
            ),
        );
        let victim = host.pod("c3");
        let error = host.run(By::Exec, Command::Add, Some(&victim), &config).unwrap_err();
        assert!(error.msg.contains("fd00:9::3"), "{}", error.msg);
        assert!(victim.links().is_empty());
    });
}

#[test]
fn many_at_once_share_a_bridge() {
    own_host!(many_at_once_share_a_bridge, |host: Host| {
        let config = with(&bridge(&host), json!({"ipMasq": true}));
        let pods: Vec<_> = (0..12).map(|n| host.pod(&format!("c{n}"))).collect();
        std::thread::scope(|scope| {
            for (n, pod) in pods.iter().enumerate() {
                let (host, config) = (&host, &config);
                scope.spawn(move || host.add(if n % 2 == 0 { By::Exec } else { By::Call }, pod, config));
            }
        });
        assert_eq!((host.links().len(), host.leases("net").len()), (13, 24));
        let rules = run("nft", &["list", "ruleset"]);
        assert_eq!(rules.matches("masquerade\n").count(), 2, "{rules}");
        std::thread::scope(|scope| {
            for pod in &pods {
                scope.spawn(|| host.del(By::Exec, pod, &config));
            }
        });
        assert_eq!((host.links(), host.elements()), (vec!["br0".to_owned()], String::new()));
        assert!(host.leases("net").is_empty());
    });
}
