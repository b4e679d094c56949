//! The figures of a run, as its JSON has them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    elastic::ElasticFigures,
    floods::FloodKind,
    outcome::{Outcome, Times},
    placements::Placement,
    several_gpus::ReplicasRow,
};
use crate::commands::bench::{goal::Goal, watch::Readings};

/// The bound on the p99 up to which rates count.
pub const BOUND: Duration = Duration::from_millis(5);

#[derive(Serialize, Deserialize)]
pub struct ServiceFigures {
    pub setting: Setting,
    pub floods: Vec<FloodAlone>,
    pub capacity: Vec<Capacity>,
    /// One caller, whose next request waits for the answer to the one before.
    pub one_caller: Vec<Row>,
    /// Arrivals of a Poisson process.
    pub open_loop: Vec<OpenRow>,
    /// The highest rates whose p99 keeps the bound beside matrix products, and alone.
    pub within_bound: Vec<WithinBound>,
    pub elastic: Option<ElasticFigures>,
    /// Empty on a machine with one GPU.
    #[serde(default)]
    pub several_gpus: Vec<ReplicasRow>,
    /// Empty on a simulated driver.
    #[serde(default)]
    pub goals: Vec<Goal>,
}

/// What was measured.
#[derive(Serialize, Deserialize)]
pub struct Setting {
    pub model: String,
    pub precision: String,
    pub cores: usize,
    pub partition_sms: u32,
    pub rest_sms: u32,
    /// The texts that requests take in turn, and the mean of their tokens.
    pub texts: usize,
    pub tokens_of_text: f64,
    /// The texts of a list in the bulk lane, and the mean of their tokens.
    pub texts_of_list: usize,
    pub tokens_of_list_text: f64,
    /// The threads that send requests.
    pub senders: usize,
    /// Requests of each caller on the way when the capacity is measured.
    pub on_the_way: usize,
    pub arrivals: String,
    pub repeats: usize,
    pub seconds: f64,
}

/// The pace of a flood alone on the whole GPU, and alone on the SMs that the partition leaves.
#[derive(Serialize, Deserialize)]
pub struct FloodAlone {
    pub flood: FloodKind,
    pub what: String,
    pub unit: String,
    pub whole_gpu_per_s: f64,
    pub rest_per_s: f64,
    #[serde(flatten)]
    pub readings: Option<Readings>,
}

/// What the interactive lane can do.
#[derive(Serialize, Deserialize)]
pub struct Capacity {
    pub placement: Placement,
    pub texts_per_s: f64,
}

/// The latencies of a set-up.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub placement: Placement,
    pub flood: Option<FloodKind>,
    #[serde(flatten)]
    pub latencies: Latencies,
    pub flood_per_s: Option<f64>,
    #[serde(flatten)]
    pub readings: Option<Readings>,
    /// None on a simulated driver, whose times are the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratios: Option<Ratios>,
}

/// A set-up beside itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    pub p99_to_partition: Option<f64>,
    /// The same, had the clock stayed that of the partition alone.
    pub p99_to_partition_at_its_clock: Option<f64>,
    pub p99_to_whole_gpu: Option<f64>,
    /// The flood's pace as a share of its own alone on the whole GPU.
    pub background_kept: Option<f64>,
}

/// The answers at one rate of arrivals.
#[derive(Serialize, Deserialize)]
pub struct OpenRow {
    pub offered_per_s: f64,
    pub within_5_ms_per_s: f64,
    pub within_10_ms_per_s: f64,
    pub within_50_ms_per_s: f64,
    /// How late the generator sent requests. It is part of the latencies.
    pub lateness_p99_us: f64,
    pub lateness_max_us: f64,
    /// The flood's pace as a share of its own alone on the whole GPU; none on a simulated driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_kept: Option<f64>,
    #[serde(flatten)]
    pub row: Row,
}

/// The highest rate up to which all rates kept the p99 within the bound; 0 if even the lowest did not.
#[derive(Serialize, Deserialize)]
pub struct WithinBound {
    pub placement: Placement,
    pub p99_bound_ms: f64,
    pub per_s: f64,
    /// The lowest rate that was tried.
    pub lowest_per_s: f64,
}

/// Percentiles of all requests in microseconds. A percentile is null where so many requests were refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latencies {
    pub requests: u64,
    pub refused: u64,
    pub p50_us: Option<f64>,
    pub p90_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    /// The slowest answer.
    pub max_us: f64,
    /// The p99 of each repeat.
    pub p99_of_repeats_us: Vec<Option<f64>>,
}

impl Latencies {
    /// Returns those of all repeats together.
    pub fn of(all: &Outcome, p99_of_repeats: &[Option<Duration>]) -> Self {
        let at = |share| all.at(share).map(microseconds);
        Self {
            requests: all.requests(),
            refused: all.refused,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: max_us(&all.answered),
            p99_of_repeats_us: p99_of_repeats
                .iter()
                .map(|p99| p99.map(microseconds))
                .collect(),
        }
    }
}

