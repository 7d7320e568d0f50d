//! The figures, as a table for people and as JSON for scripts.

use std::io::{self, Write};

use cri_api::v1::VersionResponse;
use serde::Serialize;

use crate::samples::Samples;

/// All that was measured, in the order of measuring.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    runtime: String,
    version: String,
    latencies: Vec<Latency>,
    figures: Vec<Figure>,
}

/// How long one thing took, in milliseconds.
#[derive(Debug, Serialize)]
struct Latency {
    name: String,
    count: usize,
    p50: f64,
    p90: f64,
    p99: f64,
}

/// One number.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

impl Report {
    /// An empty report on a runtime.
    pub(crate) fn new(version: &VersionResponse) -> Report {
        let (runtime, version) = (version.runtime_name.clone(), version.runtime_version.clone());
        Report { runtime, version, latencies: Vec::new(), figures: Vec::new() }
    }

    /// Adds the percentiles of something.
    pub(crate) fn latency(&mut self, name: &str, samples: &Samples) {
        let [p50, p90, p99] = [50, 90, 99].map(|percent| samples.percentile(percent));
        self.latencies.push(Latency { name: name.to_owned(), count: samples.len(), p50, p90, p99 });
    }

    /// Adds a number.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit });
    }

    /// Writes it to stdout.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            return writeln!(out);
        }
        writeln!(out, "{} {}\n", self.runtime, self.version)?;
        writeln!(out, "{:<44} {:>6} {:>10} {:>10} {:>10}", "ms", "n", "p50", "p90", "p99")?;
        for Latency { name, count, p50, p90, p99 } in &self.latencies {
            writeln!(out, "{name:<44} {count:>6} {p50:>10.3} {p90:>10.3} {p99:>10.3}")?;
        }
        writeln!(out)?;
        for Figure { name, value, unit } in &self.figures {
            writeln!(out, "{name:<58} {value:>12.3} {unit}")?;
        }
        Ok(())
    }
}
