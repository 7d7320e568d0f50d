//! ExecSync (rules.md, rule 4): exact output, exit codes, the time limit and what dies with it.

use std::time::{Duration, Instant};

use test_e2e::fixture::{Fixture, eventually, seconds};
use test_e2e::process;
use tonic::Code;

#[tokio::test]
async fn exit_codes_are_answers() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-codes", &["sleep", "1000"]).await;
    for code in [0, 1, 42, 255] {
        assert_eq!(container.exec(&["sh", "-c", &format!("exit {code}")]).await.code, code);
    }
    assert_eq!(container.exec(&["sh", "-c", "kill -9 $$"]).await.code, 137);
}

#[tokio::test]
async fn output_is_exact() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-exact", &["sleep", "1000"]).await;
    let script = r"printf 'hello'; printf '\000\377\n\r' ; printf 'err' >&2";
    let response = e2e.client.exec(&container.id, &["sh", "-c", script], seconds(10)).await.expect("exec");
    assert_eq!(response.stdout.as_ref(), b"hello\0\xff\n\r".as_slice());
    assert_eq!(response.stderr.as_ref(), b"err".as_slice());
    assert_eq!(container.exec(&["cat"]).await.stdout, "", "stdin is at its end");
}

#[tokio::test]
async fn exec_sees_what_the_container_sees() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e
        .run_with("exec-same", &["sleep", "1000"], |config| {
            test_e2e::spec::security(config).run_as_username = "app".into();
            test_e2e::spec::security(config).no_new_privs = true;
            test_e2e::spec::security(config).capabilities = test_e2e::spec::capabilities(&[], &["ALL"]);
            config.working_dir = "/home/app".into();
            config.envs.push(cri_api::v1::KeyValue { key: "A".into(), value: b"b c".to_vec() });
        })
        .await;
    assert_eq!(container.sh("echo $(id -u) $(pwd) \"$A\"").await, "1000 /home/app b c\n");
    let of = |pid: &str| format!("grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp):?' /proc/{pid}/status");
    assert_eq!(container.sh(&of("self")).await, container.sh(&of("1")).await);
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |pid: &str| format!("readlink /proc/{pid}/ns/{namespace}");
        assert_eq!(container.sh(&of("self")).await, container.sh(&of("1")).await);
    }
}

#[tokio::test]
async fn a_timeout_ends_the_exec_and_not_the_container() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-timeout", &["sleep", "1000"]).await;
    let begun = Instant::now();
    let late = e2e.client.exec(&container.id, &["sleep", "100"], 1).await.expect_err("too late");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert!(begun.elapsed() < Duration::from_secs(seconds(20) as u64));
    assert_eq!(container.sh("echo alive").await, "alive\n");
    eventually("sleep 100 dies", async || (!container.sh("ps").await.contains("sleep 100\n")).then_some(())).await;
}

#[tokio::test]
async fn strict_a_timeout_ends_the_whole_tree() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-tree", &["sleep", "1000"]).await;
    // A child in a session of its own, one whose parent is gone, and one that ignores what can be ignored.
    let script = "setsid sleep 2001 & (sleep 2002 &) ; (trap '' TERM HUP INT; sleep 2003; :) & sleep 2004";
    let late = e2e.client.exec(&container.id, &["sh", "-c", script], 1).await.expect_err("too late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let left = container.sh("ps").await;
    assert!(!left.contains("sleep 200"), "left running:\n{left}");
    assert!(process::is_alive(container.pid()));
}

#[tokio::test]
async fn strict_output_is_capped_and_drained() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-cap", &["sleep", "1000"]).await;
    let script = "head -c 20000000 /dev/zero; echo done > /tmp/done; exit 3";
    let response = e2e.client.exec(&container.id, &["sh", "-c", script], seconds(60)).await.expect("exec");
    assert_eq!(response.exit_code, 3);
    assert_eq!(container.sh("cat /tmp/done").await, "done\n", "the writer was not cut off");
    let (least, most) = ((16 << 20) - (64 << 10), 16 << 20);
    assert!((least..=most).contains(&response.stdout.len()), "{} bytes of stdout", response.stdout.len());
}

#[tokio::test]
async fn strict_both_streams_fit_kubelets_message() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-both", &["sleep", "1000"]).await;
    let script = "head -c 20000000 /dev/zero & head -c 20000000 /dev/zero >&2; wait";
    let response = e2e.client.exec(&container.id, &["sh", "-c", script], seconds(60)).await.expect("exec");
    let size = response.stdout.len() + response.stderr.len();
    assert!(((15 << 20)..(16 << 20) - 64).contains(&size), "{size} bytes of both, without their framing");
}

#[tokio::test]
async fn strict_a_grandchild_with_the_pipe_does_not_hang_the_call() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-grandchild", &["sleep", "1000"]).await;
    let begun = Instant::now();
    let output = container.exec(&["sh", "-c", "sleep 500 & echo hi; exit 4"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (4, "hi\n"));
    assert!(begun.elapsed() < Duration::from_secs(seconds(10) as u64), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn many_at_once_do_not_mix() {
    let e2e = Fixture::shared().await;
    let (_pod, container) = e2e.run("exec-many", &["sleep", "1000"]).await;
    let mut tasks = Vec::new();
    for task in 0..8 {
        let (client, id) = (e2e.client.clone(), container.id.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..5 {
                let word = format!("task {task} round {round}");
                let response = client.exec(&id, &["sh", "-c", &format!("echo {word}; exit {task}")], 0).await?;
                assert_eq!(response.exit_code, task);
                assert_eq!(response.stdout.as_ref(), format!("{word}\n").as_bytes());
            }
            Ok::<_, tonic::Status>(())
        }));
    }
    for task in tasks {
        task.await.expect("no mix-up").expect("exec");
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_an_error() {
    let e2e = Fixture::shared().await;
    let pod = e2e.pod("exec-bad").await;
    let container = pod.start("main", &["sleep", "1000"]).await;
    let missing = e2e.client.exec(&container.id, &["/no/such/program"], seconds(10)).await.expect_err("no program");
    assert!(missing.message().contains("/no/such/program"), "names the program: {missing:?}");
    assert!(e2e.client.exec(&container.id, &[], seconds(10)).await.is_err(), "no command");
    let unknown = e2e.client.exec("no-such-container", &["true"], seconds(10)).await.expect_err("no container");
    assert_eq!(unknown.code(), Code::NotFound);
    let created = pod.create_with("created", &["sleep", "1000"], |_| {}).await;
    e2e.client.exec(&created.id, &["true"], seconds(10)).await.expect_err("not running yet");
    e2e.client.stop_container(&container.id, 0).await.expect("stop");
    e2e.client.exec(&container.id, &["true"], seconds(10)).await.expect_err("not running any more");
}