/// Returns a time in microseconds, rounded to nanoseconds.
pub fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// Returns the longest time.
pub fn max_us(times: &Times) -> f64 {
    times.max() as f64 / 1e3
}

impl Row {
    /// Returns whether it is of a placement and a flood.
    pub fn is(&self, placement: Placement, flood: Option<FloodKind>) -> bool {
        (self.placement, self.flood) == (placement, flood)
    }

    /// Returns the name of the set-up.
    pub fn name(&self) -> String {
        match self.flood {
            Some(flood) => format!("{}, {}", flood.name(), self.placement.name()),
            None => self.placement.name().to_owned(),
        }
    }
}

/// Compares each row with the rows alone, and each flood with its own pace alone.
pub fn compare(rows: &mut [Row], floods: &[FloodAlone]) {
    let alone = |placement| {
        let row = rows.iter().find(|row| row.is(placement, None));
        row.map(|row| (row.latencies.p99_us, row.readings))
    };
    let partition = alone(Placement::AloneInPartition);
    let whole = alone(Placement::AloneOnWholeGpu);
    for row in rows {
        row.ratios = Some(ratios(row, partition, whole, floods));
    }
}

type Alone = Option<(Option<f64>, Option<Readings>)>;

fn ratios(row: &Row, partition: Alone, whole: Alone, floods: &[FloodAlone]) -> Ratios {
    let p99 = row.latencies.p99_us;
    let to = |alone: Alone| Some(p99? / alone?.0?);
    let clock = |readings: Option<Readings>| readings.map(|readings| readings.sm_clock_mhz);
    let to_partition = to(partition);
    let slowdown = || Some(clock(partition?.1)? / clock(row.readings)?);
    Ratios {
        p99_to_partition: to_partition,
        p99_to_partition_at_its_clock: to_partition
            .zip(slowdown())
            .map(|(ratio, slowdown)| ratio / slowdown),
        p99_to_whole_gpu: to(whole),
        background_kept: background_kept(row, floods),
    }
}

/// Returns a flood's pace beside requests as a share of its own alone on the whole GPU.
pub fn background_kept(row: &Row, floods: &[FloodAlone]) -> Option<f64> {
    let alone = floods.iter().find(|alone| Some(alone.flood) == row.flood)?;
    Some(row.flood_per_s? / alone.whole_gpu_per_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::service::outcome::record;

    fn row(placement: Placement, flood: Option<FloodKind>, us: u64, clock: f64) -> Row {
        let mut outcome = Outcome::new(Duration::from_secs(1)).unwrap();
        record(&mut outcome.answered, Duration::from_micros(us));
        Row {
            placement,
            flood,
            latencies: Latencies::of(&outcome, &[outcome.at(0.99)]),
            flood_per_s: flood.map(|_| 450.0),
            readings: Some(Readings {
                sm_clock_mhz: clock,
                watts: 700.0,
            }),
            ratios: None,
        }
    }

    #[test]
    fn rows_are_held_against_the_queries_and_the_flood_alone() {
        let matrix = Some(FloodKind::Matrix);
        let mut rows = [
            row(Placement::AloneOnWholeGpu, None, 100, 2_000.0),
            row(Placement::AloneInPartition, None, 120, 2_000.0),
            row(Placement::Partitions, matrix, 150, 1_600.0),
        ];
        let floods = [FloodAlone {
            flood: FloodKind::Matrix,
            what: String::new(),
            unit: String::new(),
            whole_gpu_per_s: 600.0,
            rest_per_s: 500.0,
            readings: None,
        }];
        compare(&mut rows, &floods);
        let ratios = rows[2].ratios.unwrap();
        let near = |found: Option<f64>, expected: f64| {
            assert!((found.unwrap() / expected - 1.0).abs() < 2e-3, "{found:?}");
        };
        near(ratios.p99_to_partition, 1.25);
        // At 2,000 MHz, the 150 µs at 1,600 MHz would be 120.
        near(ratios.p99_to_partition_at_its_clock, 1.0);
        near(ratios.p99_to_whole_gpu, 1.5);
        near(ratios.background_kept, 0.75);
        assert_eq!(rows[0].ratios.unwrap().background_kept, None);
        near(rows[1].ratios.unwrap().p99_to_partition, 1.0);
    }

    #[test]
    fn without_a_clock_there_is_no_ratio_at_its_clock() {
        let mut rows = [
            row(Placement::AloneInPartition, None, 120, 2_000.0),
            row(Placement::Partitions, Some(FloodKind::Matrix), 150, 1_600.0),
        ];
        rows[1].readings = None;
        compare(&mut rows, &[]);
        let ratios = rows[1].ratios.unwrap();
        assert!(ratios.p99_to_partition.is_some());
        assert_eq!(ratios.p99_to_partition_at_its_clock, None);
        assert_eq!(
            (ratios.p99_to_whole_gpu, ratios.background_kept),
            (None, None)
        );
    }
}
