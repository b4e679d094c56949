//! The figures of a run, as its JSON has them.

use serde::{Deserialize, Serialize};

use super::{
    pair::{Joins, Once},
    placements::Placement,
    protocol::FloodKind,
};
use crate::{
    commands::bench::{
        found::Found,
        goal::Goal,
        run::Drawn,
        samples::{Samples, by_half},
        watch::{Readings, Sum},
    },
    render::svg::Curve,
};

#[derive(Serialize, Deserialize)]
pub struct ProcessFigures {
    pub setting: Setting,
    pub rows: Vec<Row>,
    /// None where it could not be measured.
    pub join: Option<Join>,
    /// None where the plan does not change.
    #[serde(default)]
    pub change: Option<Change>,
    /// What could not be measured here, and why.
    #[serde(default)]
    pub skipped: Vec<String>,
    /// What failed, and how: a defect.
    #[serde(default)]
    pub failed: Vec<String>,
    /// Empty on a simulated driver.
    #[serde(default)]
    pub goals: Vec<Goal>,
}

/// The extent of the run, and what was run.
#[derive(Serialize, Deserialize)]
pub struct Setting {
    pub repeats: usize,
    pub seconds: f64,
    pub request: String,
    pub blocks: String,
    /// None if there were no products.
    pub matrix: Option<String>,
    pub thread_percentages: [u32; 2],
}

/// A placement, alone or beside a flood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub placement: Placement,
    pub flood: Option<FloodKind>,
    /// The SMs of the request and of the flood.
    pub sm_counts: [u32; 2],
    pub requests: usize,
    pub p50_us: Found,
    pub p99_us: Found,
    pub max_us: f64,
    /// The distribution of all repeats together, in steps of half a percent.
    pub percentiles_by_half_us: Vec<f64>,
    /// The p99 beside the flood as a multiple of the p99 alone in the same placement, of each repeat. None on a simulated
    /// driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_to_alone: Option<Found>,
    /// The flood's pace in its SMs without requests, and beside them: blocks or products a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flood_alone_per_s: Option<Found>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flood_beside_per_s: Option<Found>,
    /// The GPU while the requests ran; none without NVML.
    #[serde(flatten)]
    pub readings: Option<Readings>,
}

/// A join beside a plan in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    /// Joins with one name, and the first of them.
    pub join_us: Found,
    pub first_us: f64,
    /// Creations of a context over as many SMs.
    pub create_us: Found,
    /// What the median join takes beyond the median creation. None on a simulated driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond_us: Option<f64>,
}

/// A change of the plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// From the call until both processes run on their new SMs.
    pub change_us: Found,
}

impl Row {
    /// Returns the row of what all rounds found.
    pub fn of(
        placement: Placement,
        flood: Option<FloodKind>,
        sm_counts: [u32; 2],
        rounds: Vec<Once>,
    ) -> Self {
        let mut readings = Sum::default();
        rounds.iter().for_each(|once| readings.add(once.readings));
        let paces: Vec<_> = rounds.iter().filter_map(|once| once.paces).collect();
        let pace = |which: usize| {
            let paces: Vec<_> = paces.iter().map(|paces| paces[which]).collect();
            (!paces.is_empty()).then(|| Found::of(paces))
        };
        let (flood_alone_per_s, flood_beside_per_s) = (pace(0), pace(1));
        let samples: Vec<_> = rounds.into_iter().map(|once| once.times).collect();
        let all = Samples::of(samples.concat());
        let samples: Vec<_> = samples.into_iter().map(Samples::of).collect();
        let each = |share| Found::of(samples.iter().map(|times| times.at(share)).collect());
        Self {
            placement,
            flood,
            sm_counts,
            requests: all.len(),
            p50_us: each(0.5),
            p99_us: each(0.99),
            max_us: all.at(1.0),
            percentiles_by_half_us: by_half(|share| all.at(share)),
            p99_to_alone: None,
            flood_alone_per_s,
            flood_beside_per_s,
            readings: readings.mean(),
        }
    }

    /// Returns the share of its pace that the flood keeps beside requests.
    pub fn flood_kept(&self) -> Option<f64> {
        let [alone, beside] = [&self.flood_alone_per_s, &self.flood_beside_per_s];
        let (alone, beside) = (alone.as_ref()?.median, beside.as_ref()?.median);
        (alone > 0.0).then(|| beside / alone)
    }
}

impl Join {
    pub fn of(joins: &Joins, is_simulated: bool) -> Self {
        let found =
            |nanoseconds: &[f64]| Found::of(nanoseconds.iter().map(|ns| ns / 1e3).collect());
        let (join_us, create_us) = (found(&joins.join), found(&joins.create));
        Self {
            first_us: join_us.repeats.first().copied().unwrap_or_default(),
            beyond_us: (!is_simulated).then_some(join_us.median - create_us.median),
            join_us,
            create_us,
        }
    }
}

impl ProcessFigures {
    pub fn row(&self, placement: Placement, flood: Option<FloodKind>) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| (row.placement, row.flood) == (placement, flood))
    }
}

/// Compares each row beside a flood with the same placement alone, round by round.
pub fn compare(rows: &mut [Row]) {
    let alone: Vec<_> = rows
        .iter()
        .filter(|row| row.flood.is_none())
        .map(|row| (row.placement, row.p99_us.repeats.clone()))
        .collect();
    for row in rows.iter_mut().filter(|row| row.flood.is_some()) {
        let found = alone
            .iter()
            .find(|(placement, _)| *placement == row.placement);
        let Some((_, alone)) = found else { continue };
        let rounds = row.p99_us.repeats.iter().zip(alone);
        let ratios: Vec<_> = rounds.map(|(beside, alone)| beside / alone).collect();
        row.p99_to_alone = Some(Found::of(ratios));
    }
}

/// The curves, from the project's own way to what it is compared with.
const SHOWN: [(Placement, bool, &str); 6] = [
    (Placement::MpsGreen, true, "MPS, green contexts"),
    (Placement::MpsGreen, false, "alone in these SMs"),
    (Placement::MpsPercentages, true, "MPS, thread percentages"),
    (Placement::MpsPriorities, true, "MPS, client priorities"),
    (Placement::Mps, true, "MPS, no limits"),
    (Placement::TimeSlices, true, "time slices, no MPS"),
];

impl Drawn for ProcessFigures {
    const COMMAND: &str = "processes";
    const TITLE: &str = "A request beside another process's blocks of 2 ms";
    const OF: &str = "requests";

    fn curves(&self) -> Vec<Curve> {
        let shown = SHOWN.iter().filter_map(|(placement, is_beside, name)| {
            let row = self.row(*placement, is_beside.then_some(FloodKind::Blocks))?;
            Some(Curve::of_us(
                (*name).to_owned(),
                &row.percentiles_by_half_us,
            ))
        });
        shown.collect()
    }
}
