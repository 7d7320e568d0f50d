//! host-local and static: the same answers and, for host-local, the same files as Debian's plugins.

use std::fs;

use cni::types::{Code, Command};
use serde_json::{Value, json};

use crate::support::{By, Host, code, own_host, with};

fn host_local(host: &Host, version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "host-local", "ipam": host.ipam()})
}

#[test]
fn leases_are_those_of_debians_plugin() {
    own_host!(leases_are_those_of_debians_plugin, |host: Host| {
        let folder = host.path("leases/net");
        for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
            let config = host_local(&host, version);
            let seen = [By::Debian, By::Exec, By::Call].map(|by| {
                let _ = fs::remove_dir_all(&folder);
                let (one, two) = (host.pod("c1"), host.pod("c2"));
                let texts = [host.add_text(by, &one, &config), host.add_text(by, &two, &config)];
                let last = ["last_reserved_ip.0", "last_reserved_ip.1"].map(|n| fs::read(folder.join(n)).unwrap());
                (texts, last, host.leases("net"))
            });
            assert_eq!(seen[0], seen[1], "{version}");
            assert_eq!(seen[1], seen[2], "{version}");
        }
    });
}

#[test]
fn a_node_can_switch_over_and_back() {
    own_host!(a_node_can_switch_over_and_back, |host: Host| {
        let config = host_local(&host, "1.0.0");
        let pods: Vec<_> = (0..3).map(|n| host.pod(&format!("c{n}"))).collect();
        host.add(By::Debian, &pods[0], &config);
        let second = host.add(By::Exec, &pods[1], &config);
        assert_eq!(second["ips"][0]["address"], "10.9.0.3/24", "the search goes on behind the other's");
        host.add(By::Debian, &pods[2], &config);
        assert_eq!(host.leases("net").len(), 6);
        host.check(By::Exec, &pods[0], &config, &json!({"cniVersion": "1.0.0"})).unwrap();
        host.del(By::Exec, &pods[0], &config);
        host.del(By::Debian, &pods[1], &config);
        host.del(By::Exec, &pods[2], &config);
        assert!(host.leases("net").is_empty());
        host.check(By::Exec, &pods[0], &config, &json!({"cniVersion": "1.0.0"})).unwrap_err();
        host.del(By::Exec, &pods[0], &config);
    });
}

#[test]
fn addresses_can_be_asked_for() {
    own_host!(addresses_can_be_asked_for, |host: Host| {
        let asking = |ips: &[&str]| {
            with(&host_local(&host, "1.0.0"), json!({"capabilities": {"ips": true}, "runtimeConfig": {"ips": ips}}))
        };
        let (one, two) = (host.pod("c1"), host.pod("c2"));
        let result = host.add(By::Exec, &one, &asking(&["10.9.0.77/24"]));
        assert_eq!(result["ips"][0]["address"], "10.9.0.77/24");
        assert_eq!(result["ips"][1]["address"], "fd00:9::2/64");
        // Taken, a gateway, in no range, none at all.
        for bad in ["10.9.0.77", "10.9.0.1", "10.8.0.1", "x"] {
            let outcome = host.run(By::Exec, Command::Add, Some(&two), &asking(&["fd00:9::99", bad]));
            assert_eq!(code(outcome), Some(Code::INVALID_CONFIG), "{bad}");
        }
        assert_eq!(host.leases("net").len(), 2, "a failed ADD leases nothing");
        // A second ADD is the caller's fault, and a DEL gives back what both had.
        host.add(By::Exec, &one, &host_local(&host, "1.0.0"));
        assert_eq!(host.leases("net").len(), 4);
        host.del(By::Exec, &one, &host_local(&host, "1.0.0"));
        assert_eq!(host.leases("net").len(), 0);
    });
}

#[test]
fn a_full_range_is_told_by_status_and_add() {
    own_host!(a_full_range_is_told_by_status_and_add, |host: Host| {
        let ipam = json!({"type": "host-local", "dataDir": host.path("leases"), "subnet": "10.9.0.0/30"});
        let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "host-local", "ipam": ipam});
        let status = || host.run(By::Exec, Command::Status, None, &config);
        let (one, two) = (host.pod("c1"), host.pod("c2"));
        status().unwrap();
        host.add(By::Exec, &one, &config);
        assert_eq!(code(status()), Some(Code::UNAVAILABLE));
        host.run(By::Exec, Command::Add, Some(&two), &config).unwrap_err();
        host.gc(&config, &[&one]);
        assert_eq!(host.leases("net").len(), 1);
        host.gc(&config, &[&two]);
        status().unwrap();
        assert!(host.leases("net").is_empty());
    });
}

#[test]
fn many_at_once_get_different_addresses() {
    own_host!(many_at_once_get_different_addresses, |host: Host| {
        let config = host_local(&host, "1.0.0");
        let pods: Vec<_> = (0..16).map(|n| host.pod(&format!("c{n}"))).collect();
        std::thread::scope(|scope| {
            for pod in &pods {
                scope.spawn(|| host.add(By::Exec, pod, &config));
            }
        });
        assert_eq!(host.leases("net").len(), 32);
    });
}

#[test]
fn static_addresses_are_those_of_debians_plugin() {
    own_host!(static_addresses_are_those_of_debians_plugin, |host: Host| {
        let ipam = json!({"type": "static", "addresses": [
                {"address": "10.10.0.1/24", "gateway": "10.10.0.254"}, {"address": "3ffe:ffff:0:1ff::1/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.5.1"}],
            "dns": {"nameservers": ["8.8.8.8"], "domain": "example.com", "search": ["example.com"]}});
        for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
            let config = json!({"cniVersion": version, "name": "net", "type": "static", "ipam": ipam});
            let pod = host.pod("c1");
            let texts = [By::Debian, By::Exec, By::Call].map(|by| host.add_text(by, &pod, &config));
            assert_eq!(texts[0], texts[1], "{version}");
            assert_eq!(texts[1], texts[2], "{version}");
            host.del(By::Exec, &pod, &config);
        }
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "static", "ipam": ipam,
            "capabilities": {"ips": true}, "runtimeConfig": {"ips": ["10.11.0.1/24"]}});
        let pod = host.pod("c1");
        let texts = [By::Debian, By::Exec].map(|by| host.add_text(by, &pod, &config));
        assert_eq!(texts[0], texts[1]);
        let result: Value = serde_json::from_str(&texts[1]).unwrap();
        host.check(By::Exec, &pod, &config, &result).unwrap();
        let other = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.12.0.1/24"}]});
        host.check(By::Exec, &pod, &config, &other).unwrap_err();
    });
}
