//! What each verb tells whom, in which order, and what it keeps.

use std::fs;

use cni::client::{Attachment, Client, ClientError, Exec, Records};
use cni::conf::{Capabilities, NetworkList};
use cni::types::{Code, Version};
use serde_json::json;

use crate::support::{Node, attachment, list, soon};

const FIRST: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":0,"address":"10.1.0.2/24"}]}"#;
const SECOND: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.3/24"}],"dns":{"domain":"x"}}"#;

#[test]
fn each_plugin_of_an_add_gets_the_result_of_the_one_before() {
    let node = Node::new();
    node.noting("first", FIRST).noting("second", SECOND);
    let list = list("1.0.0", &["first", "second"]);
    let result = node.client.add(&list, &attachment("c1"), soon()).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.3/24");
    assert_eq!(result.dns.domain, "x");
    assert_eq!(
        node.log(),
        ["first ADD c1 /proc/self/ns/net eth0 A=1;B=2", "second ADD c1 /proc/self/ns/net eth0 A=1;B=2"]
    );
    assert_eq!(node.input("first.ADD"), json!({"type": "first", "name": "net", "cniVersion": "1.0.0"}));
    assert_eq!(node.input("second.ADD")["prevResult"]["ips"][0]["address"], "10.1.0.2/24");
    assert_eq!(node.records(), ["net-c1-eth0"]);
}

#[test]
fn a_record_is_what_libcni_writes() {
    let node = Node::new();
    node.noting("first", FIRST);
    let list = list("1.0.0", &["first"]);
    let capabilities = Capabilities { mac: Some("02:00:00:00:00:01".into()), ..Capabilities::default() };
    node.client.add(&list, &Attachment { capabilities, ..attachment("c1") }, soon()).unwrap();
    assert_eq!(
        node.input("lib/results/net-c1-eth0"),
        json!({
            "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net",
            "netns": "/proc/self/ns/net", "cniArgs": [["A", "1"], ["B", "2"]],
            "capabilityArgs": {"mac": "02:00:00:00:00:01"},
            "config": "eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3sidHlwZSI6ImZpcnN0In1dfQ==",
            "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/n"}],
                "ips": [{"interface": 0, "address": "10.1.0.2/24"}], "dns": {}},
        })
    );
}

#[test]
fn a_del_needs_no_list_and_no_namespace() {
    let node = Node::new();
    node.noting("first", FIRST).noting("second", SECOND);
    let list = list("1.0.0", &["first", "second"]);
    node.client.add(&list, &attachment("c1"), soon()).unwrap();
    fs::remove_file(node.path("log")).unwrap();
    let gone = Attachment { netns: None, args: "OTHER=1".parse().unwrap(), ..attachment("c1") };
    node.client.del(&list.name, None, &gone, soon()).unwrap();
    assert_eq!(node.log(), ["second DEL c1  eth0 A=1;B=2", "first DEL c1  eth0 A=1;B=2"], "last first, and as added");
    assert_eq!(node.input("first.DEL")["prevResult"]["dns"]["domain"], "x", "both get the last result");
    assert!(node.records().is_empty());
    node.client.del(&list.name, None, &gone, soon()).unwrap();
    assert_eq!(node.log().len(), 2, "nothing is known any more");
    node.client.del(&list.name, Some(&list), &gone, soon()).unwrap();
    assert_eq!(node.log().len(), 4, "with the list plugins are asked all the same");
    assert!(node.input("first.DEL").get("prevResult").is_none());
}

#[test]
fn a_failed_add_leaves_a_record_to_undo_it_by() {
    let node = Node::new();
    node.noting("first", FIRST);
    node.plugin(
        "second",
        r#"[ $CNI_COMMAND = DEL ] && exit 0; echo '{"code":11,"msg":"later","details":"why"}'; exit 1"#,
    );
    let list = list("1.0.0", &["first", "second"]);
    let error = node.client.add(&list, &attachment("c1"), soon()).unwrap_err();
    assert_eq!(error.code(), Some(Code::TRY_AGAIN));
    assert_eq!(error.to_string(), "CNI plugin second: ADD: later; why (code 11)");
    assert_eq!(node.records(), ["net-c1-eth0"]);
    node.client.del(&list.name, None, &attachment("c1"), soon()).unwrap();
    assert!(node.input("first.DEL").get("prevResult").is_none() && node.records().is_empty());
}

#[test]
fn a_failed_del_keeps_the_record() {
    let node = Node::new();
    node.noting("first", FIRST);
    let list = list("1.0.0", &["first"]);
    node.client.add(&list, &attachment("c1"), soon()).unwrap();
    node.plugin("first", "echo nonsense >&2; exit 3");
    let error = node.client.del(&list.name, None, &attachment("c1"), soon()).unwrap_err();
    assert_eq!(error.to_string(), "CNI plugin first: DEL: exit status: 3: nonsense");
    assert_eq!(node.records(), ["net-c1-eth0"]);
    node.noting("first", FIRST);
    node.client.del(&list.name, None, &attachment("c1"), soon()).unwrap();
    assert!(node.records().is_empty());
}

