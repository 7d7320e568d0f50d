//! Adjustments as edits of a spec; each that is refused, by its name.

use nri_api::v1alpha1 as api;
use oci_spec::runtime::Spec;

use super::*;
use crate::libcontainer::spec::tests::host;

fn spec() -> Spec {
    serde_json::from_value(serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {
            "cwd": "/", "args": ["true"], "env": ["A=1", "B=raw"], "user": {"uid": 7, "gid": 8},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        },
        "annotations": {"keep": "1", format!("{RAW_ENV_ANNOTATION}B"): "//8="},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/a/b", "source": "/x"}],
        "linux": {"namespaces": [{"type": "pid"}], "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    }))
    .unwrap()
}

fn adjusted(
    change: impl FnOnce(&mut ContainerAdjustment),
) -> Result<(Spec, Option<LinuxContainerResources>), AdjustError> {
    let (mut spec, mut asked) = (spec(), ContainerAdjustment::default());
    change(&mut asked);
    let limits = LinuxContainerResources { cpu_shares: 5, oom_score_adj: 3, ..Default::default() };
    let changed = adjust_spec(&mut spec, &asked, &PodSandboxConfig::default(), Some(&limits), &host())?;
    Ok((spec, changed))
}

fn linux(asked: &mut ContainerAdjustment) -> &mut LinuxContainerAdjustment {
    asked.linux.get_or_insert_default()
}

#[test]
fn an_empty_adjustment_changes_nothing() {
    let (adjusted, limits) = adjusted(|asked| linux(asked).resources = Some(Default::default())).unwrap();
    assert_eq!((adjusted, limits), (spec(), None));
}

#[test]
fn a_variable_that_was_bytes_is_the_plugins_text_then() {
    let pair = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    let (spec, _) = adjusted(|asked| asked.env = vec![pair("B", "text"), pair("-A", ""), pair("C", "3")]).unwrap();
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.env().as_deref(), Some(&["B=text".to_owned(), "C=3".to_owned()][..]));
    assert_eq!(spec.annotations().as_ref().unwrap().len(), 1, "its bytes are forgotten");
}

#[test]
fn mounts_replace_what_is_there_and_come_after_their_parents() {
    let mount = |destination: &str, source: &str| Mount {
        destination: destination.into(),
        source: source.into(),
        ..Default::default()
    };
    let (spec, _) =
        adjusted(|asked| asked.mounts = vec![mount("/a/b", "/y"), mount("/a", "/z"), mount("-/proc", "")]).unwrap();
    let told: Vec<_> = spec
        .mounts()
        .iter()
        .flatten()
        .map(|one| {
            let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
            (text(one.destination()), text(one.source().as_deref().unwrap()), one.options().clone().unwrap())
        })
        .collect();
    let bind = vec!["rbind".to_owned()];
    assert_eq!(told, [("/a".into(), "/z".into(), bind.clone()), ("/a/b".into(), "/y".into(), bind)]);
}

#[test]
fn a_device_belongs_to_the_user_and_may_be_used() {
    let device = |mode| LinuxDevice {
        path: "/dev/x".into(),
        r#type: "c".into(),
        major: 1,
        minor: 3,
        file_mode: mode,
        ..Default::default()
    };
    for (mode, access) in [(None, "rwm"), (Some(0o440), "rm"), (Some(0o222), "wm")] {
        let mode = mode.map(|value| api::OptionalFileMode { value });
        let (spec, _) = adjusted(|asked| linux(asked).devices = vec![device(mode)]).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let made = &linux.devices().as_ref().unwrap()[0];
        assert_eq!((made.uid(), made.gid()), (Some(7), Some(8)));
        let rules = linux.resources().as_ref().unwrap().devices().clone().unwrap();
        assert_eq!((rules.len(), rules[1].access().as_deref()), (2, Some(access)));
    }
}

#[test]
fn limits_are_merged_with_the_requests_and_told() {
    let (spec, limits) = adjusted(|asked| {
        let linux = linux(asked);
        linux.oom_score_adj = Some(api::OptionalInt { value: 0 });
        let limit = Some(api::OptionalInt64 { value: 1 << 20 });
        let reservation = Some(api::OptionalInt64 { value: 9 });
        linux.resources = Some(api::LinuxResources {
            memory: Some(api::LinuxMemory { limit, reservation, ..Default::default() }),
            ..Default::default()
        });
    })
    .unwrap();
    let limits = limits.unwrap();
    assert_eq!((limits.cpu_shares, limits.memory_limit_in_bytes, limits.oom_score_adj), (5, 1 << 20, 0));
    let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
    let memory = resources.memory().unwrap();
    assert_eq!(
        (memory.limit(), memory.reservation(), resources.cpu().as_ref().unwrap().shares()),
        (Some(1 << 20), Some(9), Some(5))
    );
    assert!(resources.devices().is_some(), "the rules on devices stay");
}

#[test]
fn rlimits_replace_those_of_their_kind() {
    let limit = |kind: &str, soft| PosixRlimit { r#type: kind.into(), soft, hard: 9 };
    let (spec, _) = adjusted(|asked| asked.rlimits = vec![limit("RLIMIT_NOFILE", 5), limit("RLIMIT_CORE", 0)]).unwrap();
    let list = spec.process().as_ref().unwrap().rlimits().clone().unwrap();
    assert_eq!(
        list.iter().map(|one| (one.typ().to_string(), one.soft())).collect::<Vec<_>>(),
        [("RLIMIT_NOFILE".into(), 5), ("RLIMIT_CORE".into(), 0)]
    );
    assert!(adjusted(|asked| asked.rlimits = vec![limit("RLIMIT_CORE", 10)]).is_err(), "soft above hard");
}

#[test]
fn words_that_mean_nothing_are_refused() {
    type Change = fn(&mut ContainerAdjustment);
    let cases: [(&str, Change); 5] = [
        ("linux.scheduler", |asked| {
            linux(asked).scheduler = Some(api::LinuxScheduler { policy: 99, ..Default::default() })
        }),
        ("linux.io_priority", |asked| linux(asked).io_priority = Some(api::LinuxIoPriority { class: 9, priority: 0 })),
        ("linux.devices", |asked| {
            linux(asked).devices = vec![LinuxDevice { path: "/dev/x".into(), r#type: "z".into(), ..Default::default() }]
        }),
        ("linux.oom_score_adj", |asked| linux(asked).oom_score_adj = Some(api::OptionalInt { value: 1 << 40 })),
        ("linux.resources.devices", |asked| {
            let rule = api::LinuxDeviceCgroup { access: "rx".into(), ..Default::default() };
            linux(asked).resources = Some(api::LinuxResources { devices: vec![rule], ..Default::default() });
        }),
    ];
    for (field, change) in cases {
        let error = adjusted(change).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn a_scheduler_is_what_the_kernel_takes() {
    let asked = api::LinuxScheduler {
        policy: api::LinuxSchedulerPolicy::SchedBatch.into(),
        nice: 5,
        flags: vec![api::LinuxSchedulerFlag::SchedFlagResetOnFork.into()],
        ..Default::default()
    };
    let (spec, _) = adjusted(|adjust| linux(adjust).scheduler = Some(asked)).unwrap();
    let scheduler = spec.process().as_ref().unwrap().scheduler().clone().unwrap();
    assert_eq!((scheduler.nice(), scheduler.policy()), (&Some(5), &oci::LinuxSchedulerPolicy::SchedBatch));
    assert_eq!(scheduler.flags().as_ref().map(Vec::len), Some(1));
}
