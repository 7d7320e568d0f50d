//! Latencies of the verbs: one pod's life after the other, execs, and many pods at once.

use std::time::{Duration, Instant};

use cri_api::v1;
use futures_util::future::join_all as all;
use test_e2e::spec;
use tonic::Status;

use crate::Bench;
use crate::footprint::{MARK, machine_cpu_ms};
use crate::report::Report;
use crate::samples::Samples;

/// A program that ends on SIGTERM, as a first process only does when it says so.
const PROGRAM: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"];

/// Ends when the first process catches SIGTERM (bit 14 of SigCgt): before that it ignores the signal.
const UNTIL_TRAPPED: [&str; 3] =
    ["sh", "-c", "until grep -q 'SigCgt:.*[4-7c-f][0-9a-f][0-9a-f][0-9a-f]$' /proc/1/status; do :; done"];

/// A running pod with one container.
struct Running {
    pod: String,
    container: String,
}

impl Bench {
    fn pod_config(&self) -> v1::PodSandboxConfig {
        let mut config = spec::pod("bench", &self.machine.folder);
        config.linux.get_or_insert_default().cgroup_parent = self.machine.cgroup_parent(None);
        config
    }

    fn container_config(&self) -> v1::ContainerConfig {
        let mut config = spec::container("main", self.machine.busybox(), &PROGRAM);
        config.envs.push(v1::KeyValue { key: MARK.into(), value: b"1".to_vec() });
        config
    }

    /// Runs a pod with its container; how long each of the three verbs took goes into `times`.
    async fn start(&self, times: &mut [Samples; 3]) -> Result<Running, Status> {
        let config = self.pod_config();
        std::fs::create_dir_all(&config.log_directory)?;
        let [run, create, start] = times;
        let pod = run.time(self.client.run_pod(config.clone())).await?;
        let container = create.time(self.client.create_container(&pod, self.container_config(), config)).await?;
        start.time(self.client.start_container(&container)).await?;
        Ok(Running { pod, container })
    }

    /// Stops and removes it, in the order kubelet does; how long each of the four verbs took goes into `times`.
    async fn end(&self, running: &Running, times: &mut [Samples; 4]) -> Result<(), Status> {
        let [stop, remove, stop_pod, remove_pod] = times;
        stop.time(self.client.stop_container(&running.container, 10)).await?;
        stop_pod.time(self.client.stop_pod(&running.pod)).await?;
        remove.time(self.client.remove_container(&running.container)).await?;
        remove_pod.time(self.client.remove_pod(&running.pod)).await
    }
}

fn sum_of_last(times: &[Samples]) -> Duration {
    times.iter().map(Samples::last).sum()
}

/// One life after the other: what a single pod waits for, and what its life costs in CPU time.
pub(crate) async fn one_after_the_other(bench: &Bench, report: &mut Report) -> Result<(), Status> {
    let (mut starts, mut ends) = (<[Samples; 3]>::default(), <[Samples; 4]>::default());
    let (mut whole_start, mut whole_end, mut exec) = <(Samples, Samples, Samples)>::default();
    // The first one fills caches and is not counted.
    let warm = bench.start(&mut starts.clone()).await?;
    bench.end(&warm, &mut ends.clone()).await?;
    let (tree, machine) = (bench.cpu_ms(), machine_cpu_ms());
    for _ in 0..bench.options.lives {
        let running = bench.start(&mut starts).await?;
        whole_start.push(sum_of_last(&starts));
        exec.time(bench.client.exec(&running.container, &["true"], 10)).await?;
        bench.client.exec(&running.container, &UNTIL_TRAPPED, 10).await?;
        if bench.options.pause > 0 {
            tokio::time::sleep(Duration::from_millis(bench.options.pause)).await;
        }
        bench.end(&running, &mut ends).await?;
        whole_end.push(sum_of_last(&ends));
    }
    let per_life = |now: f64, before: f64| (now - before) / bench.options.lives as f64;
    let [run, create, start] = &starts;
    let [stop, remove, stop_pod, remove_pod] = &ends;
    let named = [
        ("RunPodSandbox", run),
        ("CreateContainer", create),
        ("StartContainer", start),
        ("pod start: the three above", &whole_start),
        ("ExecSync, the first in its container", &exec),
        ("StopContainer (exits on TERM)", stop),
        ("StopPodSandbox", stop_pod),
        ("RemoveContainer", remove),
        ("RemovePodSandbox", remove_pod),
        ("pod end: the four above", &whole_end),
    ];
    for (name, samples) in named {
        report.latency(name, samples);
    }
    report.figure("CPU per pod life, the runtime's processes and the pod's", per_life(bench.cpu_ms(), tree), "ms");
    report.figure("CPU per pod life, the whole machine", per_life(machine_cpu_ms(), machine), "ms");
    Ok(())
}

