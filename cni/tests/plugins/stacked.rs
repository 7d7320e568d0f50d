//! macvlan, ipvlan and vlan. Not every kernel has all three: those of the last two are run in a virtual machine (docs/testing.md).

use cni::types::{Code, Command};
use serde_json::{Value, json};

use crate::support::{By, Host, code, ip, normal, own_host, seen_as, serve, with};

fn on_the_uplink(host: &Host, kind: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "master": "up0", "ipam": {
        "type": "host-local", "dataDir": host.path("leases"), "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}],
        "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50"}], [{"subnet": "2001:db8::/64", "rangeStart": "2001:db8::50"}]]}})
}

/// A pod's life on the uplink's own network.
fn live(host: &Host, kind: &str) {
    let outside = host.outside();
    let config = on_the_uplink(host, kind);
    for by in [By::Exec, By::Call] {
        let _ = std::fs::remove_dir_all(host.path("leases"));
        let (one, mut two) = (host.pod("c1"), host.pod("c2"));
        let result = host.add(by, &one, &config);
        assert!(ip_of(&result) == "192.0.2.50/24" && result["interfaces"][0]["name"] == "eth0");
        host.add(by, &two, &config);
        for (server, client) in [("192.0.2.2", "192.0.2.50"), ("2001:db8::2", "2001:db8::50")] {
            let server = outside.enter(|| serve(server.parse().unwrap()));
            assert_eq!(one.enter(|| seen_as(server)), client.parse().ok());
        }
        host.check(by, &one, &config, &result).unwrap();
        host.check(by, &one, &with(&config, json!({"master": "lo"})), &result).unwrap_err();
        host.del(by, &one, &config);
        host.del(by, &one, &config);
        assert!(one.links().is_empty());
        two.die();
        host.del(by, &two, &config);
        assert!(host.leases("net").is_empty() && host.links() == ["up0"]);
    }
}

fn ip_of(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().unwrap()
}

/// For the same configuration, the same result.
fn compare(host: &Host, config: &Value) {
    let texts = [By::Debian, By::Exec, By::Call].map(|by| {
        let _ = std::fs::remove_dir_all(host.path("leases"));
        let pod = host.pod("c1");
        let text = host.add_text(by, &pod, config);
        host.del(by, &pod, config);
        normal(&text, &pod)
    });
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[1], texts[2]);
}

#[test]
fn a_macvlan_is_on_its_masters_network() {
    own_host!(a_macvlan_is_on_its_masters_network, |host: Host| live(&host, "macvlan"));
}

#[test]
fn macvlan_results_are_those_of_debians_plugin() {
    own_host!(macvlan_results_are_those_of_debians_plugin, |host: Host| {
        let _outside = host.outside();
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            compare(
                &host,
                &with(&on_the_uplink(&host, "macvlan"), json!({"cniVersion": version, "mtu": 1400, "mode": "private"})),
            );
        }
    });
}

#[test]
fn a_macvlan_is_as_configured() {
    own_host!(a_macvlan_is_as_configured, |host: Host| {
        let _outside = host.outside();
        ip("route add default via 192.0.2.2");
        let mut config =
            with(&on_the_uplink(&host, "macvlan"), json!({"mac": "02:00:00:00:00:07", "mtu": 1300, "mode": "vepa"}));
        config["ipam"]["ranges"].as_array_mut().unwrap().pop();
        // The default route's link is the master.
        config.as_object_mut().unwrap().remove("master");
        let pod = host.pod("c1");
        let result = host.add(By::Exec, &pod, &config);
        assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:07");
        let link = pod.enter(|| ip("-d link show eth0"));
        assert!(
            link.contains("mode vepa") && link.contains("mtu 1300") && link.contains("02:00:00:00:00:07"),
            "{link}"
        );
        host.del(By::Exec, &pod, &config);
        for bad in [json!({"mtu": 9000}), json!({"mode": "x"}), json!({"master": "none"}), json!({"mac": "x"})] {
            let outcome = host.run(By::Exec, Command::Add, Some(&pod), &with(&config, bad.clone()));
            assert_eq!(code(outcome), Some(Code::INVALID_CONFIG), "{bad}");
        }
        // Routes that the kernel refuses, when the link is there already.
        config["ipam"]["routes"] = json!([{"dst": "10.77.0.0/16", "gw": "10.200.0.1"}]);
        host.run(By::Exec, Command::Add, Some(&pod), &config).unwrap_err();
        assert!(pod.links().is_empty() && host.leases("net").is_empty());
        // Without addresses it is a link.
        config.as_object_mut().unwrap().remove("ipam");
        host.add(By::Exec, &pod, &config);
        assert!(pod.enter(|| ip("link show eth0")).contains("UP"));
    });
}

#[test]
fn status_misses_a_master() {
    own_host!(status_misses_a_master, |host: Host| {
        for kind in ["macvlan", "ipvlan", "vlan"] {
            let config = with(&on_the_uplink(&host, kind), json!({"cniVersion": "1.1.0"}));
            assert_eq!(code(host.run(By::Exec, Command::Status, None, &config)), Some(Code::UNAVAILABLE));
        }
        let _outside = host.outside();
        host.run(By::Exec, Command::Status, None, &with(&on_the_uplink(&host, "vlan"), json!({"cniVersion": "1.1.0"})))
            .unwrap();
    });
}

#[test]
#[ignore = "needs a kernel with ipvlan"]
fn an_ipvlan_is_on_its_masters_network() {
    own_host!(an_ipvlan_is_on_its_masters_network, |host: Host| {
        live(&host, "ipvlan");
        compare(&host, &with(&on_the_uplink(&host, "ipvlan"), json!({"mode": "l3"})));
    });
}

#[test]
#[ignore = "needs a kernel with vlan"]
fn a_vlan_has_its_number() {
    own_host!(a_vlan_has_its_number, |host: Host| {
        let outside = host.outside();
        outside.enter(|| {
            ip("link add link eth0 name eth0.5 type vlan id 5");
            ip("address add 10.5.0.1/24 dev eth0.5");
            ip("link set eth0.5 up");
        });
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "vlan", "master": "up0", "vlanId": 5,
            "ipam": {"type": "host-local", "dataDir": host.path("leases"), "subnet": "10.5.0.0/24", "rangeStart": "10.5.0.9"}});
        compare(&host, &config);
        let pod = host.pod("c1");
        let result = host.add(By::Exec, &pod, &config);
        let server = outside.enter(|| serve("10.5.0.1".parse().unwrap()));
        assert_eq!(pod.enter(|| seen_as(server)), Some(ip_of(&result).split('/').next().unwrap().parse().unwrap()));
        host.check(By::Exec, &pod, &config, &result).unwrap();
        host.del(By::Exec, &pod, &config);
        assert!(pod.links().is_empty() && host.links() == ["up0"]);
    });
}
