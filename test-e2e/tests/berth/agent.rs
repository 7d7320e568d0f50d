//! The agent as a program: what it refuses, how it ends.

use std::process::{Command, Output};

use nix::sys::signal::Signal;
use test_e2e::fixture::Fixture;
use test_e2e::host;
use test_e2e::process;

fn berth(arguments: &[&str]) -> Output {
    let binary =
        std::env::var_os("BERTH_BIN").map_or_else(|| host::sibling_binary("berth").expect("built"), Into::into);
    Command::new(binary).args(arguments).output().expect("berth runs")
}

#[tokio::test]
async fn a_second_agent_on_the_same_state_is_refused() {
    let e2e = Fixture::own("second").await;
    let config = e2e.machine.folder.join("berth.yaml").display().to_string();
    let binary = e2e.agent().binary().display().to_string();
    let output = e2e.inside(|| Command::new(binary).args(["serve", "--config", &config]).output()).expect("runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.trim().is_empty(), "it says why");
    e2e.client.version().await.expect("the first one is unharmed");
}

#[tokio::test]
async fn a_spawner_that_dies_is_started_again() {
    let e2e = Fixture::own("spawner").await;
    let (_pod, container) = e2e.run("before", &["sleep", "1000"]).await;
    // The agent's children are its spawner and nothing else.
    let children = process::all().into_iter().filter(|child| child.parent == e2e.agent().pid);
    let spawner = children.map(|child| child.pid).next().expect("a spawner");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(spawner), Signal::SIGKILL).expect("kill");
    while process::is_alive(spawner) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(container.exec(&["true"]).await.code, 0, "a running pod does not notice");
    let (_pod, after) = e2e.run("after", &["sleep", "1000"]).await;
    assert_eq!(after.exec(&["true"]).await.code, 0, "and a new one can be run");
}

#[tokio::test]
async fn a_terminated_agent_leaves_its_pods_running() {
    let mut e2e = Fixture::own("term").await;
    let (_pod, container) = e2e.run("term", &["sleep", "1000"]).await;
    let (id, pid) = (container.id.clone(), container.pid());
    e2e.agent().signal(Signal::SIGTERM);
    assert!(e2e.agent().wait_gone(), "it ends");
    assert!(process::is_alive(pid));
    let machine = e2e.machine.clone();
    e2e.agent().launch(&machine.host).expect("starts again");
    e2e.reconnect().await;
    let exec = e2e.client.exec(&id, &["true"], 10).await.expect("exec");
    assert_eq!(exec.exit_code, 0);
}

#[test]
fn a_misspelt_key_is_an_error_with_file_and_line() {
    let path = std::env::temp_dir().join(format!("berth-e2e-config-{}.yaml", std::process::id()));
    std::fs::write(&path, "root: /var/lib/berth\nrun_rot: /run/berth\n").expect("file");
    let output = berth(&["config", "check", path.to_str().expect("text")]);
    std::fs::remove_file(&path).expect("clean up");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("run_rot") && said.contains(path.to_str().expect("text")), "{said}");
    assert!(said.contains(":2") || said.contains("line 2"), "{said}");
}

#[test]
fn the_default_configuration_is_accepted() {
    let output = berth(&["config", "default"]);
    assert!(output.status.success(), "{output:?}");
    let path = std::env::temp_dir().join(format!("berth-e2e-default-{}.yaml", std::process::id()));
    std::fs::write(&path, &output.stdout).expect("file");
    let checked = berth(&["config", "check", path.to_str().expect("text")]);
    std::fs::remove_file(&path).expect("clean up");
    assert!(checked.status.success(), "{checked:?}");
}
