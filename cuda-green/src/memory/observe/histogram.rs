//! A histogram of durations.
//!
//! It has 40 counts and is `Copy`, so that each shard of each pool can have three and figures can be taken by value. A
//! histogram of `hdrhistogram` of one digit takes 15 times the memory, on the heap.

use std::{fmt, time::Duration};

/// A histogram of durations, by powers of two of nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    buckets: [u64; Self::BUCKETS],
}

impl Latencies {
    const BUCKETS: usize = 40;

    /// Adds one duration.
    pub(crate) fn note(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let bucket = (nanoseconds.ilog2() as usize).min(Self::BUCKETS - 1);
        self.buckets[bucket] += 1;
    }

    /// Adds all durations of another.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += more;
        }
    }

    /// Returns what was added after an earlier state of the same histogram; all of it, if `earlier` cannot have been
    /// one.
    #[cfg(feature = "metrics")]
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut later = *self;
        for (count, before) in later.buckets.iter_mut().zip(earlier.buckets) {
            let Some(more) = count.checked_sub(before) else {
                return *self;
            };
            *count = more;
        }
        later
    }

    /// Returns the middle of each bucket in seconds, with the count in it.
    #[cfg(feature = "metrics")]
    pub(crate) fn middles(&self) -> impl Iterator<Item = (f64, usize)> + '_ {
        // A bucket reaches from half of its end to its end.
        self.buckets().map(|(below, count)| {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            (below.as_secs_f64() * 0.75, count)
        })
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns a duration that this share of them did not exceed: at most twice the true one. Zero if there are none.
    pub fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        for (below, count) in self.buckets() {
            seen += count;
            if seen >= wanted {
                return below - Duration::from_nanos(1);
            }
        }
        Duration::ZERO
    }

    /// Returns the end of each bucket (the first nanosecond above it) and the count in it, without empty buckets.
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

/// A duration in three digits: `1.05ms`.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos() as f64;
        let units = [("s", 1e9), ("ms", 1e6), ("µs", 1e3)];
        match units.iter().find(|(_, unit)| nanoseconds >= *unit) {
            None => write!(f, "{nanoseconds}ns"),
            Some((name, unit)) => {
                let value = nanoseconds / unit;
                let digits = match value {
                    100.0.. => 0,
                    10.0.. => 1,
                    _ => 2,
                };
                write!(f, "{value:.digits$}{name}")
            }
        }
    }
}

/// `12 at 127ns p50, 511ns p99, 4.09µs p99.9`; `none` if there are none.
impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 0 {
            return f.write_str("none");
        }
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| Short(self.percentile(share)));
        write!(f, "{} at {p50} p50, {p99} p99, {p999} p99.9", self.count())
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latencies({self})")
    }
}

/// A list of pairs: the first nanosecond above a bucket, and the count in it.
#[cfg(feature = "serde")]
impl serde::Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = self.buckets().map(|(below, count)| {
            let nanoseconds = u64::try_from(below.as_nanos()).unwrap_or(u64::MAX);
            (nanoseconds, count)
        });
        serializer.collect_seq(pairs)
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
            let reported = latencies.percentile(share).as_nanos();
            assert!(
                reported >= truth && reported <= 2 * truth,
                "{share}: {reported}"
            );
        }
        latencies.note(Duration::ZERO);
        latencies.note(Duration::MAX);
        assert_eq!(latencies.count(), 1002);
    }

    #[test]
    fn durations_have_three_digits() {
        for (nanoseconds, text) in [
            (0, "0ns"),
            (127, "127ns"),
            (4_095, "4.09µs"),
            (16_383, "16.4µs"),
            (131_071, "131µs"),
            (1_048_575, "1.05ms"),
            (17_179_869_183, "17.2s"),
        ] {
            assert_eq!(Short(Duration::from_nanos(nanoseconds)).to_string(), text);
        }
    }

    #[test]
    #[cfg(feature = "metrics")]
    fn since_has_only_what_was_added_later() {
        let of = |times: &[u64]| {
            let mut latencies = Latencies::default();
            times
                .iter()
                .for_each(|ns| latencies.note(Duration::from_nanos(*ns)));
            latencies
        };
        let earlier = of(&[5, 100, 100]);
        assert_eq!(of(&[5, 100, 100, 7, 2000]).since(&earlier), of(&[7, 2000]));
        assert_eq!(earlier.since(&earlier).count(), 0);
        // Another histogram with as many durations.
        let other = of(&[5, 5, 5, 100]);
        assert_eq!(other.since(&earlier), other);
    }
}
