//! Latencies, printed and not judged.

use std::time::{Duration, Instant};

use berth::libcontainer::plan::ProcessPlan;
use berth::monitor::client::{ExecRequest, MonitorEvent};

use crate::support::{Sandbox, open_sources, process};

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{what:28} min {:>9.1?}  p50 {:>9.1?}  p90 {:>9.1?}",
        times[0],
        times[times.len() / 2],
        times[times.len() * 9 / 10]
    );
}

#[tokio::test]
#[ignore = "a measurement"]
async fn latencies() {
    const ROUNDS: usize = 100;
    let sandbox = Sandbox::new().await;
    let mut times: [Vec<Duration>; 7] = Default::default();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut pod = sandbox.pod().await;
        times[0].push(begun.elapsed());
        let container = pod.container("exit 0");
        let begun = Instant::now();
        let fds = open_sources(&container.sources).unwrap();
        times[1].push(begun.elapsed());
        drop(fds);
        container.fresh_folders();
        let begun = Instant::now();
        pod.create(&container).await.unwrap();
        times[2].push(begun.elapsed());
        let begun = Instant::now();
        pod.monitor.start(&container.id).await.unwrap();
        times[3].push(begun.elapsed());
        pod.exited(&container).await;
        times[4].push(begun.elapsed());
        let begun = Instant::now();
        pod.monitor.shutdown().await.unwrap();
        times[5].push(begun.elapsed());
    }
    let mut pod = sandbox.pod().await;
    let container = pod.run("sleep 1000").await;
    for round in 0..ROUNDS * 5 {
        let begun = Instant::now();
        pod.monitor
            .exec(ExecRequest {
                container: container.id.clone(),
                exec: round.to_string(),
                // As the CRI has it for every process.
                process: ProcessPlan { oom_score_adj: Some(0), ..process(&["/bin/true"]) },
                tty: false,
                stdin: None,
                stdout: None,
                stderr: None,
            })
            .await
            .unwrap();
        while !matches!(pod.event().await, MonitorEvent::ExecExited { .. }) {}
        times[6].push(begun.elapsed());
    }
    let names =
        ["fork_monitor", "open mounts (agent)", "open + create", "start", "start to exit", "shutdown", "exec to exit"];
    for (name, times) in names.iter().zip(times) {
        show(name, times);
    }
    println!("monitor: {}", pod.memory());
    let many = futures_util::future::join_all((0..20).map(|_| sandbox.pod())).await;
    let container = many[0].run("sleep 1000").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    println!("one of 21, with {}: {}", container.id, many[0].memory());
}