/// Execs in one container: alone, and several at a time.
pub(crate) async fn execs(bench: &Bench, report: &mut Report) -> Result<(), Status> {
    let running = bench.start(&mut Default::default()).await?;
    let mut alone = Samples::default();
    for _ in 0..200 {
        alone.time(bench.client.exec(&running.container, &["true"], 10)).await?;
    }
    report.latency("ExecSync, warm", &alone);
    let begun = Instant::now();
    let worker = async || {
        let mut count = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            bench.client.exec(&running.container, &["true"], 10).await?;
            count += 1;
        }
        Ok::<usize, Status>(count)
    };
    let counts = all((0..bench.options.parallel).map(|_| worker())).await;
    let total: usize = counts.into_iter().sum::<Result<usize, Status>>()?;
    let rate = total as f64 / begun.elapsed().as_secs_f64();
    report.figure(&format!("execs, {} at a time", bench.options.parallel), rate, "per s");
    bench.end(&running, &mut Default::default()).await
}

/// Many pods: how fast they come and go, and what a node full of them costs.
pub(crate) async fn many_at_once(bench: &Bench, report: &mut Report) -> Result<(), Status> {
    let (pods, parallel) = (bench.options.pods, bench.options.parallel);
    let empty = bench.memory();
    report.figure("daemon, PSS with no pod", empty.daemon, "MiB");

    let begun = Instant::now();
    let (mut running, mut starts) = (Vec::new(), <[Samples; 3]>::default());
    for batch in all((0..parallel).map(|worker| start_share(bench, worker))).await {
        let (some, times) = batch?;
        running.extend(some);
        starts.iter_mut().zip(times).for_each(|(all, new)| all.extend(new));
    }
    report.figure(&format!("{pods} pods, {parallel} at a time: start"), begun.elapsed().as_secs_f64(), "s");
    report.latency(&format!("RunPodSandbox, {parallel} at a time"), &starts[0]);

    full_node(bench, &running, report).await?;

    let begun = Instant::now();
    let share = |worker: usize| running.iter().skip(worker).step_by(parallel);
    let ended = all((0..parallel).map(async |worker| {
        for pod in share(worker) {
            bench.end(pod, &mut Default::default()).await?;
        }
        Ok::<(), Status>(())
    }));
    ended.await.into_iter().collect::<Result<(), Status>>()?;
    report.figure(&format!("{pods} pods, {parallel} at a time: stop and remove"), begun.elapsed().as_secs_f64(), "s");
    Ok(())
}

async fn start_share(bench: &Bench, worker: usize) -> Result<(Vec<Running>, [Samples; 3]), Status> {
    let (mut running, mut times) = (Vec::new(), <[Samples; 3]>::default());
    for _ in (worker..bench.options.pods).step_by(bench.options.parallel) {
        running.push(bench.start(&mut times).await?);
    }
    Ok((running, times))
}

/// With all pods running: memory, idle CPU, and what kubelet asks again and again.
async fn full_node(bench: &Bench, running: &[Running], report: &mut Report) -> Result<(), Status> {
    // What the starts left to do in the background is not idle time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pods = running.len();
    let memory = bench.memory();
    report.figure(&format!("daemon, PSS with {pods} pods"), memory.daemon, "MiB");
    report.figure("memory per pod above its own processes, PSS", memory.keepers / pods as f64, "MiB");
    let (before, begun) = (bench.cpu_ms(), Instant::now());
    tokio::time::sleep(Duration::from_secs(bench.options.idle)).await;
    let idle = (bench.cpu_ms() - before) / begun.elapsed().as_secs_f64();
    report.figure(&format!("idle CPU with {pods} pods (to 10 ms in all)"), idle, "ms per s");

    let client = &bench.client;
    let mut times = <[Samples; 5]>::default();
    let [pod_list, list, pod_status, status, stats] = &mut times;
    for round in 0..100 {
        let one = &running[round % pods];
        pod_list.time(client.list_pods(None)).await?;
        list.time(client.list_containers(None)).await?;
        pod_status.time(client.pod_status(&one.pod)).await?;
        status.time(client.container_status(&one.container)).await?;
        if round % 10 == 0 {
            stats.time(client.list_stats(None)).await?;
        }
    }
    let names = ["ListPodSandbox", "ListContainers", "PodSandboxStatus", "ContainerStatus", "ListContainerStats"];
    for (name, samples) in names.iter().zip(&times) {
        report.latency(&format!("{name} at {pods} pods"), samples);
    }
    // kubelet asks every ten seconds and more: nothing that is kept for a moment is any good to it.
    let mut rare = Samples::default();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        rare.time(client.list_stats(None)).await?;
    }
    report.latency("ListContainerStats, none of them in the last second", &rare);
    Ok(())
}
