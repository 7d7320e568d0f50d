//! Measures a CRI runtime from its client's side: `cri-bench --endpoint unix:///… --pods 50 --parallel 8 --json`.
//! Without an endpoint it starts Berth from the binaries beside it. docs/performance.md says how its figures are read.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use test_e2e::client::Client;
use test_e2e::machine::{Machine, Setup};
use test_e2e::registry::Registry;

mod footprint;
mod pull;
mod report;
mod samples;
mod verbs;

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it has to be 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// What is measured, and how much of it.
#[derive(Parser)]
#[command(about)]
pub(crate) struct Options {
    /// The runtime's socket, as unix:///path. Without it Berth is started, and ended at the end.
    #[arg(long)]
    endpoint: Option<String>,
    /// A process in whose network and mount namespaces the runtime lives, when not in ours.
    #[arg(long)]
    inside: Option<i32>,
    /// The process whose tree the runtime is: its daemon and what it starts. Found by the socket when not given.
    #[arg(long)]
    tree: Option<i32>,
    /// Lives of one pod that are measured one after the other.
    #[arg(long, default_value_t = 30, value_parser = at_least_one)]
    lives: usize,
    /// Milliseconds between one life and the next: an idle node is colder than a busy one (cgroup v1 most of all).
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Pods that run at one time. 0: measure single lives only.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Pods that are started and stopped at one time, and execs that run at one time.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    parallel: usize,
    /// Seconds over which idle CPU is measured.
    #[arg(long, default_value_t = 10)]
    idle: u64,
    /// Pulls of the big image that are measured.
    #[arg(long, default_value_t = 0)]
    pulls: usize,
    /// Where the registry with the big image is kept from run to run; making the image takes a minute.
    #[arg(long, default_value = "/var/tmp/cri-bench")]
    cache: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What every measurement works with.
pub(crate) struct Bench {
    options: Options,
    machine: Machine,
    client: Client,
    /// The runtime's daemon.
    daemon: i32,
    /// The root of all its processes.
    tree: i32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if !nix::unistd::geteuid().is_root() {
        return Err("cri-bench needs root: it runs containers".into());
    }
    // One thread, as a second one would take a processor from the runtime that is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(options))
}

async fn measure(options: Options) -> Result<(), Box<dyn Error>> {
    let (endpoint, inside) = (options.endpoint.clone(), options.inside);
    let machine = Machine::start(&Setup { name: "bench".into(), endpoint, inside, ..Setup::default() })?;
    let client = Client::connect(machine.endpoint()).await?;
    let socket = machine.endpoint().trim_start_matches("unix://");
    let daemon = test_e2e::process::listener_of(socket)?;
    let tree = options.tree.unwrap_or(daemon);
    client.pull(machine.busybox()).await?;
    let bench = Bench { options, machine, client, daemon, tree };

    let mut report = report::Report::new(&bench.client.version().await?);
    verbs::one_after_the_other(&bench, &mut report).await?;
    if bench.options.pods > 0 {
        verbs::execs(&bench, &mut report).await?;
        verbs::many_at_once(&bench, &mut report).await?;
    }
    if bench.options.pulls > 0 {
        let registry = Registry::start_in(&bench.machine.host, &bench.machine.folder, &bench.options.cache)?;
        pull::durable(&bench, &registry, &mut report).await?;
    }
    report.print(bench.options.json)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pods_is_less_to_measure_but_no_lives_is_nothing() {
        let parse = |flag: &str| Options::try_parse_from(["cri-bench", flag, "0"]);
        assert_eq!(parse("--pods").map(|options| options.pods).ok(), Some(0));
        for flag in ["--lives", "--parallel"] {
            let refused = parse(flag).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(refused.contains("1 or more"), "{refused}");
        }
    }
}
