//! The goals that were set before the measurement, and what came of them.

use super::{
    elastic::ElasticFigures,
    figures::{Ratios, Row, WithinBound},
    floods::FloodKind,
    placements::Placement,
    several_gpus::ReplicasRow,
};
use crate::commands::bench::goal::Goal;

/// Returns all goals, for a run's figures.
pub fn goals(
    one_caller: &[Row],
    within_bound: &[WithinBound],
    elastic: &ElasticFigures,
) -> Vec<Goal> {
    use FloodKind::{Bulk, Copies, Matrix, Training};
    let mut goals = Vec::new();
    let mut goal = |what: String, found, bound, at_most| {
        goals.push(Goal {
            what,
            found,
            or_more: false,
            bound,
            at_most,
        });
    };
    let row = |flood| {
        let mut rows = one_caller.iter();
        rows.find(|row| row.is(Placement::Partitions, Some(flood)))
    };
    for (flood, bound) in [(Matrix, 0.25), (Bulk, 0.25), (Copies, 0.4)] {
        let found = row(flood).and_then(|row| Some(row.latencies.p99_us? / 1e3));
        goal(
            format!("p99 beside {}, ms", flood.name()),
            found,
            bound,
            true,
        );
    }
    let mut ratio =
        |what: &str, floods: &[FloodKind], bound, at_most, of: fn(&Ratios) -> Option<f64>| {
            for flood in floods {
                let found = row(*flood).and_then(|row| of(&row.ratios?));
                goal(what.replace("{}", flood.name()), found, bound, at_most);
            }
        };
    let computing = [Matrix, Training, Bulk];
    ratio(
        "p99 beside {} / alone in the partition",
        &computing,
        1.25,
        true,
        |ratios| ratios.p99_to_partition,
    );
    ratio(
        "the same at one clock, {}",
        &computing,
        1.08,
        true,
        |ratios| ratios.p99_to_partition_at_its_clock,
    );
    ratio(
        "p99 beside {} / alone on the whole GPU",
        &computing,
        1.3,
        true,
        |ratios| ratios.p99_to_whole_gpu,
    );
    ratio("background kept, {}", &computing, 0.72, false, |ratios| {
        ratios.background_kept
    });
    ratio(
        "p99 beside {} / alone in the partition",
        &[Copies],
        1.6,
        true,
        |ratios| ratios.p99_to_partition,
    );
    goals.push(goodput(within_bound));
    let mut of_elastic = |what: &str, found, bound, at_most| {
        goals.push(Goal {
            what: what.to_owned(),
            found,
            or_more: false,
            bound,
            at_most,
        });
    };
    let (bulk, first) = (elastic.bulk_to_whole_gpu, elastic.first_to_usual_p99);
    of_elastic(
        "elastic: bulk without queries / whole GPU",
        bulk,
        0.95,
        false,
    );
    of_elastic("elastic: first query's p99 / the usual", first, 2.0, true);
    goals
}

/// Returns the goal for a service on two GPUs.
pub fn two_gpus(row: &ReplicasRow) -> Goal {
    Goal {
        what: "bulk embedding on two GPUs / one".to_owned(),
        found: row.bulk_to_one,
        or_more: false,
        bound: 1.9,
        at_most: false,
    }
}

/// Compares the rate within the bound with the better of plain streams and priorities. Where neither keeps the bound at
/// any rate, with the lowest rate that was tried: the true ratio is higher.
fn goodput(within_bound: &[WithinBound]) -> Goal {
    let of = |placement| within_bound.iter().find(|row| row.placement == placement);
    let own = of(Placement::Partitions);
    let others = [Placement::PlainStreams, Placement::Priorities].map(of);
    let best = others
        .iter()
        .flatten()
        .map(|row| row.per_s)
        .reduce(f64::max);
    let (found, or_more) = match (own, best) {
        (Some(own), Some(best)) if best > 0.0 => (Some(own.per_s / best), false),
        (Some(own), Some(_)) if own.lowest_per_s > 0.0 => {
            (Some(own.per_s / own.lowest_per_s), own.per_s > 0.0)
        }
        _ => (None, false),
    };
    Goal {
        what: "queries/s at p99 ≤ 5 ms / the better of both streams".to_owned(),
        found,
        or_more,
        bound: 10.0,
        at_most: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(own: f64, plain: f64, priorities: f64) -> Vec<WithinBound> {
        let row = |placement, per_s| WithinBound {
            placement,
            p99_bound_ms: 5.0,
            per_s,
            lowest_per_s: 100.0,
        };
        vec![
            row(Placement::PlainStreams, plain),
            row(Placement::Priorities, priorities),
            row(Placement::Partitions, own),
        ]
    }

    #[test]
    fn a_rate_is_held_against_the_better_of_both() {
        let found = |own, plain, priorities| {
            let goal = goodput(&rates(own, plain, priorities));
            (goal.found, goal.or_more, goal.is_met())
        };
        assert_eq!(found(9_000.0, 300.0, 900.0), (Some(10.0), false, true));
        assert_eq!(found(9_000.0, 1_000.0, 0.0), (Some(9.0), false, false));
        assert_eq!(found(9_000.0, 0.0, 0.0), (Some(90.0), true, true));
        assert_eq!(found(0.0, 0.0, 0.0), (Some(0.0), false, false));
        assert_eq!(goodput(&[]).found, None);
    }
}
