//! A figure of several repeats.

use serde::{Deserialize, Serialize};

/// A figure of all repeats: the median, and each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub median: f64,
    pub repeats: Vec<f64>,
}

impl Found {
    pub fn of(repeats: Vec<f64>) -> Self {
        let mut sorted = repeats.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        Self { median, repeats }
    }

    /// Returns how far the repeats lie apart, as a share of the median.
    pub fn spread(&self) -> f64 {
        let all = || self.repeats.iter().copied();
        match (all().reduce(f64::min), all().reduce(f64::max)) {
            (Some(least), Some(most)) if self.median > 0.0 => (most - least) / self.median,
            _ => 0.0,
        }
    }
}

/// Returns what figures of so many repeats are, in words.
pub fn of_repeats(repeats: usize) -> String {
    match repeats {
        1 => "1 repeat".to_owned(),
        repeats => format!("the median of {repeats} repeats"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_the_repeats_and_keeps_each() {
        let found = Found::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((found.median, found.spread()), (2.0, 1.0));
        assert_eq!(found.repeats, [3.0, 1.0, 2.0]);
        assert_eq!(
            (Found::default().median, Found::default().spread()),
            (0.0, 0.0)
        );
    }
}
