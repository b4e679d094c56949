//! What pools count, and the counts as a value for people and programs.

use std::{fmt, time::Duration};

/// How long something took, by powers of two of nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    buckets: [u64; Self::BUCKETS],
}

impl Latencies {
    const BUCKETS: usize = 40;

    pub(crate) fn note(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let bucket = (nanoseconds.ilog2() as usize).min(Self::BUCKETS - 1);
        self.buckets[bucket] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += more;
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// A time that this share of them did not exceed: at most twice the true one. Zero if there were none.
    pub fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return Duration::from_nanos((2 << bucket) - 1);
            }
        }
        Duration::ZERO
    }

    /// Each bucket's first nanosecond above it, and how many there were; empty ones are left out.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (Duration::from_nanos(2 << bucket), *count))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: [0; Self::BUCKETS],
        }
    }
}

/// What one purse counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) allocations: u64,
    pub(crate) deallocations: u64,
    pub(crate) hits: u64,
    pub(crate) failures: u64,
    pub(crate) spills: u64,
    pub(crate) misses: Latencies,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.allocations += other.allocations;
        self.deallocations += other.deallocations;
        self.hits += other.hits;
        self.failures += other.failures;
        self.spills += other.spills;
        self.misses.add(&other.misses);
    }
}

/// A pool's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolMetrics {
    /// The limit in bytes.
    pub limit: u64,
    /// Bytes that buffers have, as they were asked for; exact.
    pub used: u64,
    /// Bytes left under this limit and all above it; exact.
    pub available: u64,
    /// Bytes of `used` that reservations hold.
    pub reserved: u64,
    /// The most bytes in use at once. Exact for one thread; with several it may be too high by what the
    /// others have at hand, at most a 1024th of the limit for each thread.
    pub high_water_mark: u64,
    /// Bytes that the driver has given, to this pool and to those that share its memory.
    pub from_driver: u64,
    /// The most of that at once.
    pub from_driver_high: u64,
    /// Bytes of it that are free for the pool's threads at once.
    pub cached: u64,
    /// Bytes of it that are free, in slabs or large allocations.
    pub free_from_driver: u64,
    /// The largest free block in slabs.
    pub largest_free: u64,
    /// Bytes of freed buffers that streams still use.
    pub pending: u64,
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Buffers that were freed.
    pub deallocations: u64,
    /// Allocations that were met from what the thread had at hand.
    pub cache_hits: u64,
    /// Allocations that failed: over the limit, or in the driver.
    pub failures: u64,
    /// How often a thread had too much at hand and gave it to the others.
    pub spills: u64,
    /// How long allocations took that were no cache hits.
    pub misses: Latencies,
}

impl PoolMetrics {
    /// The part of the driver's memory that no buffer has use of: rounding, what is cached, what is free.
    pub fn overhead(&self) -> f64 {
        if self.from_driver == 0 {
            return 0.0;
        }
        1.0 - self.used.min(self.from_driver) as f64 / self.from_driver as f64
    }

    /// The figures as one JSON object.
    pub fn to_json(&self) -> String {
        let figures = self
            .figures()
            .map(|(name, value)| format!("\"{name}\":{value}"));
        let misses: Vec<String> = self
            .misses
            .buckets()
            .map(|(below, count)| format!("[{},{count}]", below.as_nanos()))
            .collect();
        format!(
            "{{{},\"overhead\":{:.4},\"misses_below_ns\":[{}]}}",
            figures.join(","),
            self.overhead(),
            misses.join(",")
        )
    }

    /// Name and value of each figure but the latencies.
    pub(crate) fn figures(&self) -> [(&'static str, u64); 16] {
        [
            ("limit_bytes", self.limit),
            ("used_bytes", self.used),
            ("available_bytes", self.available),
            ("reserved_bytes", self.reserved),
            ("high_water_mark_bytes", self.high_water_mark),
            ("from_driver_bytes", self.from_driver),
            ("from_driver_high_bytes", self.from_driver_high),
            ("cached_bytes", self.cached),
            ("free_from_driver_bytes", self.free_from_driver),
            ("largest_free_bytes", self.largest_free),
            ("pending_bytes", self.pending),
            ("allocations", self.allocations),
            ("deallocations", self.deallocations),
            ("cache_hits", self.cache_hits),
            ("failures", self.failures),
            ("spills", self.spills),
        ]
    }
}

/// A table.
impl fmt::Display for PoolMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.figures() {
            match name.strip_suffix("_bytes") {
                Some(name) => writeln!(
                    f,
                    "{:<22} {:>14.3} MiB",
                    name.replace('_', " "),
                    value as f64 / f64::from(1 << 20)
                )?,
                None => writeln!(f, "{:<22} {value:>14}", name.replace('_', " "))?,
            }
        }
        write!(
            f,
            "{:<22} {:>14.1} %\n{:<22} {:>14?} p50, {:?} p99.9",
            "overhead",
            self.overhead() * 100.0,
            "misses",
            self.misses.percentile(0.5),
            self.misses.percentile(0.999)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_at_most_twice_too_high() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.5), Duration::ZERO);
        for nanoseconds in 1..=1000 {
            latencies.note(Duration::from_nanos(nanoseconds));
        }
        for (share, truth) in [(0.001, 1), (0.5, 500), (0.999, 999), (1.0, 1000)] {
            let told = latencies.percentile(share).as_nanos();
            assert!(told >= truth && told <= 2 * truth, "{share}: {told}");
        }
        latencies.note(Duration::ZERO);
        latencies.note(Duration::MAX);
        assert_eq!(latencies.count(), 1002);
    }
}
