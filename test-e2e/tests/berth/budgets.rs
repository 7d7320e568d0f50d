//! What a pod may cost at most. Times are measured by cri-bench and never asserted here; memory does not depend on who
//! else uses the machine.

use test_e2e::fixture::Fixture;
use test_e2e::{host, process};

/// Of the monitor's memory, per pod.
const MONITOR_PSS: u64 = 256 << 10;
/// Of the agent's memory with fifty pods.
const AGENT_PSS: u64 = 20 << 20;

#[test]
fn the_monitor_is_free_of_tokio() {
    let monitor = host::sibling_binary("berth-monitor").expect("built");
    let output = std::process::Command::new("nm").arg("-C").arg(&monitor).output().expect("nm, of Debian's binutils");
    assert!(output.status.success(), "{output:?}");
    let symbols = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<&str> = symbols.lines().filter(|line| line.contains("tokio::")).take(5).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(symbols.contains("main"), "nm showed no symbols at all");
}

#[tokio::test]
async fn memory_stays_within_its_budget() {
    let e2e = Fixture::own("memory").await;
    let (_, empty) = keepers(&e2e);
    let pods = 50;
    for number in 0..pods {
        let pod = e2e.pod(&format!("memory-{number}")).await;
        pod.start("main", &["sleep", "1000"]).await;
    }
    let (count, full) = keepers(&e2e);
    assert!(count > pods, "a monitor a pod, and the spawner: {count} processes");
    let per_pod = full.saturating_sub(empty) / pods;
    let agent = process::pss(e2e.agent().pid);
    eprintln!("monitor: {} KiB a pod; agent: {} KiB", per_pod >> 10, agent >> 10);
    assert!(per_pod <= MONITOR_PSS, "{per_pod} bytes a pod");
    // The pages of an unoptimized program are not what the budget is about.
    if !e2e.agent().binary().components().any(|part| part.as_os_str() == "debug") {
        assert!(agent <= AGENT_PSS, "{agent} bytes");
    }
}

/// The processes that the agent keeps for its pods, the spawner and the monitors: how many, and their memory.
fn keepers(e2e: &Fixture) -> (u64, u64) {
    let below = process::descendants(e2e.machine.host.pid()).into_iter();
    let keepers = below.filter(|&pid| process::command_line(pid).starts_with("berth-monitor"));
    let sizes: Vec<u64> = keepers.map(process::pss).collect();
    (sizes.len() as u64, sizes.iter().sum())
}
