//! What each edit changes in a `Spec`, and what it leaves alone.

use oci_spec::runtime::{Linux, LinuxIdMappingBuilder, LinuxResources, Process, User};

use super::super::resolve::Named;
use super::*;

fn spec() -> Spec {
    let mut user = User::default();
    user.set_uid(1000).set_gid(100).set_additional_gids(Some(vec![100]));
    let mut process = Process::default();
    process.set_env(Some(vec!["PATH=/bin".into(), "OLD=1".into()])).set_user(user);
    let mut linux = Linux::default();
    linux.set_resources(Some(LinuxResources::default())).set_devices(None);
    let mut spec = Spec::default();
    let at =
        |path: &str| to_oci(&WantedMount { container_path: path.into(), host_path: "/x".into(), ..Default::default() });
    spec.set_process(Some(process)).set_linux(Some(linux)).set_mounts(Some(vec![
        at("/dev"),
        at("/dev/pts"),
        at("/a/b/c"),
    ]));
    spec
}

fn injection(edits: Edits) -> Injection {
    Injection { edits: vec![Named { name: "v/c=x".into(), edits }] }
}

fn edited(edits: Edits) -> Spec {
    let mut spec = spec();
    apply(&injection(edits), &mut spec, Maker::Berth).unwrap();
    spec
}

fn node(permissions: &str) -> Node {
    Node {
        path: "/dev/x".into(),
        host_path: "/dev/y".into(),
        r#type: "c".into(),
        major: 7,
        minor: 8,
        permissions: permissions.into(),
        ..Node::default()
    }
}

#[test]
fn variables_replace_those_of_their_name() {
    let mut spec = spec();
    spec.set_annotations(Some([(format!("{RAW_ENV_ANNOTATION}OLD"), "/w==".to_owned())].into()));
    let edits = Edits { env: vec!["OLD=2".into(), "NEW=a=b".into()], ..Edits::default() };
    apply(&injection(edits), &mut spec, Maker::Berth).unwrap();
    assert_eq!(spec.process().as_ref().unwrap().env().as_ref().unwrap(), &["PATH=/bin", "OLD=2", "NEW=a=b"]);
    assert!(spec.annotations().as_ref().unwrap().is_empty(), "bytes that stood for the old value do not come back");
}

#[test]
fn groups_are_added_once_and_never_roots() {
    let spec = edited(Edits { additional_gids: vec![5, 0, 100, 5], ..Edits::default() });
    assert_eq!(spec.process().as_ref().unwrap().user().additional_gids().as_ref().unwrap(), &[100, 5]);
}

#[test]
fn a_node_comes_with_its_rule_and_the_users_ownership() {
    for (permissions, access) in [("", Some("rwm")), ("r", Some("r")), ("none", None)] {
        let spec = edited(Edits { device_nodes: vec![node(permissions), node(permissions)], ..Edits::default() });
        let linux = spec.linux().as_ref().unwrap();
        let [device] = linux.devices().as_ref().unwrap().as_slice() else { panic!("one node at one path") };
        assert_eq!((device.major(), device.minor(), device.uid(), device.gid()), (7, 8, Some(1000), Some(100)));
        let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap_or_default();
        assert_eq!(rules.first().and_then(|rule| rule.access().as_deref()), access);
    }
}

#[test]
fn in_a_user_namespace_a_node_is_a_mount() {
    let mut spec = spec();
    let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(5u32).size(9u32).build().unwrap();
    spec.linux_mut().as_mut().unwrap().set_uid_mappings(Some(vec![mapping]));
    let mount = WantedMount { host_path: "/h".into(), container_path: "/c".into(), ..Default::default() };
    let edits = Edits { device_nodes: vec![node("rw")], mounts: vec![mount], ..Edits::default() };
    apply(&injection(edits), &mut spec, Maker::Berth).unwrap();
    assert_eq!(spec.linux().as_ref().unwrap().devices(), &None);
    let mounts = spec.mounts().as_ref().unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount.destination().to_str() == Some(path)).unwrap();
    assert_eq!(at("/dev/x").source().as_ref().unwrap().to_str(), Some("/dev/y"));
    assert!(at("/dev/x").uid_mappings().is_none() && at("/c").uid_mappings().is_some());
}

#[test]
fn mounts_replace_others_and_come_after_their_parents() {
    let mount = |path: &str, options: &[&str]| WantedMount {
        host_path: "/h".into(),
        container_path: path.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Default::default()
    };
    let mounts = vec![mount("/a/b/c", &["ro"]), mount("/a", &["bind", "ro"])];
    let spec = edited(Edits { mounts, ..Edits::default() });
    let mounts = spec.mounts().as_ref().unwrap();
    let order: Vec<_> = mounts.iter().map(|mount| mount.destination().to_str().unwrap()).collect();
    assert_eq!(order, ["/dev", "/a", "/dev/pts", "/a/b/c"]);
    assert_eq!(mounts[3].options().as_ref().unwrap(), &["rbind", "ro"]);
    assert_eq!(mounts[1].options().as_ref().unwrap(), &["bind", "ro"]);
}

fn hook(kind: &str, path: &str) -> WantedHook {
    WantedHook { hook_name: kind.into(), path: path.into(), args: vec!["x".into()], env: Vec::new(), timeout: Some(5) }
}

#[test]
fn a_runtime_is_told_the_hooks() {
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let mut hooks: Vec<_> = kinds.map(|kind| hook(kind, &format!("/bin/{kind}"))).into();
    hooks.push(hook("poststop", "/bin/last"));
    let mut spec = spec();
    apply(&injection(Edits { hooks, ..Edits::default() }), &mut spec, Maker::OciRuntime).unwrap();
    let told = serde_json::to_value(spec.hooks().as_ref().unwrap()).unwrap();
    for kind in kinds {
        let first = serde_json::json!({"path": format!("/bin/{kind}"), "args": ["x"], "timeout": 5});
        assert_eq!(told[kind][0], first, "{told}");
    }
    assert_eq!(told["poststop"][1]["path"], "/bin/last", "in their order");
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let rdt = |rdt: IntelRdt| Edits { intel_rdt: Some(rdt), ..Edits::default() };
    let schema = IntelRdt { clos_id: "gold".into(), l3_cache_schema: "L3:0=f".into(), ..IntelRdt::default() };
    for (edits, told) in [
        (
            Edits { hooks: vec![hook("createContainer", "/bin/x")], ..Edits::default() },
            "createContainer hook \"/bin/x\"",
        ),
        (rdt(schema), "RDT"),
        (rdt(IntelRdt::default()), "RDT"),
    ] {
        let error = apply(&injection(edits), &mut spec(), Maker::Berth).unwrap_err().to_string();
        assert!(error.starts_with("CDI device v/c=x: ") && error.contains(told), "{error}");
    }
    let spec = edited(rdt(IntelRdt { clos_id: "gold".into(), ..IntelRdt::default() }));
    let rdt = spec.linux().as_ref().unwrap().intel_rdt().clone().unwrap();
    assert_eq!(rdt.clos_id().as_deref(), Some("gold"));
}
