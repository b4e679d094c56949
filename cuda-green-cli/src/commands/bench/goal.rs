//! A goal that was set before a measurement, and what came of it.

use serde::{Deserialize, Serialize};

use super::run::NO_RATIOS;
use crate::render::page::printable_line;

/// A goal and the figure that it is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    pub what: String,
    /// None if it could not be measured.
    pub found: Option<f64>,
    /// Whether the true figure is at least what was found: where the figure is a ratio to nothing.
    #[serde(default)]
    pub or_more: bool,
    pub bound: f64,
    /// Whether the figure must be at most the bound, and not at least.
    pub at_most: bool,
}

impl Goal {
    pub fn is_met(&self) -> bool {
        self.found.is_some_and(|found| match self.at_most {
            true => found <= self.bound,
            false => found >= self.bound,
        })
    }

    /// Returns its line of a table.
    pub fn line(&self) -> String {
        let more = if self.or_more { "≥ " } else { "" };
        let found = self
            .found
            .map_or("–".to_owned(), |found| format!("{more}{found:.2}"));
        let sign = if self.at_most { "≤" } else { "≥" };
        let missed = if self.is_met() { "" } else { ", missed" };
        let what = printable_line(&self.what);
        format!("{what:<52} {found:>8} {sign} {:.2}{missed}", self.bound)
    }
}

/// Returns the table of goals, each on a line of its own; that a simulation has none where there are none.
pub fn table(goals: &[Goal]) -> String {
    if goals.is_empty() {
        return format!("\n{NO_RATIOS}");
    }
    let mut table = format!("\n{:<52} {:>8}", "goal", "found");
    for goal in goals {
        table += &format!("\n{}", goal.line());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_met() {
        for at_most in [true, false] {
            let goal = |found| Goal {
                what: String::new(),
                found,
                or_more: false,
                bound: 1.0,
                at_most,
            };
            assert!(!goal(None).is_met());
            assert!(goal(Some(1.0)).is_met());
            assert_eq!(goal(Some(2.0)).is_met(), !at_most);
        }
    }
}
