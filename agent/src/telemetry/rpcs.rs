//! Latency and result of every RPC, in a table made once for the methods that exist.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::Histogram;

/// gRPC's codes by their number (grpc/grpc: doc/statuscodes.md).
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The table. A method is its index in the list it was made with.
#[derive(Debug)]
pub struct Rpcs {
    methods: Vec<Method>,
    in_flight: AtomicU64,
}

#[derive(Debug)]
struct Method {
    name: &'static str,
    latency: Histogram,
    codes: [AtomicU64; CODES.len()],
}

impl Rpcs {
    /// A table for methods by name (`RunPodSandbox`).
    pub fn new(methods: impl IntoIterator<Item = &'static str>) -> Self {
        let zero = || [const { AtomicU64::new(0) }; CODES.len()];
        let method = |name| Method { name, latency: Histogram::new(), codes: zero() };
        Self { methods: methods.into_iter().map(method).collect(), in_flight: AtomicU64::new(0) }
    }

    /// A request came in.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// It was answered with a gRPC code, or given up by its client (`None`).
    pub fn end(&self, method: usize, code: Option<i32>, took: Duration) {
        self.in_flight.fetch_sub(1, Relaxed);
        let Some(method) = self.methods.get(method) else { return };
        method.latency.observe(took);
        let code = usize::try_from(code.unwrap_or(1)).unwrap_or(2);
        method.codes[code.min(CODES.len() - 1)].fetch_add(1, Relaxed);
    }

    /// Requests that are not answered yet.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }
}

impl Collector for Rpcs {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let used = || self.methods.iter().filter(|method| method.latency.count() > 0);
        let help = "Time from an RPC's arrival to its answer";
        let mut latency = encoder.encode_descriptor("rpc_seconds", help, None, MetricType::Histogram)?;
        for method in used() {
            method.latency.encode(&mut latency, &[("method", method.name)])?;
        }
        let mut answers = encoder.encode_descriptor("rpc_answers", "RPCs by gRPC code", None, MetricType::Counter)?;
        for method in used() {
            for (code, count) in CODES.iter().zip(&method.codes).filter(|(_, count)| count.load(Relaxed) > 0) {
                let labels = [("method", method.name), ("code", *code)];
                answers.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count.load(Relaxed), None)?;
            }
        }
        let help = "RPCs that are not answered yet";
        let mut in_flight = encoder.encode_descriptor("rpc_in_flight", help, None, MetricType::Gauge)?;
        in_flight.encode_gauge(&self.in_flight())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_exposition_names_method_and_code() {
        let rpcs = Arc::new(Rpcs::new(["Version", "Status"]));
        rpcs.begin();
        rpcs.begin();
        rpcs.end(1, Some(5), Duration::from_millis(3));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &super::super::registry(rpcs)).unwrap();
        for line in [
            "berth_build_info{version=\"0.1.0\"} 1",
            "berth_rpc_answers_total{method=\"Status\",code=\"NOT_FOUND\"} 1",
            "berth_rpc_seconds_bucket{le=\"0.0025\",method=\"Status\"} 0",
            "berth_rpc_seconds_bucket{le=\"0.005\",method=\"Status\"} 1",
            "berth_rpc_seconds_bucket{le=\"+Inf\",method=\"Status\"} 1",
            "berth_rpc_seconds_count{method=\"Status\"} 1",
            "berth_rpc_in_flight 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("Version"), "what was never called has no lines");
    }
}
