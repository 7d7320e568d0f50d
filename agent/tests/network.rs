//! The embedded network against the kernel. Needs root, and fails without it. Every test runs in a host of its own: a child
//! process in fresh network and mount namespaces, so nothing here can meet anything of the machine's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "network_support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use berth::model::PodId;
use berth::network::{Attachment, HostPort, NetworkConfig, NetworkError, Party, PortProtocol, SubnetV6, TALKS_TO};
use cri_api::v1::{PodSandboxConfig, PodSandboxMetadata};
use support::{
    Namespace, TestHost, in_own_host, ip, reachable, read_peer, run, serve_forever, serve_peer, tcp_and_udp,
};

#[test]
fn two_pods_reach_each_other_and_the_host() {
    in_own_host("two_pods_reach_each_other_and_the_host", |host: TestHost| async move {
        let network = host.open().await;
        network.status().unwrap();
        let (one, two) = (host.pod(), host.pod());
        let first = one.attach(&network).await;
        let second = two.attach(&network).await;
        assert_eq!(first.interface, "eth0");
        assert_eq!(first.addresses.len(), 2, "one address of each family");
        for address in second.ips() {
            one.ping(address);
        }
        for address in first.ips() {
            two.ping(address);
            host.ping(address);
        }
        for gateway in &first.gateways {
            one.ping(*gateway);
        }
        let link = one.run(|| ip("link show dev eth0"));
        assert!(link.contains(&first.mac), "{link}");
    });
}

#[test]
fn ipv6_works_in_the_first_millisecond() {
    in_own_host("ipv6_works_in_the_first_millisecond", |host: TestHost| async move {
        let network = host.open().await;
        let pod = host.pod();
        let attachment = pod.attach(&network).await;
        let listing = pod.run(|| ip("-6 address show dev eth0"));
        assert!(!listing.contains("tentative"), "{listing}");
        assert!(listing.contains("fe80::"), "a link-local address of its own: {listing}");
        assert!(pod.run(|| ip("-details link show dev eth0")).contains("addrgenmode none"));
        let IpAddr::V6(address) = attachment.ips().find(IpAddr::is_ipv6).unwrap() else { unreachable!() };
        // Binding fails on an address that is still being checked for duplicates.
        pod.run(move || std::net::TcpListener::bind((address, 0)).map(drop)).unwrap();
        assert_eq!(pod.run(|| read("/proc/sys/net/ipv6/conf/eth0/accept_ra")), "0");
    });
}

