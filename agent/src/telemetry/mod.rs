//! Logs, spans and metrics: set up by `cli::serve`, fed by the RPC layer and by `ops` (phases). Recording is a few
//! relaxed atomic additions; nothing here takes a lock while a request runs.

/// A latency histogram of atomics.
mod histogram;
/// The tracing subscriber.
mod logs;
/// Where the time of a verb goes, phase by phase.
pub mod phases;
/// Latency and result of every RPC.
mod rpcs;
/// GET /metrics.
mod serve;

pub use histogram::Histogram;
pub use logs::{LogError, init_logs};
pub use rpcs::Rpcs;
pub use serve::{MetricsError, MetricsServer};

use std::sync::Arc;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The registry that GET /metrics encodes: RPCs, phases and the build; others may add collectors of their own.
pub fn registry(rpcs: Arc<Rpcs>) -> Registry {
    let mut registry = Registry::with_prefix("berth");
    registry.register("build", "The running agent", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    registry.register_collector(Box::new(rpcs));
    registry.register_collector(Box::new(phases::Collector));
    registry
}
