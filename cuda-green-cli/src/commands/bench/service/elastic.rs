//! A service whose lanes are elastic: bulk work has the queries' SMs, too, while there are none.
//!
//! What that gives bulk work, and what it costs the first query after a time without any.

use std::{sync::Arc, time::Duration};

use cuda_green::SmPartitionManager;
use cuda_green_embed::{BertModel, ElasticOptions, Embedder, Lane};
use serde::{Deserialize, Serialize};

use super::{
    closed_loop,
    figures::{FloodAlone, Latencies},
    floods::{BulkFlood, Flood, FloodKind, THREADS},
    lengths::Lengths,
    outcome::Outcome,
    placements::{LaneSizes, PARTITION},
    texts::Texts,
};
use crate::commands::bench::embed::setup::Setup;

/// The pause before each first query: long enough for the lanes to change.
const IDLE: Duration = Duration::from_millis(25);

#[derive(Serialize, Deserialize)]
pub struct ElasticFigures {
    /// The reason why the lanes are not elastic, and nothing else, if they are not.
    pub off: Option<String>,
    pub bulk_without_queries_per_s: f64,
    /// The same as a share of bulk work alone on the whole GPU. None on a simulated driver.
    pub bulk_to_whole_gpu: Option<f64>,
    /// Queries that come after a pause, beside bulk work.
    pub first: Option<Latencies>,
    /// Queries that follow one another, beside bulk work.
    pub usual: Option<Latencies>,
    /// The p99 of the former as a multiple of the latter's. None on a simulated driver.
    pub first_to_usual_p99: Option<f64>,
    /// How often SMs changed hands, and how often they could not.
    pub rebalances: u64,
    pub failed_rebalances: u64,
}

/// All repeats of a kind of query.
struct Queries {
    all: Outcome,
    p99_of_repeats: Vec<Option<Duration>>,
}

impl Queries {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            all: Outcome::new(Duration::ZERO)?,
            p99_of_repeats: Vec::new(),
        })
    }

    fn add(&mut self, repeat: &Outcome) -> anyhow::Result<()> {
        self.p99_of_repeats.push(repeat.at(0.99));
        self.all.add_run(repeat)
    }

    fn latencies(&self) -> Latencies {
        Latencies::of(&self.all, &self.p99_of_repeats)
    }
}

/// Measures in a manager of its own, so no other may have partitions.
pub fn measure(
    setup: &Setup<'_>,
    model: &BertModel,
    sizes: LaneSizes,
    texts: &Texts,
    lengths: &Lengths,
    floods: &[FloodAlone],
) -> anyhow::Result<ElasticFigures> {
    let manager = Arc::new(SmPartitionManager::on(setup.device())?);
    let embedder = Embedder::builder()
        .tokenizer(setup.tokenizer.clone())
        .encoder(Lane::Interactive, sizes.interactive)
        .encoder(Lane::Bulk, sizes.bulk)
        .elastic(ElasticOptions::default().interactive_sms(PARTITION))
        .build(model, manager)?;
    let status = embedder.status().elastic;
    let mut figures = ElasticFigures {
        off: status.and_then(|status| status.off),
        bulk_without_queries_per_s: 0.0,
        bulk_to_whole_gpu: None,
        first: None,
        usual: None,
        first_to_usual_p99: None,
        rebalances: 0,
        failed_rebalances: 0,
    };
    if figures.off.is_some() {
        return Ok(figures);
    }
    let (mut first, mut usual) = (Queries::new()?, Queries::new()?);
    let mut per_s = 0.0;
    for _ in 0..lengths.repeats {
        let bulk = BulkFlood {
            embedder: &embedder,
            lists: &texts.lists,
            threads: THREADS,
        };
        Flood::Bulk(&bulk).beside(lengths.settle, |progress| {
            let wait = || {
                std::thread::sleep(lengths.flood_alone);
                Ok(())
            };
            per_s += progress.during(wait)?.1;
            let queries =
                |pause, length| closed_loop::one_caller(&embedder, &texts.queries, pause, length);
            first.add(&queries(IDLE, lengths.first_queries)?)?;
            // The lanes are as wide as beside queries once these are over.
            queries(closed_loop::PAUSE, lengths.settle)?;
            usual.add(&queries(closed_loop::PAUSE, lengths.one_caller)?)
        })?;
    }
    figures.bulk_without_queries_per_s = per_s / lengths.repeats.max(1) as f64;
    let [first, usual] = [&first, &usual].map(Queries::latencies);
    if !setup.device().driver().is_simulated() {
        let alone = floods.iter().find(|alone| alone.flood == FloodKind::Bulk);
        figures.bulk_to_whole_gpu =
            alone.map(|alone| figures.bulk_without_queries_per_s / alone.whole_gpu_per_s);
        figures.first_to_usual_p99 = first
            .p99_us
            .zip(usual.p99_us)
            .map(|(first, usual)| first / usual);
    }
    (figures.first, figures.usual) = (Some(first), Some(usual));
    if let Some(status) = embedder.status().elastic {
        figures.rebalances = status.rebalances;
        figures.failed_rebalances = status.failed;
    }
    Ok(figures)
}
