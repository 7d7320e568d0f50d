//! Exec, run, terminals and descriptors.

use std::fs;
use std::io::{IoSliceMut, Read};
use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use super::{Bundle, wait_for};

#[test]
fn exec_has_its_own_output_and_exit_code_in_the_containers_world() {
    let mut bundle = Bundle::new("exec");
    bundle.config["hostname"] = json!("inside");
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    bundle.create_and_start();
    let script = "hostname; pwd; id -u; echo $A; cat /proc/self/oom_score_adj; test -d /proc/1; exit 7";
    let output =
        bundle.berth(&["exec", "--cwd", "/tmp", "--user", "5", "--env", "A=b", &bundle.id, "sh", "-c", script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "inside\n/tmp\n5\nb\n321\n");
    assert_eq!(output.status.code(), Some(7));
    let error = bundle.refused(&["exec", &bundle.id, "/no/such"]);
    assert!(error.contains("/no/such"), "{error}");
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        let theirs = fs::read_link(format!("/proc/{}/ns/{kind}", bundle.pid())).expect("a namespace");
        let own = bundle.ok(&["exec", &bundle.id, "readlink", &format!("/proc/self/ns/{kind}")]);
        assert_eq!(own.trim_end(), theirs.to_str().expect("UTF-8"), "{kind}");
    }
    let killed = bundle.berth(&["exec", &bundle.id, "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped();
    assert!(bundle.refused(&["exec", &bundle.id, "true"]).contains("not running"));
}

#[test]
fn an_exec_of_a_file_can_be_left_alone() {
    let bundle = Bundle::new("exec-detached");
    bundle.create_and_start();
    let (process, pid_file) = (bundle.dir.join("process.json"), bundle.dir.join("pid"));
    let text = json!({"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 3, "gid": 4}, "env": ["PATH=/bin"]});
    fs::write(&process, text.to_string()).expect("a file");
    let (process, pid_file) = (process.display().to_string(), pid_file.display().to_string());
    let status =
        bundle.command(&["exec", "--detach", "--process", &process, "--pid-file", &pid_file, &bundle.id]).status();
    assert!(status.expect("berth").success());
    let pid: i32 = fs::read_to_string(pid_file).expect("a file").parse().expect("a pid");
    super::reap(pid);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    assert!(status.contains("Uid:\t3\t3\t3\t3") && status.contains("CapEff:\t0000000000000000"), "{status}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn run_waits_hands_signals_on_and_deletes() {
    let bundle = Bundle::new("run").program(&["sh", "-c", "echo hi; exit 3"]);
    bundle.write_config();
    let output = bundle.berth(&["run", "--bundle", bundle.path(), &bundle.id]);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (b"hi\n".as_slice(), Some(3)), "{output:?}");
    bundle.assert_nothing_left();

    let bundle = bundle.program(&["sh", "-c", "trap 'exit 4' TERM; touch /ready; while true; do sleep 1; done"]);
    bundle.write_config();
    let mut child = bundle.command(&["run", "--bundle", bundle.path(), &bundle.id]).spawn().expect("berth");
    wait_for(|| super::exists(&bundle.file("ready")));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
    assert_eq!(child.wait().expect("an end").code(), Some(4));
    bundle.assert_nothing_left();
}

/// What is sent to a console socket.
fn receive(listener: &UnixListener) -> fs::File {
    let (socket, _) = listener.accept().expect("a connection");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 64];
    let message = recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty());
    assert!(message.expect("a message").bytes > 0);
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else { panic!("no descriptor came") };
    fs::File::from(fds.next().expect("one"))
}

fn read_until(terminal: &mut fs::File, word: &str) {
    let mut text = String::new();
    while !text.contains(word) {
        let mut buffer = [0u8; 256];
        let len = terminal.read(&mut buffer).expect("the terminal");
        text.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
}

#[test]
fn terminals_go_to_the_console_socket() {
    let mut bundle =
        Bundle::new("terminal").program(&["sh", "-c", "tty; cat /proc/self/stat > /dev/null; exec sleep 1000"]);
    bundle.config["process"]["terminal"] = json!(true);
    assert!(bundle.try_create(&[]).expect_err("where to?").contains("--console-socket"));
    bundle.assert_nothing_left();
    let path = bundle.dir.join("console.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let path = path.display().to_string();
    bundle.try_create(&["--console-socket", &path]).expect("create");
    let mut terminal = receive(&listener);
    bundle.ok(&["start", &bundle.id]);
    read_until(&mut terminal, "/dev/pts/0");
    let pid_file = bundle.dir.join("pid").display().to_string();
    let program = ["sh", "-c", "tty; exec sleep 1000"];
    let handles = ["--console-socket", &path, "--pid-file", &pid_file];
    let args = [["exec", "--tty", "--detach"].as_slice(), &handles, &[&bundle.id], &program].concat();
    assert!(bundle.command(&args).status().expect("berth").success());
    super::reap(fs::read_to_string(pid_file).expect("a file").parse().expect("a pid"));
    read_until(&mut receive(&listener), "/dev/pts/1");
}

#[test]
fn descriptors_are_preserved_when_asked_for_and_no_others() {
    let bundle = Bundle::new("fds").program(&["sh", "-c", "cat <&3; ls /proc/self/fd"]);
    bundle.write_config();
    fs::write(bundle.dir.join("three"), "three\n").expect("a file");
    let run = |preserve: &str| {
        let inner = bundle.command(&["run", "--preserve-fds", preserve, "--bundle", bundle.path(), &bundle.id]);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec 3< "$0"; exec "$@""#]).arg(bundle.dir.join("three"));
        shell.arg(inner.get_program()).args(inner.get_args()).output().expect("a shell")
    };
    let with = run("1");
    assert!(String::from_utf8_lossy(&with.stdout).starts_with("three\n0\n1\n2\n3\n"), "{with:?}");
    assert!(!run("0").stdout.starts_with(b"three"));
}

#[test]
fn features_and_version_are_told() {
    let bundle = Bundle::new("features");
    let features: serde_json::Value = serde_json::from_str(&bundle.ok(&["features"])).expect("JSON");
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert!(bundle.ok(&["--version"]).contains("spec: 1."));
}
