//! What a runtime's processes take: memory by proportional share, CPU time of the whole tree, the dead included.

use test_e2e::process::{self, TICK_MS};

use crate::Bench;

/// The environment variable that marks a pod's own processes.
pub(crate) const MARK: &str = "CRI_BENCH_POD";

/// Names of the processes that runtimes leave behind for a pod, wherever their parent went.
const KEEPERS: [&str; 5] = ["containerd-shim", "conmon", "conmonrs", "berth-monitor", "pause"];

/// Memory, in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The daemon's.
    pub(crate) daemon: f64,
    /// Of all else the runtime keeps running for pods: shims, monitors, pause; not the pods' own processes.
    pub(crate) keepers: f64,
}

impl Bench {
    /// The runtime's processes but for those that the pods themselves run.
    fn processes(&self) -> Vec<i32> {
        let own = process::with_environment(MARK, "1");
        let mut pids = process::descendants(self.tree);
        pids.push(self.tree);
        let strays = process::all().into_iter().filter(|p| KEEPERS.iter().any(|name| p.name.starts_with(name)));
        pids.extend(strays.map(|process| process.pid));
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| !own.contains(pid));
        pids
    }

    /// Memory of the runtime now.
    pub(crate) fn memory(&self) -> Memory {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let others = self.processes().into_iter().filter(|&pid| pid != self.daemon && pid != self.tree);
        let keepers = others.map(process::pss).sum();
        Memory { daemon: mebibytes(process::pss(self.daemon)), keepers: mebibytes(keepers) }
    }

    /// CPU time of the runtime's tree so far in milliseconds: of the living, and of all they have reaped.
    pub(crate) fn cpu_ms(&self) -> f64 {
        let mut pids = self.processes();
        pids.extend(process::descendants(self.tree));
        pids.sort_unstable();
        pids.dedup();
        let ticks: u64 = pids.into_iter().filter_map(process::read).map(|process| process.ticks).sum();
        ticks as f64 * TICK_MS
    }
}

/// CPU time of the whole machine so far in milliseconds: what the kernel does in its own threads is only in here.
pub(crate) fn machine_cpu_ms() -> f64 {
    process::machine_ticks() as f64 * TICK_MS
}
