//! Times of round trips, and figures of several repeats.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use crate::commands::bench::found::Found;
use crate::commands::bench::samples::by_half;

/// The longest time that is told from longer ones, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// The significant figures of a time.
const FIGURES: u8 = 3;

/// Times in nanoseconds.
pub struct Times(Histogram<u64>);

impl Times {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST, FIGURES)?))
    }

    pub fn of(nanoseconds: impl IntoIterator<Item = u64>) -> anyhow::Result<Self> {
        let mut times = Self::new()?;
        nanoseconds.into_iter().for_each(|time| times.add(time));
        Ok(times)
    }

    pub fn add(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Adds another's times.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns the microseconds at or below which this share of all lies; 0 if nothing was measured.
    pub fn at(&self, share: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        self.0.value_at_quantile(share).min(self.0.max()) as f64 / 1e3
    }
}

/// The times of round trips, over all repeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trips {
    pub trips: u64,
    pub p50_us: Found,
    pub p99_us: Found,
    pub max_us: f64,
    /// The distribution of all repeats together, in steps of half a percent.
    pub percentiles_by_half_us: Vec<f64>,
}

impl Trips {
    pub fn of(repeats: &[&Times]) -> anyhow::Result<Self> {
        let mut all = Times::new()?;
        for times in repeats {
            all.merge(times)?;
        }
        let each = |share| Found::of(repeats.iter().map(|times| times.at(share)).collect());
        Ok(Self {
            trips: all.len(),
            p50_us: each(0.5),
            p99_us: each(0.99),
            max_us: all.at(1.0),
            percentiles_by_half_us: by_half(|share| all.at(share)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds_and_the_largest_is_the_largest() {
        let times = |from: u64| Times::of((from..from + 100).map(|time| time * 1_000)).unwrap();
        let trips = Trips::of(&[&times(1), &times(101), &times(201)]).unwrap();
        assert_eq!(trips.trips, 300);
        let near =
            |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 2e-3, "{found}");
        near(trips.p50_us.median, 150.0);
        near(trips.p99_us.repeats[0], 99.0);
        near(trips.max_us, 300.0);
        near(trips.percentiles_by_half_us[99], 150.0);
        assert_eq!(Times::new().unwrap().at(0.5), 0.0);
    }
}
