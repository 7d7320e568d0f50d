//! Hooks: their order, what they are told, and what comes of one that fails.

use std::fs;

use serde_json::{Value, json};

use super::Bundle;

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook of each kind that appends its kind and what it is told to a file. What runs in the container has another path to it.
fn with_hooks(name: &str, failing: &str) -> Bundle {
    let mut bundle = Bundle::new(name);
    let log = bundle.file("log");
    fs::write(&log, "").expect("a log");
    for kind in KINDS {
        let log = if kind == "startContainer" { "/log".into() } else { log.clone() };
        let code = u8::from(kind == failing);
        let script = format!(
            "{{ echo \"{kind} $A\"; cat; echo; readlink /proc/self/ns/mnt; }} >> {}; exit {code}",
            log.display()
        );
        bundle.config["hooks"][kind] = json!([
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["A=1", "PATH=/bin:/usr/bin"], "timeout": 20},
            {"path": "/bin/sh", "args": ["sh", "-c", format!("echo second {kind} >> {}", log.display())]},
        ]);
    }
    bundle
}

/// Each hook that ran: its kind, its state, its mount namespace; `second` ones by their line.
fn told(bundle: &Bundle) -> Vec<String> {
    fs::read_to_string(bundle.file("log")).expect("a log").lines().map(str::to_owned).collect()
}

fn kinds(bundle: &Bundle) -> Vec<String> {
    let words =
        |line: &String| KINDS.iter().any(|kind| line == &format!("{kind} 1") || line == &format!("second {kind}"));
    told(bundle).into_iter().filter(words).map(|line| line.replace(" 1", "")).collect()
}

fn both(kinds: &[&str]) -> Vec<String> {
    kinds.iter().flat_map(|kind| [(*kind).to_owned(), format!("second {kind}")]).collect()
}

#[test]
fn hooks_run_in_their_order_and_place_and_are_told_the_state() {
    let bundle = with_hooks("hooks", "");
    bundle.create();
    assert_eq!(kinds(&bundle), both(&KINDS[..3]));
    let pid = bundle.pid();
    let inside = fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace").display().to_string();
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped();
    bundle.ok(&["delete", &bundle.id]);
    assert_eq!(kinds(&bundle), both(&KINDS));

    let lines = told(&bundle);
    let outside = fs::read_link("/proc/self/ns/mnt").expect("a namespace").display().to_string();
    let expected = ["creating", "creating", "creating", "created", "running", "stopped"];
    for (kind, status) in KINDS.into_iter().zip(expected) {
        let at = lines.iter().position(|line| *line == format!("{kind} 1")).expect(kind);
        let state: Value = serde_json::from_str(&lines[at + 1]).expect("a state");
        assert_eq!(
            (state["status"].as_str(), state["id"].as_str()),
            (Some(status), Some(bundle.id.as_str())),
            "{kind}"
        );
        let told_pid = if kind == "poststop" { 0 } else { pid };
        assert_eq!((&state["pid"], &state["bundle"]), (&json!(told_pid), &json!(bundle.dir)), "{kind}");
        let in_container = matches!(kind, "createContainer" | "startContainer");
        assert_eq!(lines[at + 2], if in_container { &*inside } else { &*outside }, "{kind}");
    }
}

#[test]
fn a_hook_that_fails_before_the_program_ends_the_container() {
    for kind in &KINDS[..3] {
        let bundle = with_hooks("hook-fails", kind);
        let error = bundle.try_create(&[]).expect_err(kind);
        assert!(error.contains("hook failed (exit status: 1"), "{kind}: {error}");
        bundle.assert_nothing_left();
        let ran = kinds(&bundle);
        assert!(ran.contains(&"poststop".to_owned()), "{kind}: {ran:?}");
        assert!(!ran.contains(&format!("second {kind}")), "{kind}: {ran:?}");
    }
    let bundle = with_hooks("start-hook-fails", "startContainer");
    bundle.create();
    assert!(bundle.refused(&["start", &bundle.id]).contains("hook failed"));
    bundle.wait_stopped();
    assert!(!kinds(&bundle).contains(&"poststart".to_owned()));
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_hook_that_fails_afterwards_is_a_warning() {
    let bundle = with_hooks("late-hook-fails", "poststart");
    bundle.create();
    let output = bundle.berth(&["start", &bundle.id]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: poststart"), "{output:?}");
    assert!(kinds(&bundle).contains(&"second poststart".to_owned()), "the next goes on");
    assert_eq!(bundle.status(), "running");
}

#[test]
fn what_runs_a_container_is_no_file_of_the_host() {
    let mut bundle = Bundle::new("sealed");
    let script = format!("readlink /proc/$PPID/exe > {}", bundle.file("exe").display());
    bundle.config["hooks"]["createRuntime"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]);
    bundle.create();
    let exe = fs::read_to_string(bundle.file("exe")).expect("a link");
    assert!(exe.starts_with("/memfd:berth-oci"), "CVE-2019-5736: {exe}");
}
