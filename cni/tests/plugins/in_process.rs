//! A chain of our plugins as programs and by call: what it answers, what it records and what the kernel has then are the same.

use std::time::{Duration, Instant};

use cni::call::Runner;
use cni::client::{Attachment, Client, Exec, Records};
use cni::conf::{Bandwidth, Capabilities, NetworkList, PortMapping};
use cni::plugins::InProcess;
use serde_json::json;

use crate::support::{Host, Pod, ip, own_host, run, wait_for_addresses, wait_until};

/// Where no program is.
const NO_PATH: &str = "/nowhere";

#[test]
fn a_chain_by_call_does_what_its_programs_do() {
    own_host!(a_chain_by_call_does_what_its_programs_do, |host: Host| {
        let programs = vec![host.path("bin")];
        let by_exec = life(&host, &Exec::new(programs.clone()));
        // There is no program to be run.
        let by_call = life(&host, &InProcess::new(Exec::new(vec![NO_PATH.into()])));
        let mixed = InProcess::new(Exec::new(programs)).except(vec!["bridge".into(), "host-local".into()]);
        for (exec, other) in by_exec.iter().zip(&by_call).chain(by_exec.iter().zip(&life(&host, &mixed))) {
            assert_eq!(exec, other);
        }
        assert!(by_exec[0].contains("10.9.0.2/24") && by_exec[2].contains("8080"), "{by_exec:?}");
        // What is excepted is nowhere else.
        let excepted = InProcess::new(Exec::new(vec![NO_PATH.into()])).except(vec!["host-local".into()]);
        let client = Client::new(excepted, Records::new(host.path("records")), vec![]);
        let pod = host.pod("c1");
        let refused = client.add(&list(&host), &attachment(&pod), soon()).unwrap_err();
        assert!(refused.to_string().contains(r#""host-local" is not in"#), "{refused}");
    });
}

/// ADD and DEL: the result, the record, the kernel's state in between, and afterwards.
fn life(host: &Host, runner: &dyn Runner) -> [String; 4] {
    let client = Client::new(runner, Records::new(host.path("records")), vec![host.path("bin")]);
    let (list, pod) = (list(host), host.pod("c1"));
    let result = client.add(&list, &attachment(&pod), soon()).unwrap_or_else(|error| panic!("{error}"));
    let record = std::fs::read_to_string(host.path("records/results/net-c1-eth0")).unwrap();
    settled(&pod, "state UP");
    let there = state(&pod);
    client.del(&list.name, None, &attachment(&pod), soon()).unwrap();
    settled(&pod, "state DOWN");
    let gone = state(&pod);
    assert!(host.leases("net").is_empty() && !host.path("records/results/net-c1-eth0").exists());
    ip("link del br0");
    run("nft", &["flush", "ruleset"]);
    std::fs::remove_dir_all(host.path("leases")).unwrap();
    let result = String::from_utf8_lossy(&serde_json::to_vec(&result.to_value(list.version)).unwrap()).into_owned();
    [result, record, there, gone].map(|text| same(&text, &pod))
}

fn list(host: &Host) -> NetworkList {
    let text = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": host.ipam()},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400, "dataDir": host.path("tuning")},
        {"type": "firewall"}]});
    NetworkList::parse(text.to_string().as_bytes()).unwrap()
}

fn attachment(pod: &Pod) -> Attachment {
    let port = PortMapping { host_port: 8080, container_port: 80, protocol: "tcp".into(), host_ip: String::new() };
    let bandwidth = Bandwidth { ingress_rate: 1 << 20, ingress_burst: 1 << 20, ..Bandwidth::default() };
    Attachment {
        container: pod.id.parse().unwrap(),
        netns: Some(pod.path()),
        interface: "eth0".parse().unwrap(),
        args: "IgnoreUnknown=1".parse().unwrap(),
        capabilities: Capabilities { port_mappings: vec![port], bandwidth: Some(bandwidth), ..Capabilities::default() },
    }
}

/// What the kernel does a moment later: a bridge learns of a port's carrier, and of its loss, and an address is looked for elsewhere.
fn settled(pod: &Pod, bridge: &str) {
    wait_until(&format!("br0 has {bridge}"), || ip("-o link show dev br0").contains(bridge));
    pod.enter(wait_for_addresses);
}

fn state(pod: &Pod) -> String {
    let inside = pod.enter(|| {
        let somaxconn = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        [ip("-o link"), ip("-o address"), ip("route"), ip("-6 route"), somaxconn].join("\n")
    });
    let host = [ip("-o link"), ip("-o address show dev br0 scope global"), run("tc", &["qdisc"])].join("\n");
    [inside, host, run("nft", &["--stateless", "list", "ruleset"])].join("\n")
}

/// Without what the kernel chooses anew each time: numbers of links, namespaces and queues, Ethernet addresses, and what follows from them.
fn same(text: &str, pod: &Pod) -> String {
    let text = text.replace(&pod.path(), "NETNS").replace(['"', '\'', '{', '}', '[', ']', ','], " ");
    let word = |word: &str| {
        let octets: Vec<_> = word.split(':').collect();
        let ethernet = octets.len() == 6 && octets.iter().all(|octet| octet.len() == 2);
        let number = word.strip_suffix(':').is_some_and(|number| u32::from_str_radix(number, 16).is_ok());
        match word {
            _ if ethernet || word.starts_with("fe80::") => "MAC".to_owned(),
            _ if number => "NUMBER".to_owned(),
            _ => word.split("@if").next().unwrap_or_default().to_owned(),
        }
    };
    let words: Vec<_> = text.split_whitespace().map(word).collect();
    let after_netnsid = |index: usize| index > 0 && words[index - 1] == "link-netnsid";
    let chosen = words.iter().enumerate().filter(|(index, _)| !after_netnsid(*index));
    chosen.map(|(_, word)| word.as_str()).collect::<Vec<_>>().join(" ")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
