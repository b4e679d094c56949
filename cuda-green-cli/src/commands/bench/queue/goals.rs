//! The goals that were set before the measurement, and what came of them.

use super::figures::{By, QueueFigures, Row, What};
use crate::commands::bench::goal::Goal;

/// The fewest warps that are many.
const MANY: u32 = 32;

/// Returns all goals, for a run's figures.
pub fn goals(figures: &QueueFigures) -> Vec<Goal> {
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
    let p50 = |what, by| figures.of(what, by).next().and_then(p50);
    let floor = p50(What::PingPong, By::Raw);
    let own = figures.of(What::Inline, By::Queue).next();
    let to = |found: Option<f64>, floor: Option<f64>| Some(found? / floor?);
    goal(
        "empty task and answer, p50 / ping-pong".to_owned(),
        to(own.and_then(self::p50), floor),
        1.25,
        true,
    );
    goal(
        "empty task and answer, p99 / ping-pong".to_owned(),
        to(own.and_then(p99), floor),
        2.0,
        true,
    );
    let one: Vec<_> = rates(figures, What::OneWay, 1, 1);
    let (least, best) = (least(&one), one.iter().copied().reduce(f64::max));
    goal(
        "one lane, 32 warps or more, M/s".to_owned(),
        least,
        3.0,
        false,
    );
    goal(
        "the same, least / best".to_owned(),
        to(least, best),
        0.8,
        false,
    );
    for (what, name, bound) in [
        (What::OneWay, "four lanes", 8.0),
        (What::WarpWide, "four lanes, warp-wide", 30.0),
    ] {
        for threads in [1, 4] {
            let found = self::least(&rates(figures, what, 4, threads));
            goal(
                format!("{name}, {}, M/s", polling(threads)),
                found,
                bound,
                false,
            );
        }
    }
    let mut fair = figures.of(What::RoundTrip, By::Queue);
    let fair = fair.find(|row| row.shape.warps == 528);
    let fair = fair.and_then(|row| to(p99(row), self::p50(row)));
    goal("528 warps, 4 lanes, p99 / p50".to_owned(), fair, 5.0, true);
    let pointer = figures.host.iter().find(|row| row.path == "pointer");
    let pointer = pointer.map(|row| row.all_ns.median);
    goal(
        "pointer future, submitted and run, ns".to_owned(),
        pointer,
        150.0,
        true,
    );
    goal(
        "CPU to resident kernel and back / ping-pong".to_owned(),
        to(
            p50(What::Resident, By::Queue),
            p50(What::HostPingPong, By::Raw),
        ),
        1.5,
        true,
    );
    let beside = figures.beside.as_ref();
    let beside = beside.and_then(|beside| Some(beside.p99_to_alone.as_ref()?.median));
    goal(
        "p99 beside 5 M tasks/s / alone".to_owned(),
        beside,
        1.03,
        true,
    );
    let idle = figures.idle.as_ref();
    goal(
        "idle poller, % of a core".to_owned(),
        idle.map(|idle| idle.percent_of_a_core.median),
        2.0,
        true,
    );
    goal(
        "first task after idle and its answer, most, µs".to_owned(),
        idle.map(|idle| idle.first.max_us),
        100.0,
        true,
    );
    goals
}

/// Names a number of polling threads.
pub fn polling(threads: u32) -> String {
    match threads {
        1 => "1 polling thread".to_owned(),
        threads => format!("{threads} polling threads"),
    }
}

fn p50(row: &Row) -> Option<f64> {
    Some(row.trips.as_ref()?.p50_us.median)
}

fn p99(row: &Row) -> Option<f64> {
    Some(row.trips.as_ref()?.p99_us.median)
}

/// Returns the queue's rates from many warps on.
fn rates(figures: &QueueFigures, what: What, lanes: u32, threads: u32) -> Vec<f64> {
    let rows = figures.of(what, By::Queue).filter(|row| {
        row.shape.lanes == lanes && row.shape.polling_threads == threads && row.shape.warps >= MANY
    });
    rows.filter_map(|row| Some(row.m_per_s.as_ref()?.median))
        .collect()
}

fn least(rates: &[f64]) -> Option<f64> {
    rates.iter().copied().reduce(f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::queue::{
        figures::{Setting, Shape},
        times::{Found, Trips},
    };

    fn row(what: What, by: By, (lanes, warps): (u32, u32), found: [f64; 3]) -> Row {
        let [rate, p50, p99] = found.map(|figure| Found::of(vec![figure]));
        Row {
            shape: Shape {
                what,
                by,
                lanes,
                warps,
                polling_threads: 1,
            },
            tasks: 1,
            m_per_s: Some(rate),
            trips: Some(Trips {
                p50_us: p50,
                p99_us: p99,
                ..Trips::default()
            }),
        }
    }

    fn figures(rows: Vec<Row>) -> QueueFigures {
        QueueFigures {
            setting: Setting {
                cores: 1,
                depth: 1,
                payload_bytes: 1,
                repeats: 1,
                seconds: 0.0,
                readings: None,
            },
            rows,
            host: Vec::new(),
            idle: None,
            beside: None,
            skipped: Vec::new(),
            goals: Vec::new(),
        }
    }

    #[test]
    fn a_goal_is_of_the_rows_that_it_names() {
        let found = figures(vec![
            row(What::PingPong, By::Raw, (1, 1), [0.0, 3.0, 3.5]),
            row(What::Inline, By::Raw, (1, 1), [0.0, 3.6, 4.0]),
            row(What::Inline, By::Queue, (1, 1), [0.0, 3.9, 6.0]),
            row(What::OneWay, By::Queue, (1, 8), [1.0, 0.0, 0.0]),
            row(What::OneWay, By::Queue, (1, 32), [40.0, 0.0, 0.0]),
            row(What::OneWay, By::Queue, (1, 2112), [50.0, 0.0, 0.0]),
            row(What::OneWay, By::Queue, (4, 32), [90.0, 0.0, 0.0]),
            row(What::OneWay, By::Raw, (1, 2112), [0.2, 0.0, 0.0]),
            row(What::RoundTrip, By::Queue, (4, 528), [0.0, 8.0, 16.0]),
        ]);
        let goals = goals(&found);
        let of = |what: &str| {
            let goal = goals
                .iter()
                .find(|goal| goal.what.starts_with(what))
                .unwrap();
            (goal.found, goal.is_met())
        };
        assert_eq!(of("empty task and answer, p50"), (Some(3.9 / 3.0), false));
        assert_eq!(of("empty task and answer, p99"), (Some(2.0), true));
        assert_eq!(of("one lane"), (Some(40.0), true));
        assert_eq!(of("the same, least / best"), (Some(0.8), true));
        assert_eq!(of("four lanes, 1"), (Some(90.0), true));
        assert_eq!(of("four lanes, 4"), (None, false));
        assert_eq!(of("528 warps"), (Some(2.0), true));
        assert_eq!(of("pointer future"), (None, false));
    }
}
