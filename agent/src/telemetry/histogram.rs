//! A latency histogram that is written to with three relaxed additions. The metrics crate's own takes a lock per
//! observation, which the executor's one thread would wait on while a scrape encodes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, MetricEncoder, NoLabelSet};

/// Upper bounds in seconds: from a status read out of memory to a pull of minutes.
const BOUNDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 240.0,
];

/// Observations of a duration, counted by size.
#[derive(Debug)]
pub struct Histogram {
    /// One more than the bounds: what is above them all.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// No observations.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], nanoseconds: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// Writes it under `labels`.
    pub(super) fn encode(&self, encoder: &mut MetricEncoder, labels: &impl EncodeLabelSet) -> std::fmt::Result {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.buckets.iter().map(|bucket| bucket.load(Relaxed))).collect();
        // The count is that of the buckets just read, so that the two agree under concurrent observations.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64();
        encoder.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_at_its_bound() {
        let histogram = Histogram::new();
        for millis in [1, 1, 2, 1_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let at = |bound: f64| BOUNDS.iter().position(|b| *b == bound).map(|i| histogram.buckets[i].load(Relaxed));
        assert_eq!((at(0.001), at(0.0025), histogram.count()), (Some(2), Some(1), 4));
        assert_eq!(histogram.buckets[BOUNDS.len()].load(Relaxed), 1);
    }
}
