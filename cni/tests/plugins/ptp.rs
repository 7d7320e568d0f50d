//! ptp: a pod's life with it, beside Debian's.

use serde_json::{Value, json};

use crate::support::{By, Host, ip, normal, own_host, seen_as, serve, wait_for_addresses, with};

fn ptp(host: &Host) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipam": host.ipam()})
}

#[test]
fn results_and_routes_are_those_of_debians_plugin() {
    own_host!(results_and_routes_are_those_of_debians_plugin, |host: Host| {
        for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
            let config = with(&ptp(&host), json!({"cniVersion": version}));
            let seen = [By::Debian, By::Exec, By::Call].map(|by| {
                let pod = host.pod("c1");
                // Debian's gives a route a source that is not its own before it has been looked for.
                pod.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
                let text = host.add_text(by, &pod, &config);
                let sorted = |text: String| {
                    let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
                    lines.sort();
                    lines
                };
                let routes = pod.enter(|| (sorted(ip("route")), sorted(ip("-6 route"))));
                host.del(by, &pod, &config);
                assert!(host.links().is_empty() && host.leases("net").is_empty());
                let _ = std::fs::remove_dir_all(host.path("leases"));
                (normal(&text, &pod), routes)
            });
            assert_eq!(seen[0], seen[1], "{version}");
            assert_eq!(seen[1], seen[2], "{version}");
        }
    });
}

#[test]
fn pods_reach_each_other_the_host_and_outside() {
    own_host!(pods_reach_each_other_the_host_and_outside, |host: Host| {
        let outside = host.outside();
        let config = with(&ptp(&host), json!({"ipMasq": true, "mtu": 1400}));
        let (one, two) = (host.pod("c1"), host.pod("c2"));
        host.add(By::Exec, &one, &config);
        let result = host.add(By::Call, &two, &config);
        assert!(two.enter(|| ip("link show eth0")).contains("mtu 1400"));
        wait_for_addresses();
        for (from, to, gateway) in [("10.9.0.2", "10.9.0.3", "10.9.0.1"), ("fd00:9::2", "fd00:9::3", "fd00:9::1")] {
            let server = two.enter(|| serve(to.parse().unwrap()));
            assert_eq!(one.enter(|| seen_as(server)), from.parse().ok());
            assert_eq!(seen_as(server), gateway.parse().ok());
        }
        for (address, host_address) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            let server = outside.enter(|| serve(address.parse().unwrap()));
            assert_eq!(one.enter(|| seen_as(server)), host_address.parse().ok(), "outside sees the host");
        }
        host.check(By::Exec, &two, &config, &result).unwrap();
        ip(&format!("route del 10.9.0.3 dev {}", result["interfaces"][0]["name"].as_str().unwrap()));
        host.check(By::Exec, &two, &config, &result).unwrap_err();
        host.gc(&config, &[&one]);
        assert!(two.links().is_empty() && one.links() == ["eth0"]);
        assert_eq!(host.leases("net").len(), 2);
        host.del(By::Exec, &one, &config);
        host.del(By::Exec, &one, &config);
        assert_eq!((host.links(), host.elements()), (vec!["up0".to_owned()], String::new()));
    });
}

#[test]
fn a_del_needs_no_namespace() {
    own_host!(a_del_needs_no_namespace, |host: Host| {
        let config = with(&ptp(&host), json!({"ipMasq": true}));
        let mut pod = host.pod("c1");
        host.add(By::Exec, &pod, &config);
        pod.die();
        host.del(By::Exec, &pod, &config);
        assert!(host.links().is_empty() && host.elements().is_empty() && host.leases("net").is_empty());
    });
}
