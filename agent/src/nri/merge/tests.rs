//! What holds for any plugins, and the cases that are easily got wrong.

use std::collections::BTreeMap;

use nri_api::v1alpha1::{
    Container, ContainerAdjustment, ContainerUpdate, CreateContainerResponse, KeyValue, LinuxContainerAdjustment,
    LinuxContainerUpdate, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, Mount, OptionalInt64, OptionalUInt64,
    PodSandbox,
};
use proptest::prelude::*;

use super::{Creation, MergeError, Updates};

const ID: &str = "c0";

fn creation() -> Creation {
    let mount =
        |destination: &str| Mount { destination: destination.into(), source: "/own".into(), ..Default::default() };
    let container = Container {
        id: ID.into(),
        env: vec!["PATH=/bin".into(), "WHO=image".into()],
        mounts: vec![mount("/data"), mount("/etc")],
        annotations: BTreeMap::from([("a".to_owned(), "request".to_owned())]),
        args: vec!["true".into()],
        ..Container::default()
    };
    Creation::new(PodSandbox::default(), container)
}

fn adjust(change: impl FnOnce(&mut ContainerAdjustment)) -> CreateContainerResponse {
    let mut adjust = ContainerAdjustment::default();
    change(&mut adjust);
    CreateContainerResponse { adjust: Some(adjust), ..Default::default() }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn env(pairs: &[(&str, &str)]) -> CreateContainerResponse {
    adjust(|adjust| adjust.env = pairs.iter().map(|(key, value)| pair(key, value)).collect())
}

fn shown(creation: &Creation) -> Container {
    creation.request().container.unwrap()
}

fn shares(value: u64) -> LinuxResources {
    let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value }), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

fn memory(value: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value }), ..LinuxMemory::default() };
    LinuxResources { memory: Some(memory), ..LinuxResources::default() }
}

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let linux = Some(LinuxContainerUpdate { resources: Some(resources) });
    ContainerUpdate { container_id: id.into(), linux, ignore_failure }
}

#[test]
fn the_next_plugin_sees_what_the_one_before_has_made() {
    let mut creation = creation();
    creation.apply("10-a", env(&[("WHO", "a"), ("NEW", "1"), ("-PATH", "")])).unwrap();
    assert_eq!(shown(&creation).env, ["WHO=a", "NEW=1"]);
    let (container, adjustment, _) = creation.finish();
    assert_eq!(adjustment.env, [pair("-PATH", ""), pair("WHO", "a"), pair("NEW", "1")]);
    assert_eq!(container.env, ["WHO=a", "NEW=1"]);
}

#[test]
fn two_plugins_that_set_the_same_thing_are_told_by_name() {
    let mut creation = creation();
    creation.apply("10-a", env(&[("WHO", "a")])).unwrap();
    let error = creation.apply("20-b", env(&[("WHO", "b")])).unwrap_err();
    let told = error.to_string();
    for word in ["10-a", "20-b", "Env \"WHO\"", ID] {
        assert!(told.contains(word), "{told}");
    }
    assert!(matches!(error, MergeError::Conflict { .. }));
}

#[test]
fn what_is_taken_away_first_may_be_set_anew() {
    let mut creation = creation();
    creation.apply("10-a", env(&[("WHO", "a")])).unwrap();
    creation.apply("20-b", env(&[("-WHO", ""), ("WHO", "b")])).unwrap();
    assert_eq!(shown(&creation).env, ["PATH=/bin", "WHO=b"]);
    creation.apply("30-c", env(&[("WHO", "c")])).unwrap_err();
    creation.apply("40-d", env(&[("-WHO", "")])).unwrap();
    let (_, adjustment, _) = creation.finish();
    assert_eq!(adjustment.env, [pair("-WHO", "")]);
}

#[test]
fn mounts_are_by_destination_and_annotations_by_key() {
    let mut creation = creation();
    let mount =
        |destination: &str| Mount { destination: destination.into(), source: "/a".into(), ..Default::default() };
    let asked = adjust(|adjust| {
        adjust.mounts = vec![mount("-/etc"), mount("/data"), mount("/new")];
        adjust.annotations = BTreeMap::from([("-a".into(), String::new()), ("b".into(), "2".into())]);
    });
    creation.apply("10-a", asked).unwrap();
    let seen = shown(&creation);
    let at: Vec<_> = seen.mounts.iter().map(|one| (one.destination.as_str(), one.source.as_str())).collect();
    assert_eq!(at, [("/data", "/a"), ("/new", "/a")]);
    assert_eq!(seen.annotations, BTreeMap::from([("b".to_owned(), "2".to_owned())]));
    let (_, adjustment, _) = creation.finish();
    assert!(adjustment.annotations.contains_key("-a") && adjustment.annotations.contains_key("b"));
}

