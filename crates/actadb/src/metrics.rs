//! Numbers that are counted where they happen, for whoever wants to show them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of sync times, in seconds.
pub const SYNC_SECONDS: [f64; 12] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];

/// Upper bounds of events per entry.
pub const ENTRY_EVENTS: [f64; 12] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 2048.0, 16384.0];

/// A histogram with fixed bounds, counted without locks.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [AtomicU64; N],
    above: AtomicU64,
    /// In millionths, so that sums of fractions stay whole numbers.
    sum_micros: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValue {
    /// Upper bound and count of each bucket, not cumulated; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all values.
    pub sum: f64,
    /// Number of values.
    pub count: u64,
}

impl<const N: usize> Histogram<N> {
    /// Nothing counted.
    #[must_use]
    pub fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum_micros: AtomicU64::new(0),
        }
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound);
        let counter = at.and_then(|at| self.counts.get(at)).unwrap_or(&self.above);
        counter.fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// Counts a time in seconds.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// What was counted so far.
    #[must_use]
    pub fn value(&self) -> HistogramValue {
        let counts = self.counts.iter().chain([&self.above]);
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(counts.map(|count| count.load(Ordering::Relaxed))).collect();
        HistogramValue {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum: self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6,
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_buckets() {
        let histogram = Histogram::new(&SYNC_SECONDS);
        histogram.observe(0.0001);
        histogram.observe(0.0003);
        histogram.observe(9.0);
        let value = histogram.value();
        assert_eq!(value.count, 3);
        assert_eq!(value.buckets[0], (0.0001, 1));
        assert_eq!(value.buckets[2], (0.0005, 1));
        assert_eq!(value.buckets[12], (f64::INFINITY, 1));
        assert!((value.sum - 9.0004).abs() < 1e-5);
    }
}
