//! Plugins that hang, flood, lie and leave children behind.

use std::fs;
use std::time::{Duration, Instant};

use cni::call::RunError;
use cni::client::ClientError;

use crate::support::{Node, attachment, list, soon};

fn run(node: &Node, deadline: Instant) -> Result<(), ClientError> {
    node.client.add(&list("1.0.0", &["bad"]), &attachment("c1"), deadline).map(drop)
}

fn alive(pid: &str) -> bool {
    // A process that nobody has reaped yet is dead all the same.
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn one_that_hangs_is_killed_with_its_children() {
    let node = Node::new();
    node.plugin("bad", "sleep 1000 & echo $! >child; echo waiting >&2; echo $$ >self; wait");
    let deadline = Instant::now() + Duration::from_secs(2);
    let error = run(&node, deadline).unwrap_err();
    assert!(matches!(&error, ClientError::Run(RunError::Deadline { said, .. }) if said == "waiting"), "{error}");
    for file in ["child", "self"] {
        let pid = fs::read_to_string(node.path(file)).unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while alive(&pid) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!alive(&pid), "{file} {pid} lives");
    }
}

#[test]
fn one_that_floods_is_killed() {
    let node = Node::new();
    node.plugin("bad", "exec yes");
    let error = run(&node, soon()).unwrap_err();
    assert!(matches!(error, ClientError::Run(RunError::TooMuchOutput { .. })), "{error}");
    // What goes to its error output is cut, and does not stop it.
    node.plugin("bad", r#"yes | head -c 3000000 >&2; echo end >&2; exit 1"#);
    let error = run(&node, soon()).unwrap_err().to_string();
    assert!(error.ends_with("y y end") && error.len() < 2000, "{error}");
}

#[test]
fn a_child_that_keeps_the_pipes_open_is_not_waited_for() {
    let node = Node::new();
    node.plugin("bad", r#"setsid sleep 25 & echo $! >child; echo '{"cniVersion":"1.0.0"}'"#);
    run(&node, soon()).unwrap();
    let child = fs::read_to_string(node.path("child")).unwrap();
    assert!(alive(&child), "it was still there");
    std::process::Command::new("kill").arg(child.trim()).status().unwrap();
}

#[test]
fn one_that_does_not_read_its_input_is_no_problem() {
    let node = Node::new();
    node.plugin("bad", r#"exec <&-; echo '{"cniVersion":"1.0.0"}'"#);
    let text = format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"bad","x":"{}"}}"#, "y".repeat(500_000));
    let list = cni::conf::NetworkList::parse(text.as_bytes()).unwrap();
    node.client.add(&list, &attachment("c1"), soon()).unwrap();
}

#[test]
fn answers_that_are_no_results_are_errors() {
    let node = Node::new();
    for (answer, said) in [
        ("", "its answer is no JSON"),
        ("[]", "result of version 1.0.0"),
        (r#"{"cniVersion":"7.0.0"}"#, "CNI version \"7.0.0\""),
        (r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/99"}]}"#, "result of version 1.0.0"),
        (r#"{"cniVersion":"1.0.0","ips":[{"interface":7,"address":"10.0.0.1/8"}]}"#, "is of interface 7"),
    ] {
        node.plugin("bad", &format!("echo '{answer}'"));
        let error = run(&node, soon()).unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains(said), "{answer}: {text}");
    }
}

#[test]
fn a_name_is_no_way_out_of_the_folder() {
    let node = Node::new();
    node.plugin("bad", "exit 0");
    let mut list = list("1.0.0", &["bad"]);
    for name in ["../bin/bad", "..", "", "/bin/true"] {
        list.plugins[0].kind = name.into();
        let error = node.client.add(&list, &attachment("c1"), soon()).unwrap_err();
        assert!(matches!(error, ClientError::Run(RunError::NotFound { .. })), "{name}: {error}");
    }
}
