//! `berth-monitor`: parents, reaps and logs for a pod's containers. Started by `berth` only.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth::monitor::server::main()
}
