//! Where the time of a verb goes. `ops` makes one recorder a request and marks the end of each step:
//!
//! `let mut phases = Phases::start("run_pod"); …; phases.mark("network"); …; phases.finish();`
//!
//! A request that fails has its finished phases counted and no total.

use std::sync::OnceLock;
use std::time::Instant;

use prometheus_client::collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::Histogram;

/// More than there are marks in the source; one beyond is not counted, and the test of `ops` that counts would tell.
const SLOTS: usize = 96;

struct Slot {
    name: OnceLock<(&'static str, &'static str)>,
    histogram: Histogram,
}

/// Filled from the front, never emptied: found by a scan of a few pointers, without a lock.
static TABLE: [Slot; SLOTS] = [const { Slot { name: OnceLock::new(), histogram: Histogram::new() } }; SLOTS];

fn histogram(verb: &'static str, phase: &'static str) -> Option<&'static Histogram> {
    TABLE.iter().find(|slot| *slot.name.get_or_init(|| (verb, phase)) == (verb, phase)).map(|slot| &slot.histogram)
}

/// A stopwatch for one request.
#[derive(Debug)]
pub struct Phases {
    verb: &'static str,
    started: Instant,
    last: Instant,
}

impl Phases {
    /// Starts the watch of a verb (`run_pod`).
    pub fn start(verb: &'static str) -> Self {
        let now = Instant::now();
        Self { verb, started: now, last: now }
    }

    /// Ends a phase: the time since the last mark, or the start, was spent on it.
    pub fn mark(&mut self, phase: &'static str) {
        let now = Instant::now();
        if let Some(histogram) = histogram(self.verb, phase) {
            histogram.observe(now - self.last);
        }
        self.last = now;
    }

    /// Counts a phase that ran beside others by its own length.
    pub fn add(&self, phase: &'static str, since: Instant) {
        if let Some(histogram) = histogram(self.verb, phase) {
            histogram.observe(since.elapsed());
        }
    }

    /// The verb succeeded: its whole time is counted as the phase `total`.
    pub fn finish(self) {
        if let Some(histogram) = histogram(self.verb, "total") {
            histogram.observe(self.started.elapsed());
        }
    }
}

/// All phases so far.
#[derive(Debug)]
pub(super) struct Collector;

impl collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let help = "Time a verb spent in one of its phases";
        let mut family = encoder.encode_descriptor("phase_seconds", help, None, MetricType::Histogram)?;
        for slot in &TABLE {
            let Some(&(verb, phase)) = slot.name.get() else { break };
            slot.histogram.encode(&mut family, &[("verb", verb), ("phase", phase)])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_counted_under_their_own_name() {
        let mut phases = Phases::start("test_verb");
        phases.mark("one");
        phases.mark("two");
        phases.mark("two");
        phases.finish();
        let count = |phase| histogram("test_verb", phase).map(Histogram::count);
        assert_eq!((count("one"), count("two"), count("total")), (Some(1), Some(2), Some(1)));
    }
}