#[test]
fn what_leaves_the_pod_network_is_masqueraded() {
    in_own_host("what_leaves_the_pod_network_is_masqueraded", |host: TestHost| async move {
        let outside = host.uplink();
        let network = host.open().await;
        let (one, two) = (host.pod(), host.pod());
        one.attach(&network).await;
        let second = two.attach(&network).await;

        for (to, host_address) in [
            (IpAddr::from(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::from(Ipv4Addr::new(192, 0, 2, 1))),
            ("2001:db8::2".parse().unwrap(), "2001:db8::1".parse::<Ipv6Addr>().unwrap().into()),
        ] {
            let server = outside.run(move || serve_peer(to));
            let seen = one.run(move || read_peer(server.address));
            assert_eq!(seen, host_address, "outside sees the host");
        }
        let to = second.addresses[0].addr();
        let server = two.run(move || serve_peer(to));
        let seen = one.run(move || read_peer(server.address));
        assert_ne!(seen, second.gateways[0], "another pod sees the pod itself");
    });
}

#[test]
fn pods_are_forwarded_where_the_policy_is_drop() {
    in_own_host("pods_are_forwarded_where_the_policy_is_drop", |host: TestHost| async move {
        run("iptables -P FORWARD DROP");
        run("ip6tables -P FORWARD DROP");
        let outside = host.uplink();
        let network = host.open().await;
        let pod = host.pod();
        pod.attach(&network).await;
        for to in ["192.0.2.2", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let server = outside.run(move || serve_peer(to));
            pod.run(move || read_peer(server.address));
        }
    });
}

#[test]
fn fifty_pods_leave_nothing() {
    in_own_host("fifty_pods_leave_nothing", |host: TestHost| async move {
        let network = host.open().await;
        let before = host.inventory();
        for _ in 0..2 {
            let pods: Vec<Namespace> = (0..50).map(|_| host.pod()).collect();
            let mut addresses = HashSet::new();
            for pod in &pods {
                addresses.extend(pod.attach(&network).await.ips());
            }
            assert_eq!(addresses.len(), 100, "no address twice");
            for pod in &pods {
                network.remove(&pod.id).await.unwrap();
                network.remove(&pod.id).await.unwrap();
            }
            drop(pods);
            host.wait_until("every veth is gone", || host.inventory() == before);
        }
    });
}

#[test]
fn parallel_adds_share_nothing() {
    in_own_host("parallel_adds_share_nothing", |host: TestHost| async move {
        let network = host.open().await;
        let pods: Vec<Namespace> = (0..16).map(|_| host.pod()).collect();
        let adds: Vec<_> = pods.iter().map(|pod| pod.attach(&network)).collect();
        let attachments = futures_util::future::join_all(adds).await;
        let addresses: HashSet<_> = attachments.iter().flat_map(Attachment::ips).collect();
        assert_eq!(addresses.len(), 32);
        for (pod, other) in pods.iter().zip(attachments.iter().rev()) {
            pod.ping(other.addresses[0].addr());
        }
    });
}

#[test]
fn a_restart_keeps_addresses_and_rules() {
    in_own_host("a_restart_keeps_addresses_and_rules", |host: TestHost| async move {
        let network = host.open().await;
        let pod = host.pod();
        let before = pod.attach(&network).await;
        let rules = host.rules();
        drop(network);

        let network = host.open().await;
        assert_eq!(host.rules(), rules, "asserting twice is asserting once");
        let other = host.pod();
        let second = other.attach(&network).await;
        assert!(second.ips().all(|ip| before.ips().all(|old| old != ip)));
        other.ping(before.addresses[0].addr());
        network.remove(&pod.id).await.unwrap();
        assert_eq!(host.leases(), 2);
    });
}

#[test]
fn a_second_agent_is_refused() {
    in_own_host("a_second_agent_is_refused", |host: TestHost| async move {
        let _network = host.open().await;
        let error = berth::network::PodNetwork::open(host.config()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Store(_)), "{error}");
    });
}

#[test]
fn sweep_takes_the_dead_and_leaves_the_living() {
    in_own_host("sweep_takes_the_dead_and_leaves_the_living", |host: TestHost| async move {
        let network = host.open().await;
        let (living, dead) = (host.pod(), host.pod());
        let kept = living.attach(&network).await;
        let swept = dead.attach(&network).await;
        // A crash between the lease and the link.
        let never = PodId::random().unwrap();
        fs::write(host.config().run_dir.join("10.88.200.7"), format!("{never}\r\neth0")).unwrap();
        drop(network);

        let network = host.open().await;
        network.sweep(&HashSet::from([living.id.clone()])).await.unwrap();
        assert_eq!(host.leases(), 2);
        assert!(host.link_exists(&kept.host_interface));
        assert!(!host.link_exists(&swept.host_interface), "though its namespace lives on");
        living.ping(kept.gateways[0]);
    });
}

#[test]
fn after_a_reboot_every_address_is_free() {
    in_own_host("after_a_reboot_every_address_is_free", |host: TestHost| async move {
        let network = host.open().await;
        let ula = host.pod().attach(&network).await.addresses[1].trunc();
        network.set_pod_cidr("10.244.7.0/24").await.unwrap();
        drop(network);
        fs::remove_dir_all(host.config().run_dir).unwrap();
        ip("link delete berth0");

        let network = host.open().await;
        assert_eq!(host.leases(), 0);
        let again = host.pod().attach(&network).await;
        assert_eq!(again.addresses[0].to_string(), "10.244.7.2/24", "kubelet does not repeat itself");
        assert_eq!(again.addresses[1].trunc(), ula, "the derived subnet is stable");
    });
}

