//! The metrics of pools: the counts of each thread's shard, and all figures of a pool as one value.

use std::{fmt, time::Duration};

use super::Latencies;
use crate::memory::budget::limit_tree::LimitFigures;

/// The counts of one shard.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) allocations: u64,
    pub(crate) deallocations: u64,
    pub(crate) failures: u64,
    pub(crate) spills: u64,
    /// Boxed, so that the counts that every operation changes stay together.
    times: Box<Times>,
}

#[derive(Clone, Copy, Default)]
struct Times {
    hits: Latencies,
    misses: Latencies,
    frees: Latencies,
}

impl Counts {
    /// Adds the time of an allocation that was a hit.
    pub(crate) fn note_hit(&mut self, took: Duration) {
        self.times.hits.note(took);
    }

    /// Counts an allocation that was no hit, and adds its time. All of these are timed, so that all others are hits.
    pub(crate) fn note_miss(&mut self, took: Duration) {
        self.allocations += 1;
        self.times.misses.note(took);
    }

    /// Adds the time of a free.
    pub(crate) fn note_free(&mut self, took: Duration) {
        self.times.frees.note(took);
    }

    /// Adds the counts to those of a pool.
    pub(crate) fn add_to(&self, metrics: &mut PoolMetrics) {
        metrics.allocations += self.allocations;
        metrics.deallocations += self.deallocations;
        metrics.cache_hits += self.allocations - self.times.misses.count();
        metrics.failures += self.failures;
        metrics.spills += self.spills;
        metrics.hits.add(&self.times.hits);
        metrics.misses.add(&self.times.misses);
        metrics.frees.add(&self.times.frees);
    }
}

/// The figures of a pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolMetrics {
    /// The limit in bytes.
    pub limit: u64,
    /// Bytes of all buffers, as they were asked for; exact.
    pub used: u64,
    /// Bytes left under this limit and all above it; exact.
    pub available: u64,
    /// Bytes of `used` that reservations hold.
    pub reserved: u64,
    /// The most bytes in use at once. Exact for one thread; with several it may be too high by the credit that the
    /// others keep, at most a 1024th of the limit for each thread.
    pub high_water_mark: u64,
    /// Bytes that the driver has given to this pool and to those that share its memory.
    pub from_driver: u64,
    /// The most of them at once.
    pub from_driver_high: u64,
    /// Bytes of them in free blocks that the pool's threads have cached.
    pub cached: u64,
    /// Bytes of them that are free in slabs and large allocations, outside the threads' caches.
    pub free_from_driver: u64,
    /// The largest free block in slabs.
    pub largest_free: u64,
    /// Bytes of freed buffers that streams still use.
    pub pending: u64,
    /// Allocations that succeeded. This count, and the counts and times below, include those of child pools.
    pub allocations: u64,
    /// Buffers that were freed.
    pub deallocations: u64,
    /// Allocations that the thread's cache served.
    pub cache_hits: u64,
    /// Allocations that failed: over the limit, or in the driver.
    pub failures: u64,
    /// How often a thread's cache was full and gave blocks to the other threads.
    pub spills: u64,
    /// Times of allocations that were cache hits. One in 64 of each thread's allocations is timed, since the clock
    /// takes about as long as a hit.
    pub hits: Latencies,
    /// Times of allocations that were no cache hits. All of these are timed.
    pub misses: Latencies,
    /// Times of frees. A free is timed if its allocation was one in 64.
    pub frees: Latencies,
}

impl From<LimitFigures> for PoolMetrics {
    fn from(figures: LimitFigures) -> Self {
        Self {
            limit: figures.limit,
            used: figures.used,
            available: figures.available,
            reserved: figures.reserved,
            high_water_mark: figures.high,
            ..Self::default()
        }
    }
}

impl PoolMetrics {
    /// Adds the counts and times of another pool, not its bytes.
    pub(crate) fn add_counts(&mut self, other: &Self) {
        self.allocations += other.allocations;
        self.deallocations += other.deallocations;
        self.cache_hits += other.cache_hits;
        self.failures += other.failures;
        self.spills += other.spills;
        self.hits.add(&other.hits);
        self.misses.add(&other.misses);
        self.frees.add(&other.frees);
    }

    /// Returns the part of the memory from the driver that no buffer uses: rounding, cached blocks, free memory.
    pub fn overhead(&self) -> f64 {
        if self.from_driver == 0 {
            return 0.0;
        }
        1.0 - self.used.min(self.from_driver) as f64 / self.from_driver as f64
    }

    /// Returns the name and value of each figure except the times.
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

    /// Returns the name of each kind of time, and the times.
    pub(crate) fn latencies(&self) -> [(&'static str, &Latencies); 3] {
        [
            ("hits", &self.hits),
            ("misses", &self.misses),
            ("frees", &self.frees),
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
        write!(f, "{:<22} {:>14.1} %", "overhead", self.overhead() * 100.0)?;
        for (name, latencies) in self.latencies() {
            write!(f, "\ntimes of {name:<13} {latencies}")?;
        }
        Ok(())
    }
}
