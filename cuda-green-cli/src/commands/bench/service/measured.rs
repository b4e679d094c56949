//! What was measured so far, over all repeats.

use std::time::Duration;

use super::{
    figures::{Capacity, Latencies, OpenRow, Row, max_us, microseconds},
    floods::FloodKind,
    outcome::{Outcome, quantile},
    placements::Home,
    turns::{SetUp, set_ups},
};
use crate::commands::bench::watch::{Readings, Sum};

/// The pace of a flood, and the GPU's state.
#[derive(Clone, Copy, Default)]
pub struct Pace {
    pub per_s: f64,
    pub readings: Option<Readings>,
}

/// The answers by set-up and rate, and the floods' paces alone.
pub struct Measured {
    pub capacity: Vec<Capacity>,
    cells: Vec<Cell>,
    paces: Vec<(FloodKind, Home, Mean)>,
}

/// A rate of arrivals.
#[derive(Clone, Copy)]
pub struct Rate {
    /// Its place among the rates of its set-up.
    pub place: usize,
    pub per_s: f64,
}

/// One set-up at one rate of arrivals, or with one caller.
struct Cell {
    set_up: SetUp,
    rate: Option<Rate>,
    all: Outcome,
    p99_of_repeats: Vec<Option<Duration>>,
    pace: Mean,
}

#[derive(Default)]
struct Mean {
    per_s: f64,
    count: u32,
    readings: Sum,
}

impl Mean {
    fn add(&mut self, per_s: f64, readings: Option<Readings>) {
        self.per_s += per_s;
        self.count += 1;
        self.readings.add(readings);
    }

    fn get(&self) -> Pace {
        Pace {
            per_s: self.per_s / f64::from(self.count.max(1)),
            readings: self.readings.mean(),
        }
    }
}

/// Returns the name of a set-up.
pub fn name((placement, flood): SetUp) -> String {
    match flood {
        Some(flood) => format!("{}, {}", flood.name(), placement.name()),
        None => placement.name().to_owned(),
    }
}

impl Measured {
    pub fn new(capacity: Vec<Capacity>) -> Self {
        Self {
            capacity,
            cells: Vec::new(),
            paces: Vec::new(),
        }
    }

    /// Adds the pace of a flood alone.
    pub fn add_pace(&mut self, flood: FloodKind, home: Home, pace: Pace) {
        let found = self
            .paces
            .iter_mut()
            .find(|(of, at, _)| (*of, *at) == (flood, home));
        if let Some((_, _, mean)) = found {
            mean.add(pace.per_s, pace.readings);
            return;
        }
        let mut mean = Mean::default();
        mean.add(pace.per_s, pace.readings);
        self.paces.push((flood, home, mean));
    }

    /// Returns the pace of a flood alone.
    pub fn pace(&self, flood: FloodKind, home: Home) -> Pace {
        let found = self
            .paces
            .iter()
            .find(|(of, at, _)| (*of, *at) == (flood, home));
        found.map(|(_, _, mean)| mean.get()).unwrap_or_default()
    }

    /// Adds the answers of a set-up at a rate, or to one caller, and the flood's pace meanwhile.
    pub fn add(
        &mut self,
        set_up: SetUp,
        rate: Option<Rate>,
        (found, per_s): (Outcome, Option<f64>),
        readings: Option<Readings>,
    ) -> anyhow::Result<()> {
        let place = |rate: Option<Rate>| rate.map(|rate| rate.place);
        let is_own = |cell: &Cell| (cell.set_up, place(cell.rate)) == (set_up, place(rate));
        let index = match self.cells.iter().position(is_own) {
            Some(index) => index,
            None => {
                self.cells.push(Cell {
                    set_up,
                    rate,
                    all: Outcome::new(Duration::ZERO)?,
                    p99_of_repeats: Vec::new(),
                    pace: Mean::default(),
                });
                self.cells.len() - 1
            }
        };
        if let Some(cell) = self.cells.get_mut(index) {
            cell.all.add_run(&found)?;
            cell.p99_of_repeats.push(found.at(0.99));
            cell.pace.add(per_s.unwrap_or_default(), readings);
        }
        Ok(())
    }

    pub fn one_caller(&self) -> Vec<Row> {
        let cells = self.sorted().into_iter();
        cells
            .filter(|cell| cell.rate.is_none())
            .map(Cell::row)
            .collect()
    }

    pub fn open_loop(&self) -> Vec<OpenRow> {
        let cells = self.sorted().into_iter();
        cells
            .filter_map(|cell| {
                let offered_per_s = cell.rate?.per_s;
                let goodput = |ms| cell.all.goodput(Duration::from_millis(ms));
                let lateness = &cell.all.lateness;
                Some(OpenRow {
                    offered_per_s,
                    within_5_ms_per_s: goodput(5),
                    within_10_ms_per_s: goodput(10),
                    within_50_ms_per_s: goodput(50),
                    lateness_p99_us: quantile(lateness, 0.99).map_or(0.0, microseconds),
                    lateness_max_us: max_us(lateness),
                    background_kept: None,
                    row: cell.row(),
                })
            })
            .collect()
    }

    /// Returns the cells in the order of set-ups and rates, whatever was measured first.
    fn sorted(&self) -> Vec<&Cell> {
        let order = set_ups();
        let mut cells: Vec<_> = self.cells.iter().collect();
        cells.sort_by_key(|cell| {
            let set_up = order.iter().position(|set_up| *set_up == cell.set_up);
            (set_up, cell.rate.map(|rate| rate.place))
        });
        cells
    }
}

impl Cell {
    fn row(&self) -> Row {
        let (placement, flood) = self.set_up;
        let pace = self.pace.get();
        Row {
            placement,
            flood,
            latencies: Latencies::of(&self.all, &self.p99_of_repeats),
            flood_per_s: flood.map(|_| pace.per_s),
            readings: pace.readings,
            ratios: None,
        }
    }
}