#[test]
fn adding_a_pod_again_gives_it_the_same_addresses() {
    in_own_host("adding_a_pod_again_gives_it_the_same_addresses", |host: TestHost| async move {
        let network = host.open().await;
        let pod = host.pod();
        let first = pod.attach(&network).await;
        let second = pod.attach(&network).await;
        assert_eq!(first, second);
        let reborn = host.pod_of(pod.id.clone());
        let third = reborn.attach(&network).await;
        assert_eq!(first, third);
        reborn.ping(third.gateways[0]);
        assert_eq!(host.leases(), 2);
    });
}

#[test]
fn a_taken_interface_name_is_not_taken_away() {
    in_own_host("a_taken_interface_name_is_not_taken_away", |host: TestHost| async move {
        let network = host.open().await;
        let pod = host.pod();
        let name = format!("veth{}", &pod.id.as_str()[..11]);
        ip(&format!("link add {name} type bridge"));
        let attachment = pod.attach(&network).await;
        assert_ne!(attachment.host_interface, name);
        assert!(host.link_exists(&name));
        pod.ping(attachment.gateways[0]);
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    in_own_host("a_failed_add_leaves_nothing", |host: TestHost| async move {
        let network = host.open().await;
        let before = host.inventory();
        // The name is taken inside the pod.
        let pod = host.pod();
        pod.run(|| ip("link add eth0 type bridge"));
        let error = pod.try_attach(&network).await.unwrap_err();
        assert!(error.to_string().contains("create veth pair"), "{error}");
        assert_eq!(host.inventory(), before);
        // The batch fails after the link was made: the socket is of another namespace.
        let pod = host.pod();
        let error = network.add(&pod.id, pod.netns(), host.netlink()).await.unwrap_err();
        assert!(error.to_string().contains("get link eth0"), "{error}");
        assert_eq!(host.inventory(), before);
        // Not even a socket.
        let file = fs::File::open("/dev/null").unwrap();
        assert!(network.add(&pod.id, pod.netns(), file.into()).await.is_err());
        assert_eq!(host.inventory(), before);
    });
}

#[test]
fn a_full_subnet_says_so_and_recovers() {
    in_own_host("a_full_subnet_says_so_and_recovers", |host: TestHost| async move {
        let network = host.open().await;
        network.set_pod_cidr("10.244.0.0/30").await.unwrap();
        let (one, two) = (host.pod(), host.pod());
        one.attach(&network).await;
        let error = two.try_attach(&network).await.unwrap_err();
        assert!(error.to_string().contains("no free address in 10.244.0.0/30"), "{error}");
        assert_eq!(host.leases(), 2);
        network.remove(&one.id).await.unwrap();
        two.attach(&network).await;
    });
}

#[test]
fn a_new_pod_cidr_is_for_new_pods() {
    in_own_host("a_new_pod_cidr_is_for_new_pods", |host: TestHost| async move {
        let network = host.open().await;
        let old = host.pod();
        let before = old.attach(&network).await;
        network.set_pod_cidr("").await.unwrap();
        network.set_pod_cidr("10.244.1.0/24,fd00:10:244:1::/64").await.unwrap();
        let new = host.pod();
        let after = new.attach(&network).await;
        assert_eq!(after.addresses[0].to_string(), "10.244.1.2/24");
        assert_eq!(after.addresses[1].to_string(), "fd00:10:244:1::2/64");
        for address in after.ips() {
            old.ping(address);
        }
        old.ping(before.gateways[0]);
        network.remove(&old.id).await.unwrap();
        network.reassert().await.unwrap();
        assert!(!ip("address show dev berth0").contains("10.88.0.1"), "no pod needs the old gateway any more");
        assert!(network.set_pod_cidr("10.244.1.0").await.is_err());
    });
}

#[test]
fn what_others_flushed_is_put_back() {
    in_own_host("what_others_flushed_is_put_back", |host: TestHost| async move {
        let network = host.open().await;
        let rules = host.rules();
        run("iptables -t nat -F");
        run("iptables -F BERTH-FWD-berth0");
        run("ip6tables -t nat -F POSTROUTING");
        assert_ne!(host.rules(), rules);
        network.reassert().await.unwrap();
        assert_eq!(host.rules(), rules);
        // A pod finds the bridge gone.
        ip("link delete berth0");
        let pod = host.pod();
        let attachment = pod.attach(&network).await;
        pod.ping(attachment.gateways[0]);
    });
}

#[test]
fn what_others_take_away_is_noticed() {
    in_own_host("what_others_take_away_is_noticed", |host: TestHost| async move {
        let network = host.open_apart().await;
        let pod = host.pod_apart();
        let attachment = pod.attach(&network).await;
        network.publish(&pod.id, &attachment, both(&[port("", 18080)])).await.unwrap();
        network.tend().await;
        let everything = || format!("{}{}", host.rules(), run("nft --stateless list ruleset"));
        let (rules, addresses) = (everything(), ip("-oneline address show dev berth0 scope global"));
        for loss in [
            "iptables -t nat -F",
            "iptables -F BERTH-FWD-berth0",
            "ip6tables -t nat -F POSTROUTING",
            "nft flush table ip berth-ports-berth0",
            "nft delete table ip6 berth-isolation-berth0",
            "nft flush ruleset",
        ] {
            run(loss);
            assert_ne!(everything(), rules, "{loss}");
            network.tend().await;
            assert_eq!(host.rules(), rules.split("table").next().unwrap(), "{loss}");
            let tables = run("nft --stateless list ruleset");
            assert!(tables.contains("berth-isolation-berth0") && tables.contains(". 18080"), "{loss}: {tables}");
        }
        for gateway in &attachment.gateways {
            let line = addresses.lines().find(|line| line.contains(&format!("{gateway}/"))).unwrap();
            let net = line.split_whitespace().nth(3).unwrap();
            ip(&format!("address delete {net} dev berth0"));
            network.tend().await;
            pod.ping(*gateway);
        }

        // Its own doings are none of others': a pod comes and goes, and nothing is written anew.
        network.remove(&pod.id).await.unwrap();
        let handles = || run("nft --stateless --handle list ruleset");
        network.tend().await;
        let tables = handles();
        network.tend().await;
        assert_eq!(handles(), tables);
    });
}

#[test]
fn a_bridge_that_is_made_again_has_its_pods() {
    in_own_host("a_bridge_that_is_made_again_has_its_pods", |host: TestHost| async move {
        let network = host.open().await;
        let (one, two) = (host.pod(), host.pod());
        let (first, second) = (one.attach(&network).await, two.attach(&network).await);
        // Of another network, and named alike.
        ip("link add other0 type veth peer name other1");
        ip(&format!("link set other0 alias {}", PodId::random().unwrap()));
        ip("link delete berth0");
        network.tend().await;
        first.gateways.iter().for_each(|gateway| one.ping(*gateway));
        second.ips().for_each(|address| one.ping(address));
        let ports = ip("-oneline -details link show master berth0");
        assert!(ports.lines().count() == 2 && ports.matches("hairpin on").count() == 2, "{ports}");
    });
}

#[test]
fn an_overlap_with_another_network_is_told() {
    in_own_host("an_overlap_with_another_network_is_told", |host: TestHost| async move {
        ip("link add other type bridge");
        ip("address add 10.88.0.1/16 dev other");
        let network = host.open().await;
        let reason = network.status().unwrap_err();
        assert!(reason.contains("overlaps 10.88.0.1/16 of other"), "{reason}");
        let pod = host.pod();
        assert!(matches!(pod.try_attach(&network).await, Err(NetworkError::NotReady(_))));
        ip("link delete other");
        network.reassert().await.unwrap();
        network.status().unwrap();
        pod.attach(&network).await;
    });
}

#[test]
fn without_iptables_the_reason_says_what_to_install() {
    in_own_host("without_iptables_the_reason_says_what_to_install", |host: TestHost| async move {
        let hidden = host.without_sbin();
        let network = host.open().await;
        assert_eq!(network.status().unwrap_err(), "iptables is not installed: install the package iptables");
        drop(hidden);
        network.reassert().await.unwrap();
        network.status().unwrap();
    });
}

#[test]
fn one_family_alone_works() {
    in_own_host("one_family_alone_works", |host: TestHost| async move {
        let config = NetworkConfig { subnet_v6: SubnetV6::Off, ..host.config() };
        let network = berth::network::PodNetwork::open(config).await.unwrap();
        let pod = host.pod();
        let attachment = pod.attach(&network).await;
        assert_eq!(attachment.addresses.len(), 1);
        pod.ping(attachment.gateways[0]);
        drop(network);

        let config = NetworkConfig { subnet_v4: None, bridge: "berth6".into(), ..host.config() };
        let network = berth::network::PodNetwork::open(config).await.unwrap();
        let pod = host.pod();
        let attachment = pod.attach(&network).await;
        assert!(attachment.addresses[0].addr().is_ipv6() && attachment.addresses.len() == 1);
        pod.ping(attachment.gateways[0]);
    });
}

#[test]
fn a_pod_that_turns_ipv6_off_does_without() {
    in_own_host("a_pod_that_turns_ipv6_off_does_without", |host: TestHost| async move {
        let network = host.open().await;
        let pod = host.pod();
        pod.run(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap());
        let attachment = pod.attach(&network).await;
        assert_eq!((attachment.addresses.len(), attachment.gateways.len(), host.leases()), (1, 1, 1));
        pod.ping(attachment.gateways[0]);
    });
}

#[test]
fn the_mtu_is_the_uplinks() {
    in_own_host("the_mtu_is_the_uplinks", |host: TestHost| async move {
        let _outside = host.uplink();
        ip("link set uplink mtu 1400");
        ip("route add default via 192.0.2.2");
        let network = host.open().await;
        let pod = host.pod();
        assert_eq!(pod.attach(&network).await.mtu, 1400);
        assert!(pod.run(|| ip("link show dev eth0")).contains("mtu 1400"));
    });
}

#[test]
fn a_pod_without_a_network_has_a_loopback() {
    in_own_host("a_pod_without_a_network_has_a_loopback", |host: TestHost| async move {
        let pod = host.pod();
        berth::network::loopback_up(pod.netlink()).await.unwrap();
        pod.ping(Ipv4Addr::LOCALHOST.into());
        pod.ping(Ipv6Addr::LOCALHOST.into());
    });
}

#[test]
fn pods_that_are_kept_apart_reach_all_but_each_other() {
    in_own_host("pods_that_are_kept_apart_reach_all_but_each_other", |host: TestHost| async move {
        let outside = host.uplink();
        // Where the kernel's bridges never call the packet filter, there is one setting.
        let settings = if fs::exists(format!("{FILTERED}iptables")).unwrap() { &["1", "0"][..] } else { &["0"] };
        for filtered in settings {
            kept_apart(&host, &outside, filtered).await;
        }
    });
}

/// Whether the host's packet filters see what goes from port to port of a bridge (br_netfilter); a family's name follows.
const FILTERED: &str = "/proc/sys/net/bridge/bridge-nf-call-";

async fn kept_apart(host: &TestHost, outside: &Namespace, filtered: &str) {
    for family in ["iptables", "ip6tables"] {
        let setting = format!("{FILTERED}{family}");
        if fs::exists(&setting).unwrap() {
            fs::write(setting, filtered).unwrap();
        }
    }
    let network = host.open_apart().await;
    let (one, two) = (host.pod_apart(), host.pod_apart());
    let first = one.attach(&network).await;
    let second = two.attach(&network).await;
    for address in first.ips().chain(second.ips()) {
        host.ping(address);
    }
    for address in second.ips() {
        assert!(!one.reaches(address), "{address}");
    }
    for address in first.gateways.iter().copied().chain(["192.0.2.2", "2001:db8::2"].map(|ip| ip.parse().unwrap())) {
        one.ping(address);
    }
    // A port of the node is everybody's.
    two.run(|| serve_forever(8080));
    network.publish(&two.id, &second, both(&[port("", 18080)])).await.unwrap();
    for to in ["192.0.2.1:18080", "[2001:db8::1]:18080"] {
        one.run(move || tcp_and_udp(to.parse().unwrap()));
        outside.run(move || tcp_and_udp(to.parse().unwrap()));
    }
    // Nor by a way of their own making: each has the other's Ethernet address in its table of neighbours.
    for (pod, other) in [(&one, &second), (&two, &first)] {
        for (address, mac) in other.ips().map(|address| (address, other.mac.clone())) {
            pod.run(move || {
                ip(&format!("route add {address} dev eth0"));
                ip(&format!("neighbor add {address} lladdr {mac} dev eth0"));
            });
        }
    }
    for address in second.ips() {
        assert!(!one.reaches(address), "{address}");
    }
    drop(network);
    // The next agent keeps nobody apart: ports that are there already are set free.
    let network = host.open().await;
    for address in second.ips() {
        assert!(one.reaches(address), "{address}");
    }
    for pod in [one, two] {
        network.remove(&pod.id).await.unwrap();
    }
}

#[test]
fn pods_that_name_each_other_talk_though_pods_are_kept_apart() {
    in_own_host("pods_that_name_each_other_talk_though_pods_are_kept_apart", |host: TestHost| async move {
        let network = host.open_apart().await;
        let pods = [(); 3].map(|()| host.pod_apart());
        let [web, db, third] = &pods;
        let mut addresses = Vec::new();
        for (pod, name, talks_to) in [(web, "web", "db"), (db, "db", "other/x, shop/web"), (third, "third", "web")] {
            let attachment = pod.attach(&network).await;
            addresses.push(attachment.ips().collect::<Vec<_>>());
            network.admit(&pod.id, party(name, talks_to), attachment.ips().collect()).await.unwrap();
        }
        let [web_ips, db_ips, third_ips] = &addresses[..] else { unreachable!() };
        let talk = |from: &Namespace, to: &[IpAddr]| to.iter().map(|ip| from.reaches(*ip)).collect::<Vec<_>>();
        assert_eq!((talk(web, db_ips), talk(db, web_ips)), (vec![true; 2], vec![true; 2]));
        assert_eq!((talk(third, web_ips), talk(web, third_ips)), (vec![false; 2], vec![false; 2]), "one side names");

        // Somebody takes the table away, and it is asserted again.
        run("nft flush ruleset");
        network.reassert().await.unwrap();
        assert_eq!((talk(web, db_ips), talk(web, third_ips)), (vec![true; 2], vec![false; 2]));

        // Who gets the address next has none of its friends.
        network.remove(&db.id).await.unwrap();
        assert!(!web.reaches(db_ips[0]));
        assert!(!run("nft list ruleset").contains(&db_ips[0].to_string()));
        drop(network);

        // Another agent, by whose configuration all reach each other.
        let network = host.open().await;
        network.sweep(&HashSet::from([web.id.clone(), third.id.clone()])).await.unwrap();
        assert_eq!(talk(third, web_ips), vec![true; 2]);
        assert!(!run("nft list ruleset").contains("berth-isolation"));
    });
}

/// A pod of the namespace `shop`.
fn party(name: &str, talks_to: &str) -> Option<Party> {
    let metadata = PodSandboxMetadata { name: name.into(), namespace: "shop".into(), ..Default::default() };
    let annotations = [(TALKS_TO.to_owned(), talks_to.to_owned())].into();
    Party::of(&PodSandboxConfig { metadata: Some(metadata), annotations, ..Default::default() }).unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn host_ports_lead_to_the_pod() {
    in_own_host("host_ports_lead_to_the_pod", |host: TestHost| async move {
        let outside = host.uplink();
        let network = host.open().await;
        let (pod, other) = (host.pod(), host.pod());
        let attachment = pod.attach(&network).await;
        other.attach(&network).await;
        pod.run(|| serve_forever(8080));
        network.publish(&pod.id, &attachment, both(&[port("", 18080), port("192.0.2.1", 18081)])).await.unwrap();

        let reach = |to: &str| tcp_and_udp(to.parse().unwrap());
        let everywhere = ["192.0.2.1:18080", "[2001:db8::1]:18080", "192.0.2.1:18081"];
        for to in everywhere {
            outside.run(move || tcp_and_udp(to.parse().unwrap()));
            reach(to);
            // Another pod, and the pod itself by the host's address (hairpin).
            other.run(move || tcp_and_udp(to.parse().unwrap()));
            pod.run(move || tcp_and_udp(to.parse().unwrap()));
        }
        reach("127.0.0.1:18080");
        assert!(!reachable("127.0.0.1:18081"), "it is of one address only");
        // The client's own address arrives.
        assert_eq!(outside.run(|| read_peer("192.0.2.1:18080".parse().unwrap())).to_string(), "192.0.2.2");

        network.remove(&pod.id).await.unwrap();
        assert!(!reachable("127.0.0.1:18080") && !reachable("192.0.2.1:18081"));
        assert!(!run("nft list ruleset").contains("18080"));
    });
}

#[test]
fn host_ports_survive_a_restart_and_die_with_their_pod() {
    in_own_host("host_ports_survive_a_restart_and_die_with_their_pod", |host: TestHost| async move {
        let network = host.open().await;
        let (pod, dead) = (host.pod(), host.pod());
        for (pod, number) in [(&pod, 18080), (&dead, 18090)] {
            let attachment = pod.attach(&network).await;
            pod.run(|| serve_forever(8080));
            network.publish(&pod.id, &attachment, both(&[port("", number)])).await.unwrap();
        }
        let error = network.publish(&dead.id, &dead.attach(&network).await, vec![port("", 18080)]).await.unwrap_err();
        assert!(matches!(error, NetworkError::PortInUse { port: 18080, .. }), "{error}");
        network.publish(&dead.id, &dead.attach(&network).await, both(&[port("", 18090)])).await.unwrap();
        run("nft flush ruleset");
        drop(network);

        let network = host.open().await;
        network.sweep(&HashSet::from([pod.id.clone()])).await.unwrap();
        tcp_and_udp("127.0.0.1:18080".parse().unwrap());
        assert!(!run("nft list ruleset").contains("18090"));
        // Somebody flushes, and the pod goes: that must not fail.
        run("nft flush ruleset");
        network.remove(&pod.id).await.unwrap();
        assert_eq!(fs::read_dir(host.config().run_dir.join("ports")).unwrap().count(), 0);
    });
}

#[test]
fn no_pod_reaches_the_hosts_loopback() {
    in_own_host("no_pod_reaches_the_hosts_loopback", |host: TestHost| async move {
        let network = host.open().await;
        let pod = host.pod();
        let attachment = pod.attach(&network).await;
        network.publish(&pod.id, &attachment, vec![port("", 18080)]).await.unwrap();
        serve_forever(9000);
        tcp_and_udp("127.0.0.1:9000".parse().unwrap());
        // CVE-2020-8558: a neighbour sends to 127.0.0.1 with the host's Ethernet address.
        let gateway = attachment.gateways[0];
        pod.run(move || {
            fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            ip("route flush table local");
            ip(&format!("route add 127.0.0.0/8 via {gateway} dev eth0"));
            let address = ip("-4 -oneline address show dev eth0");
            let source = address.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
            ip(&format!("route add local {source} dev eth0 table local"));
            assert!(!reachable("127.0.0.1:9000"));
        });
    });
}

/// Each port for UDP as well.
fn both(ports: &[HostPort]) -> Vec<HostPort> {
    let udp = ports.iter().map(|port| HostPort { protocol: PortProtocol::Udp, ..port.clone() });
    ports.iter().cloned().chain(udp).collect()
}

fn port(host_ip: &str, host_port: u16) -> HostPort {
    let host_ip = host_ip.parse().ok();
    HostPort { protocol: PortProtocol::Tcp, host_ip, host_port, pod_port: 8080 }
}

/// Prints how long a pod takes to connect, beside the reference plugins of Debian (containernetworking-plugins), which do
/// the same: a bridge, two addresses, masquerade.
#[test]
#[ignore = "a measurement"]
fn measure_add() {
    in_own_host("measure_add", |host: TestHost| async move {
        let network = host.open().await;
        let mut kept = Vec::new();
        for existing in [1, 200, 500] {
            while kept.len() < existing {
                let pod = host.pod();
                pod.attach(&network).await;
                kept.push(pod);
            }
            // Namespaces die after the measurement: their deaths hold the lock that every link change needs.
            let pods: Vec<_> = (0..50).map(|_| host.pod()).collect();
            let (mut adds, mut removes) = (Vec::new(), Vec::new());
            for pod in &pods {
                let netlink = pod.netlink();
                let start = Instant::now();
                network.add(&pod.id, pod.netns(), netlink).await.unwrap();
                adds.push(start.elapsed());
            }
            let mut publishes = Vec::new();
            let attachment = pods[0].attach(&network).await;
            for (number, pod) in (20000..).zip(&pods) {
                let start = Instant::now();
                network.publish(&pod.id, &attachment, vec![port("", number)]).await.unwrap();
                publishes.push(start.elapsed());
            }
            println!("berth, {existing} pods: publish a host port {}", median(publishes));
            for pod in &pods {
                let start = Instant::now();
                network.remove(&pod.id).await.unwrap();
                removes.push(start.elapsed());
            }
            drop(pods);
            let quiet = existing + 20;
            host.wait_until("the measured pods are gone", || ip("-oneline link show").lines().count() < quiet);
            println!("berth, {existing} pods: add {} remove {}", median(adds), median(removes));
        }
        drop(kept);
        host.wait_until("all pods are gone", || ip("-oneline link show").lines().count() < 10);
        for (existing, masquerade) in [(1, false), (1, true), (200, false), (200, true)] {
            let plugin = support::ReferencePlugin::new(&host, masquerade);
            let mut pods = Vec::new();
            while pods.len() < existing {
                let pod = host.pod();
                plugin.add(&pod);
                pods.push(pod);
            }
            let measured: Vec<_> = (0..20).map(|_| host.pod()).collect();
            let (mut adds, mut removes) = (Vec::new(), Vec::new());
            for pod in &measured {
                let start = Instant::now();
                plugin.add(pod);
                adds.push(start.elapsed());
            }
            for pod in &measured {
                let start = Instant::now();
                plugin.delete(pod);
                removes.push(start.elapsed());
            }
            let with = if masquerade { " + ipMasq" } else { "" };
            println!("bridge + host-local{with}, {existing} pods: add {} remove {}", median(adds), median(removes));
            pods.iter().for_each(|pod| plugin.delete(pod));
        }
    });
}

/// Median and smallest.
fn median(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("p50 {:?} min {:?}", times[times.len() / 2], times[0])
}
