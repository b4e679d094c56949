//! What is told of many measured times: their percentiles.

use serde_json::{Value, json};

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

    /// The time below or at which this share of all lies; 0 where nothing was measured.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        let index = rank.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(index).copied().unwrap_or_default()
    }

    /// The whole distribution in steps of half a percent, the largest at the end.
    pub fn percentiles(&self) -> Vec<f64> {
        (1..=200)
            .map(|step| self.at(f64::from(step) / 200.0))
            .collect()
    }

    /// Times in microseconds as JSON, the whole distribution in steps of half a percent.
    pub fn microseconds(&self) -> Value {
        // A timer's nanosecond is the most that is known.
        let rounded = |time: f64| (time * 1e3).round() / 1e3;
        let at = |share| rounded(self.at(share));
        let curve: Vec<f64> = self.percentiles().into_iter().map(rounded).collect();
        json!({
            "requests": self.len(), "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99),
            "max_us": at(1.0), "percentiles_by_half_us": curve,
        })
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
        assert_eq!(Samples::of(Vec::new()).at(0.5), 0.0);
    }
}
