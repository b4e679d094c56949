//! Percentiles of measured times.

use serde::{Deserialize, Serialize};

use crate::render::{duration::duration, svg::Curve};

/// Measured times in one unit, sorted.
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the time at or below which this share of all lies; 0 if nothing was measured.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        let index = rank.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(index).copied().unwrap_or_default()
    }

    /// Returns times in microseconds as nanoseconds.
    #[cfg(feature = "queue")]
    pub fn nanoseconds(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|time| (time * 1e3) as u64)
    }

    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    /// Returns the same, rounded to the resolution of the timer.
    fn rounded(&self, share: f64) -> f64 {
        (self.at(share) * 1e3).round() / 1e3
    }

    /// Returns the distribution in steps of half a percent, with the largest at the end.
    fn by_half(&self) -> Vec<f64> {
        by_half(|share| self.rounded(share))
    }
}

/// Returns a distribution in steps of half a percent, given the time at each share of all.
pub fn by_half(at: impl Fn(f64) -> f64) -> Vec<f64> {
    (1..=200).map(|step| at(f64::from(step) / 200.0)).collect()
}

/// The latencies of requests, in microseconds.
#[derive(Serialize, Deserialize)]
pub struct Latencies {
    pub requests: usize,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub percentiles_by_half_us: Vec<f64>,
}

impl From<Samples> for Latencies {
    fn from(samples: Samples) -> Self {
        Self {
            requests: samples.len(),
            p50_us: samples.rounded(0.5),
            p90_us: samples.rounded(0.9),
            p99_us: samples.rounded(0.99),
            max_us: samples.rounded(1.0),
            percentiles_by_half_us: samples.by_half(),
        }
    }
}

/// The times of single calls, in nanoseconds.
#[derive(Serialize, Deserialize)]
pub struct Distribution {
    pub samples: usize,
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub p999_ns: f64,
    pub max_ns: f64,
    pub percentiles_by_half_ns: Vec<f64>,
}

impl Distribution {
    /// Returns the headings of [`columns`](Self::columns).
    pub fn headings() -> String {
        let [p50, p99, p999, max] = ["p50", "p99", "p99.9", "max"];
        format!("{p50:>9} {p99:>9} {p999:>9} {max:>9}")
    }

    pub fn columns(&self) -> String {
        let times = [self.p50_ns, self.p99_ns, self.p999_ns, self.max_ns];
        let [p50, p99, p999, max] = times.map(duration);
        format!("{p50:>9} {p99:>9} {p999:>9} {max:>9}")
    }

    pub fn curve(&self, name: &str) -> Curve {
        Curve {
            name: name.to_owned(),
            nanoseconds: self.percentiles_by_half_ns.clone(),
        }
    }
}

impl From<Samples> for Distribution {
    fn from(samples: Samples) -> Self {
        Self {
            samples: samples.len(),
            p50_ns: samples.rounded(0.5),
            p99_ns: samples.rounded(0.99),
            p999_ns: samples.rounded(0.999),
            max_ns: samples.rounded(1.0),
            percentiles_by_half_ns: samples.by_half(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let samples = Samples::of((1..=200).rev().map(f64::from).collect());
        assert_eq!(
            [0.0, 0.005, 0.5, 0.99, 1.0].map(|share| samples.at(share)),
            [1.0, 1.0, 100.0, 198.0, 200.0]
        );
        assert_eq!(samples.mean(), 100.5);
        let nothing = Samples::of(Vec::new());
        assert_eq!((nothing.at(0.5), nothing.mean()), (0.0, 0.0));
    }

    #[test]
    fn a_distribution_keeps_its_percentiles() {
        let samples = || Samples::of((1..=2000).map(f64::from).collect());
        let times = Distribution::from(samples());
        assert_eq!(
            (times.p50_ns, times.p99_ns, times.p999_ns, times.max_ns),
            (1000.0, 1980.0, 1998.0, 2000.0)
        );
        assert_eq!(times.percentiles_by_half_ns.len(), 200);
        assert_eq!(times.percentiles_by_half_ns[0], 10.0);
        let latencies = Latencies::from(samples());
        assert_eq!((latencies.requests, latencies.p90_us), (2000, 1800.0));
    }
}
