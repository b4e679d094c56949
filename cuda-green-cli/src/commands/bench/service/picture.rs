//! The figures as a picture: the p99 by the rate of queries, for each placement beside matrix products.

use super::{
    figures::{BOUND, OpenRow, ServiceFigures},
    floods::FloodKind,
    placements::Placement,
};
use crate::{
    commands::bench::run::Drawn,
    render::svg::{
        Curve,
        rates::{RateCurve, RatePicture, by_rate},
    },
};

/// The curves, from the project's own way to what it is compared with.
const SHOWN: [(Placement, Option<FloodKind>); 5] = [
    (Placement::Partitions, Some(FloodKind::Matrix)),
    (Placement::AloneInPartition, None),
    (Placement::PlainStreams, Some(FloodKind::Matrix)),
    (Placement::Priorities, Some(FloodKind::Matrix)),
    (Placement::FloodInPrimary, Some(FloodKind::Matrix)),
];

impl Drawn for ServiceFigures {
    const COMMAND: &str = "service";
    const TITLE: &str = "A query beside matrix products that flood the GPU";
    const OF: &str = "queries";

    fn curves(&self) -> Vec<Curve> {
        Vec::new()
    }

    fn draw(&self, title: &str, caveat: Option<&str>) -> anyhow::Result<String> {
        let curves: Vec<_> = SHOWN
            .into_iter()
            .map(|(placement, flood)| self.curve(placement, flood))
            .collect();
        by_rate(&RatePicture {
            title,
            rates: "queries a second, as a Poisson process",
            latencies: "p99 from arrival to vector (log scale)",
            bound: BOUND.as_nanos() as f64,
            note: "A curve ends where queries are refused.",
            caveat,
            curves: &curves,
        })
    }
}

impl ServiceFigures {
    fn curve(&self, placement: Placement, flood: Option<FloodKind>) -> RateCurve {
        let rows = || {
            self.open_loop
                .iter()
                .filter(|row| row.row.is(placement, flood))
        };
        let point = |row: &OpenRow| Some((row.offered_per_s, row.row.latencies.p99_us? * 1e3));
        let mut within = self.within_bound.iter();
        let within = within.find(|row| row.placement == placement);
        let note = match within {
            Some(row) if row.per_s > 0.0 => {
                format!("within {} ms up to {:.0}/s", row.p99_bound_ms, row.per_s)
            }
            _ => format!("never within {} ms", BOUND.as_millis()),
        };
        RateCurve {
            name: placement.name().to_owned(),
            note,
            points: rows().map_while(point).collect(),
        }
    }
}
