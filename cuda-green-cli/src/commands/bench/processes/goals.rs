//! The goals that were set before the measurement, and what came of them.

use super::{
    figures::{ProcessFigures, Row},
    placements::Placement,
    protocol::FloodKind,
};
use crate::commands::bench::goal::Goal;

/// Returns all goals, for a run's figures.
pub fn goals(figures: &ProcessFigures) -> Vec<Goal> {
    let goal = |what: &str, found, bound| Goal {
        what: what.to_owned(),
        found,
        or_more: false,
        bound,
        at_most: true,
    };
    let beside = |placement| figures.row(placement, Some(FloodKind::Blocks));
    let green = beside(Placement::MpsGreen);
    let p99 = |row: &Row| row.p99_us.median;
    let percentages = beside(Placement::MpsPercentages).map(p99);
    let to_percentages = || Some(p99(green?) / percentages?);
    let mut goals = vec![
        goal(
            "MPS, green contexts, 2 ms blocks: p99 / alone",
            green.and_then(|row| Some(row.p99_to_alone.as_ref()?.median)),
            1.05,
        ),
        goal(
            "the same p99 / that by thread percentages",
            to_percentages(),
            1.0,
        ),
        goal(
            "a join beyond creating the context, ms",
            figures
                .join
                .as_ref()
                .and_then(|join| Some(join.beyond_us? / 1e3)),
            2.0,
        ),
    ];
    if let Some(change) = &figures.change {
        let found = change.change_us.median / 1e3;
        goals.push(goal("a change of the plan, idle, ms", Some(found), 10.0));
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::found::Found;
    use crate::commands::bench::processes::{
        figures::{Change, Join, Setting, compare},
        pair::{Joins, Once},
    };

    fn row(placement: Placement, flood: Option<FloodKind>, p99s: [f64; 3]) -> Row {
        let once = |time| Once {
            times: vec![time],
            ..Once::default()
        };
        Row::of(placement, flood, [32, 100], p99s.map(once).into())
    }

    fn figures(rows: Vec<Row>) -> ProcessFigures {
        ProcessFigures {
            setting: Setting {
                repeats: 3,
                seconds: 0.0,
                request: String::new(),
                blocks: String::new(),
                matrix: None,
                thread_percentages: [25, 75],
            },
            rows,
            join: None,
            change: None,
            skipped: Vec::new(),
            failed: Vec::new(),
            goals: Vec::new(),
        }
    }

    #[test]
    fn a_goal_is_of_the_rows_that_it_names() {
        let blocks = Some(FloodKind::Blocks);
        let mut rows = vec![
            row(Placement::MpsGreen, None, [100.0, 110.0, 100.0]),
            row(Placement::MpsGreen, blocks, [104.0, 110.0, 120.0]),
            row(Placement::MpsGreen, Some(FloodKind::Matrix), [900.0; 3]),
            row(Placement::MpsPercentages, blocks, [220.0, 200.0, 240.0]),
        ];
        compare(&mut rows);
        let mut found = figures(rows);
        let joins = Joins {
            join: vec![4e6, 3e6, 2e6],
            create: vec![1e6; 3],
        };
        found.join = Some(Join::of(&joins, false));
        let reached = |figures: &ProcessFigures| -> Vec<_> {
            let goals = goals(figures);
            goals
                .iter()
                .map(|goal| (goal.found, goal.is_met()))
                .collect()
        };
        let half = 110.0 / 220.0;
        let expected = [(Some(1.04), true), (Some(half), true), (Some(2.0), true)];
        assert_eq!(reached(&found), expected);
        found.change = Some(Change {
            change_us: Found::of(vec![12e3]),
        });
        assert_eq!(reached(&found)[3], (Some(12.0), false));
        assert_eq!(reached(&figures(Vec::new())), [(None, false); 3]);
    }
}