#[test]
fn arguments_have_one_owner_unless_an_empty_word_comes_first() {
    let args = |words: &[&str]| adjust(|adjust| adjust.args = words.iter().map(|&word| word.to_owned()).collect());
    let mut creation = creation();
    creation.apply("10-a", args(&["sleep", "1"])).unwrap();
    creation.apply("20-b", args(&["sleep", "2"])).unwrap_err();
    creation.apply("30-c", args(&["", "sleep", "3"])).unwrap();
    assert_eq!(shown(&creation).args, ["sleep", "3"]);
}

#[test]
fn different_limits_of_one_container_may_have_different_owners() {
    let limits = |resources| {
        adjust(|adjust| {
            adjust.linux = Some(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() })
        })
    };
    let mut creation = creation();
    creation.apply("10-a", limits(shares(5))).unwrap();
    creation.apply("20-b", limits(memory(7))).unwrap();
    creation.apply("30-c", limits(shares(6))).unwrap_err();
    let pids = LinuxResources { pids: Some(LinuxPids { limit: 9 }), ..Default::default() };
    creation.apply("40-d", limits(pids)).unwrap();
    let validation = creation.validation();
    let owners = &validation.owners.unwrap().owners[ID];
    let mut names: Vec<_> = owners.simple.values().cloned().collect();
    names.sort();
    assert_eq!(names, ["10-a", "20-b", "40-d"]);
    let (_, adjustment, _) = creation.finish();
    let got = adjustment.linux.unwrap().resources.unwrap();
    assert_eq!((got.cpu, got.memory, got.pids), (shares(5).cpu, memory(7).memory, Some(LinuxPids { limit: 9 })));
}

#[test]
fn a_container_that_is_being_made_is_not_updated() {
    let reply = CreateContainerResponse { update: vec![update(ID, shares(5), true)], ..Default::default() };
    assert!(matches!(creation().apply("10-a", reply), Err(MergeError::Premature { .. })));
}

#[test]
fn updates_that_may_fail_change_nothing_when_they_do() {
    let mut updates = Updates::default();
    updates.apply("10-a", vec![update("x", shares(5), true)]).unwrap();
    let both = LinuxResources { memory: memory(7).memory, ..shares(6) };
    updates.apply("20-b", vec![update("x", both.clone(), true), update("y", memory(8), true)]).unwrap();
    updates.clone().apply("20-b", vec![update("x", both, false)]).unwrap_err();
    let list = updates.others();
    assert_eq!(list.len(), 2);
    assert_eq!(
        list[0].linux.as_ref().unwrap().resources.as_ref().unwrap().memory,
        None,
        "b's memory went with its shares"
    );
    assert!(list.iter().all(|one| one.ignore_failure));
}

#[test]
fn a_resize_is_what_the_client_asks_for_as_plugins_change_it() {
    let mut updates = Updates::of_resize("x", LinuxResources { memory: memory(7).memory, ..shares(5) });
    updates.apply("10-a", vec![update("x", shares(6), false), update("y", shares(7), false)]).unwrap();
    assert_eq!(updates.resized(), Some(&LinuxResources { memory: memory(7).memory, ..shares(6) }));
    updates.apply("20-b", vec![update("x", shares(8), false)]).unwrap_err();
    let others = updates.others();
    assert_eq!((others.len(), others[0].container_id.as_str()), (1, "y"));
}

/// What plugins do to one variable.
fn wishes() -> impl Strategy<Value = Vec<(u8, String)>> {
    prop::collection::vec((0u8..3, prop::sample::select(vec!["A", "B", "-A", "-B"]).prop_map(str::to_owned)), 0..8)
}

proptest! {
    /// Applied to the original, the adjustment gives what the last plugin saw.
    #[test]
    fn the_adjustment_makes_what_was_shown(wishes in wishes()) {
        let mut creation = creation();
        for (plugin, key) in wishes {
            let before = creation.clone();
            let reply = env(&[(key.as_str(), &format!("v{plugin}"))]);
            if creation.apply(&format!("1{plugin}-p"), reply).is_err() {
                creation = before;
            }
        }
        let (container, adjustment, _) = creation.finish();
        let mut made: BTreeMap<String, String> =
            [("PATH".to_owned(), "/bin".to_owned()), ("WHO".to_owned(), "image".to_owned())].into();
        for pair in adjustment.env {
            match nri_api::removed(&pair.key) {
                Some(key) => drop(made.remove(key)),
                None => drop(made.insert(pair.key, pair.value)),
            }
        }
        let shown: BTreeMap<String, String> = container.env.iter()
            .map(|pair| pair.split_once('=').unwrap()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(made, shown);
    }

    /// Nobody gets what another has, in whatever order they come.
    #[test]
    fn whoever_set_it_first_owns_it(first in 0u8..5, second in 0u8..5) {
        let mut creation = creation();
        creation.apply(&format!("0{first}-p"), env(&[("X", "1")])).unwrap();
        let again = creation.apply(&format!("0{second}-p"), env(&[("X", "2")]));
        prop_assert_eq!(again.is_ok(), first == second);
    }
}
