//! From create to delete (OCI runtime-spec, lifecycle).

use std::fs;

use serde_json::{Value, json};

use super::{Bundle, exists, wait_for};

#[test]
fn a_container_lives_through_its_states_and_leaves_nothing() {
    let bundle = Bundle::new("life").program(&["sh", "-c", "touch /ran; exec sleep 1000"]);
    assert!(bundle.refused(&["state", &bundle.id]).contains("does not exist"));
    bundle.create();
    let state = bundle.state();
    assert_eq!((state["status"].as_str(), state["id"].as_str()), (Some("created"), Some(bundle.id.as_str())));
    assert_eq!(state["bundle"], json!(bundle.dir));
    assert!(!exists(&bundle.file("ran")), "the program waits for `start`");
    assert!(bundle.try_create(&[]).expect_err("a second").contains("exists already"));
    assert!(bundle.refused(&["delete", &bundle.id]).contains("created"));

    bundle.ok(&["start", &bundle.id]);
    wait_for(|| exists(&bundle.file("ran")));
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.pid(), i32::try_from(state["pid"].as_i64().expect("a pid")).expect("a pid"));
    assert!(bundle.refused(&["start", &bundle.id]).contains("running"));
    assert!(bundle.refused(&["delete", &bundle.id]).contains("running"));
    let listed: Value = serde_json::from_str(&bundle.ok(&["list", "--format", "json"])).expect("JSON");
    assert_eq!(listed[0]["status"], "running");

    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped();
    assert!(bundle.refused(&["kill", &bundle.id, "KILL"]).contains("not running"));
    assert!(bundle.refused(&["start", &bundle.id]).contains("stopped"));
    assert_eq!(bundle.state()["pid"], 0);
    bundle.ok(&["delete", &bundle.id]);
    assert!(bundle.refused(&["delete", &bundle.id]).contains("does not exist"));
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn what_waits_for_start_can_be_ended_by_a_signal() {
    let bundle = Bundle::new("term");
    bundle.create();
    // It is pid 1 of its namespace, whom the kernel spares.
    bundle.ok(&["kill", &bundle.id, "TERM"]);
    bundle.wait_stopped();
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_by_start() {
    let bundle = Bundle::new("no-program").program(&["/no/such/program"]);
    bundle.create();
    let error = bundle.refused(&["start", &bundle.id]);
    assert!(error.contains("/no/such/program") && error.contains("No such file"), "{error}");
    bundle.wait_stopped();
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let cases: [(&str, Value, &str); 9] = [
        ("/mounts/0", json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}), "/no/such"),
        ("/mounts/0", json!({"destination": "/x", "type": "no-such-fs", "source": "x"}), "no-such-fs"),
        ("/mounts/0", json!({"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]}), "tmpcopyup"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/linux/maskedPaths/0", json!("relative"), "linux.maskedPaths"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY"),
        ("/linux/sysctl", json!({"kernel.core_pattern": "|/x"}), "kernel.core_pattern"),
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("/linux/resources", json!({"memory": {"limit": 1}, "unified": {"no.such.file": "1"}}), "no.such.file"),
    ];
    for (place, value, word) in cases {
        let mut bundle = Bundle::new("fails");
        let (parent, name) = place.rsplit_once('/').expect("a place");
        let parent = bundle.config.pointer_mut(parent).expect("its parent");
        match parent {
            Value::Array(list) => list.insert(0, value),
            other => other[name] = value,
        }
        let error = bundle.try_create(&[]).expect_err(place);
        assert!(error.contains(word), "{place}: {error}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_creation_that_is_killed_can_be_deleted() {
    let mut bundle = Bundle::new("killed");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID"]}]});
    bundle.try_create(&[]).expect_err("it was killed");
    wait_for(|| bundle.status() == "stopped");
    assert!(!bundle.cgroups().is_empty());
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn later_changes_of_the_bundle_mean_nothing() {
    let mut bundle = Bundle::new("changes").program(&["touch", "/first"]);
    bundle.create();
    bundle.config["process"]["args"] = json!(["touch", "/second"]);
    bundle.write_config();
    bundle.ok(&["start", &bundle.id]);
    bundle.wait_stopped();
    assert!(exists(&bundle.file("first")) && !exists(&bundle.file("second")));
}

#[test]
fn processes_are_paused_counted_and_limited() {
    let bundle = Bundle::new("steer").program(&["sh", "-c", "sleep 1000 & wait"]);
    bundle.create_and_start();
    let listed =
        || -> Vec<i64> { serde_json::from_str(&bundle.ok(&["ps", "--format", "json", &bundle.id])).expect("JSON") };
    wait_for(|| listed().len() == 2);
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.refused(&["pause", &bundle.id]).contains("paused"));
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    let limits = bundle.dir.join("limits.json");
    fs::write(&limits, r#"{"pids": {"limit": 77}}"#).expect("limits");
    bundle.ok(&["update", "--resources", limits.to_str().expect("UTF-8"), &bundle.id]);
    let files = bundle.cgroups().into_iter().map(|folder| folder.join("pids.max"));
    let values: Vec<String> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    assert_eq!(values, ["77\n"]);
    bundle.ok(&["kill", "--all", &bundle.id, "KILL"]);
    bundle.wait_stopped();
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}
