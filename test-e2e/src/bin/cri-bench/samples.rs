//! Durations of one thing done many times, and their percentiles.

use std::time::{Duration, Instant};

/// Measured durations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Awaits `work` and keeps how long it took.
    pub(crate) async fn time<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let outcome = work.await;
        if outcome.is_ok() {
            self.0.push(begun.elapsed());
        }
        outcome
    }

    /// Keeps a duration.
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// The last duration kept.
    pub(crate) fn last(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// Adds what another has.
    pub(crate) fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The duration in milliseconds that `percent` of a hundred do not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut samples = Samples::default();
        assert_eq!(samples.percentile(50), 0.0);
        for ms in [5, 1, 4, 2, 3] {
            samples.push(Duration::from_millis(ms));
        }
        assert_eq!([0, 20, 21, 50, 99, 100].map(|percent| samples.percentile(percent)), [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]);
    }
}
