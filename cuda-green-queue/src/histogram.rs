//! Histograms of durations that one thread records into while others read.
//!
//! A recording is one load and one store of a word, so it never waits and takes no part in the order of other accesses.
//! `hdrhistogram` records through a mutable reference, or, shared, by way of a queue that allocates; its table of this
//! precision is also larger.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Buckets of each power of two: a duration is known to an eighth.
const PARTS_LOG2: u32 = 3;
const PARTS: usize = 1 << PARTS_LOG2;
/// Powers of two of nanoseconds, up to 18 minutes.
const POWERS: usize = 40;
const BUCKETS: usize = (POWERS - PARTS_LOG2 as usize + 1) * PARTS;

/// Returns the bucket of a number of nanoseconds.
#[inline]
fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < PARTS as u64 {
        return nanoseconds as usize;
    }
    let power = nanoseconds.ilog2();
    let part = (nanoseconds >> (power - PARTS_LOG2)) as usize - PARTS;
    ((power - PARTS_LOG2 + 1) as usize * PARTS + part).min(BUCKETS - 1)
}

/// Returns the largest number of nanoseconds in a bucket.
fn largest(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, (bucket % PARTS) as u64);
    match power.checked_sub(1) {
        None => part,
        Some(shift) => ((PARTS as u64 + part + 1) << shift) - 1,
    }
}

/// A histogram that one thread records into.
pub(crate) struct Recorder {
    buckets: Box<[AtomicU64]>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Recorder {
    /// Records a duration. Only one thread does.
    #[inline]
    pub(crate) fn record(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.buckets.get(bucket(nanoseconds)) {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Adds what was recorded to a snapshot.
    pub(crate) fn add_to(&self, histogram: &mut Histogram) {
        for (sum, count) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.load(Ordering::Relaxed);
        }
    }
}

/// A histogram of durations, each known to an eighth of its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into(),
        }
    }
}

impl Histogram {
    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns a duration that this share of them, from 0 to 1, did not exceed; zero if there are none.
    pub fn percentile(&self, share: f64) -> Duration {
        let count = self.count();
        let wanted = ((count as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(largest(bucket));
            }
        }
        Duration::ZERO
    }

    /// Returns a duration that none exceeded; zero if there are none.
    pub fn max(&self) -> Duration {
        let last = self.buckets.iter().rposition(|count| *count > 0);
        last.map_or(Duration::ZERO, |bucket| {
            Duration::from_nanos(largest(bucket))
        })
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count() == 0 {
            return f.write_str("-");
        }
        write!(
            f,
            "p50 {:.1?}, p99 {:.1?}, max {:.1?}",
            self.percentile(0.5),
            self.percentile(0.99),
            self.max()
        )
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Histogram {
    /// Serialises the number of durations, and percentiles in nanoseconds.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let nanoseconds =
            |share| u64::try_from(self.percentile(share).as_nanos()).unwrap_or(u64::MAX);
        let mut fields = serializer.serialize_struct("Histogram", 6)?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("p50_ns", &nanoseconds(0.5))?;
        fields.serialize_field("p90_ns", &nanoseconds(0.9))?;
        fields.serialize_field("p99_ns", &nanoseconds(0.99))?;
        fields.serialize_field("p999_ns", &nanoseconds(0.999))?;
        fields.serialize_field("max_ns", &nanoseconds(1.0))?;
        fields.end()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_holds_its_numbers_to_an_eighth(nanoseconds in 0u64..1 << POWERS) {
            let bucket = bucket(nanoseconds);
            let most = largest(bucket);
            prop_assert!(nanoseconds <= most);
            prop_assert!(most - nanoseconds <= nanoseconds / 8);
            prop_assert!(bucket == 0 || largest(bucket - 1) < nanoseconds);
        }

        #[test]
        fn percentiles_are_those_of_a_sorted_list(
            mut list in prop::collection::vec(0u64..1 << 36, 1..200),
            share in 0.0f64..=1.0,
        ) {
            let recorder = Recorder::default();
            for nanoseconds in &list {
                recorder.record(Duration::from_nanos(*nanoseconds));
            }
            let mut histogram = Histogram::default();
            recorder.add_to(&mut histogram);
            list.sort_unstable();
            let rank = ((list.len() as f64 * share).ceil() as usize).max(1);
            let exact = list[rank - 1];
            let found = histogram.percentile(share).as_nanos() as u64;
            prop_assert!(exact <= found && found - exact <= exact / 8);
            prop_assert_eq!(histogram.count(), list.len() as u64);
        }
    }

    #[test]
    fn the_longest_durations_go_into_the_last_bucket() {
        let recorder = Recorder::default();
        recorder.record(Duration::MAX);
        let mut histogram = Histogram::default();
        recorder.add_to(&mut histogram);
        assert_eq!(histogram.count(), 1);
        assert!(histogram.max() >= Duration::from_secs(1000));
    }
}