#[test]
fn a_check_compares_with_the_recorded_result() {
    let node = Node::new();
    node.noting("first", FIRST);
    let list = list("0.4.0", &["first"]);
    let unknown = node.client.check(&list, &attachment("c1"), soon());
    assert!(matches!(unknown, Err(ClientError::Unknown { .. })));
    node.client.add(&list, &attachment("c1"), soon()).unwrap();
    node.client.check(&list, &attachment("c1"), soon()).unwrap();
    let previous = &node.input("first.CHECK")["prevResult"];
    assert_eq!((&previous["cniVersion"], &previous["ips"][0]["version"]), (&json!("0.4.0"), &json!("4")));

    let disabled = NetworkList { disable_check: true, ..list.clone() };
    node.plugin("first", "exit 1");
    node.client.check(&disabled, &attachment("c1"), soon()).unwrap();
    assert!(node.client.check(&list, &attachment("c1"), soon()).is_err());
    let old = NetworkList { version: Version::V0_3_1, ..list };
    let unsupported = node.client.check(&old, &attachment("c1"), soon());
    assert!(matches!(unsupported, Err(ClientError::Unsupported { .. })));
}

#[test]
fn gc_takes_the_dead_out_and_names_the_living() {
    let node = Node::new();
    node.noting("first", FIRST);
    let list = list("1.1.0", &["first"]);
    for container in ["c1", "c2", "c3"] {
        node.client.add(&list, &attachment(container), soon()).unwrap();
    }
    fs::remove_file(node.path("log")).unwrap();
    let living = [("c2".parse().unwrap(), "eth0".parse().unwrap())];
    node.client.gc(&NetworkList { disable_gc: true, ..list.clone() }, &living, soon()).unwrap();
    assert!(node.log().is_empty());
    node.client.gc(&list, &living, soon()).unwrap();
    let expected = ["first DEL c1  eth0 A=1;B=2", "first DEL c3  eth0 A=1;B=2", "first GC"];
    assert_eq!(node.log(), expected);
    assert_eq!(node.records(), ["net-c2-eth0"]);
    let valid = json!([{"containerID": "c2", "ifname": "eth0"}]);
    assert_eq!(node.input("first.GC")["cni.dev/valid-attachments"], valid);

    // Before 1.1.0 plugins know no GC, but the dead are taken out.
    let old = NetworkList { version: Version::V1_0_0, ..list };
    node.client.gc(&old, &[], soon()).unwrap();
    assert_eq!(node.log().last().unwrap(), "first DEL c2  eth0 A=1;B=2");
}

#[test]
fn gc_goes_on_behind_a_failure() {
    let node = Node::new();
    node.noting("first", FIRST);
    let list = list("1.1.0", &["first"]);
    for container in ["c1", "c2"] {
        node.client.add(&list, &attachment(container), soon()).unwrap();
    }
    node.plugin(
        "first",
        r#"echo "$CNI_COMMAND $CNI_CONTAINERID" >>log; [ "$CNI_CONTAINERID" = c1 ] && exit 1; exit 0"#,
    );
    fs::remove_file(node.path("log")).unwrap();
    assert!(node.client.gc(&list, &[], soon()).is_err());
    assert_eq!(node.log(), ["DEL c1", "DEL c2", "GC"]);
    assert_eq!(node.records(), ["net-c1-eth0"]);
}

#[test]
fn a_status_is_asked_from_1_1_on() {
    let node = Node::new();
    node.plugin("first", r#"echo '{"code":50,"msg":"no daemon"}'; exit 1"#);
    node.client.status(&list("1.0.0", &["first"]), soon()).unwrap();
    let error = node.client.status(&list("1.1.0", &["first"]), soon()).unwrap_err();
    assert_eq!(error.code(), Some(Code::UNAVAILABLE));
    let missing = node.client.status(&list("1.1.0", &["none"]), soon()).unwrap_err();
    assert!(missing.to_string().starts_with("CNI plugin \"none\" is not in /"), "{missing}");
}

/// Debian's plugins: written by others, for another client.
#[test]
fn the_reference_plugins_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = vec!["/usr/lib/cni".into()];
    let client = Client::new(Exec::new(path.clone()), Records::new(folder.path()), path);
    let versions = client.versions("host-local", soon()).unwrap();
    assert!(versions.iter().any(|version| version == "1.0.0"), "{versions:?}");

    let container = Attachment { args: "IgnoreUnknown=1;K8S_POD_NAME=x".parse().unwrap(), ..attachment("c1") };
    for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
        let text = json!({"cniVersion": version, "name": "net", "plugins": [{"type": "host-local", "ipam": {
            "type": "host-local", "dataDir": folder.path(), "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]}}]});
        let list = NetworkList::parse(text.to_string().as_bytes()).unwrap();
        let result = client.add(&list, &container, soon()).unwrap();
        assert_eq!(result.ips.len(), 2, "{version}");
        assert_eq!(result.routes.len(), 1, "{version}");
        client.del(&list.name, None, &container, soon()).unwrap();
        assert!(client.records().attachments(&list.name).unwrap().is_empty());
    }
}
