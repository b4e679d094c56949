//! `cuda-green bench service`: a query beside background work, by one caller and in an open loop, for each way to place
//! both on the GPU.
//!
//! Everything is measured in turn, several times over, so that a drift of the machine does not look like a difference of
//! set-ups. See [`lengths`] for how long each part takes.

mod closed_loop;
mod elastic;
#[cfg(test)]
mod fake;
mod figures;
mod floods;
mod goals;
mod lengths;
mod measured;
mod open_loop;
mod outcome;
mod picture;
mod placements;
mod schedule;
mod table;
mod task;
mod texts;
mod watch;

use std::{sync::Arc, time::Instant};

use cuda_green::GpuMemoryPool;
use cuda_green_embed::{BertModel, EncoderOptions};
pub use figures::ServiceFigures;
use figures::{
    BOUND, Capacity, FloodAlone, OpenRow, Row, Setting, WithinBound, background_kept, compare,
};
use floods::{BulkFlood, Flood, FloodKind, GpuFlood, Sources};
use lengths::Lengths;
use measured::Measured;
use outcome::highest_rate_within;
use placements::{Home, LaneSizes, Placement, Places, Services};
use schedule::Schedule;
use texts::Texts;
use watch::Watch;

use super::{contexts::must_have_partitions, embed::setup::Setup, run::Work};
use crate::args::ServiceBench;

/// The seed of the first schedule.
const SEED: u64 = 15;
/// The most threads that send requests.
const SENDERS: usize = 6;

pub fn measure(work: &Work<'_>, options: &ServiceBench) -> anyhow::Result<ServiceFigures> {
    must_have_partitions(work.device)?;
    let begin = Instant::now();
    let setup = Setup::new(work, &options.source)?;
    work.progress.set_message("loading");
    let lengths = match work.quick {
        true => Lengths::quick(),
        false => Lengths::real(),
    };
    let longest = setup.folder.max_length() as u32;
    let tokens =
        |real| EncoderOptions::default().max_tokens(if work.quick { longest } else { real });
    let sizes = LaneSizes {
        interactive: tokens(4_096),
        bulk: tokens(16_384),
    };
    let texts = Texts::new(&setup, sizes.bulk.max_tokens as usize)?;
    let pool = GpuMemoryPool::on(work.device, work.device.free_memory()?)?;
    let cublaslt = Arc::clone(&setup.cublaslt);
    let model = BertModel::with_cublaslt(&setup.folder, &pool, setup.precision, cublaslt)?;
    let mut figures = Bench::new(&setup, &model, sizes, &lengths, &texts)?.measure()?;
    work.progress.set_message("elastic lanes");
    // The partitions of the others are gone, so there can be new ones.
    let elastic = elastic::measure(&setup, &model, sizes, &texts, &lengths, &figures.floods)?;
    if !work.device.driver().is_simulated() {
        figures.goals = goals::goals(&figures.one_caller, &figures.within_bound, &elastic);
    }
    figures.elastic = Some(elastic);
    figures.setting.seconds = begin.elapsed().as_secs_f64();
    Ok(figures)
}

/// All that is measured, ready to run.
struct Bench<'a> {
    setup: &'a Setup<'a>,
    lengths: &'a Lengths,
    senders: usize,
    texts: &'a Texts,
    services: Services,
    floods: Vec<(FloodKind, Home, GpuFlood)>,
    descriptions: Vec<(FloodKind, String)>,
    /// The SMs of the partition, and all others.
    sms: [u32; 2],
    watch: Watch,
}

/// A placement, and a flood unless it is one without.
type SetUp = (Placement, Option<FloodKind>);

impl<'a> Bench<'a> {
    fn new(
        setup: &'a Setup<'a>,
        model: &BertModel,
        sizes: LaneSizes,
        lengths: &'a Lengths,
        texts: &'a Texts,
    ) -> anyhow::Result<Self> {
        let device = setup.device();
        let places = Places::new(setup)?;
        let services = Services::new(&places, model, &setup.tokenizer, sizes)?;
        let sources = Arc::new(Sources::new(device, model.pool(), &setup.cublaslt)?);
        let mut floods = Vec::new();
        for kind in FloodKind::ALL {
            for home in Home::ALL {
                let flood = sources.flood(kind, places.flood_stream(home)?)?;
                floods.extend(flood.map(|flood| (kind, home, flood)));
            }
        }
        Ok(Self {
            lengths,
            // Cores are left for the floods, the lanes and the thread that takes the answers.
            senders: setup.cores.saturating_sub(4).clamp(1, SENDERS),
            texts,
            descriptions: FloodKind::ALL
                .map(|kind| (kind, sources.describe(kind)))
                .into(),
            sms: places.sms()?,
            watch: Watch::new(device)?,
            services,
            floods,
            setup,
        })
    }

    fn measure(&self) -> anyhow::Result<ServiceFigures> {
        let capacity = self.capacity()?;
        let of_partition = capacity
            .iter()
            .find(|one| one.placement == Placement::AloneInPartition);
        let of_partition = of_partition
            .map_or(0.0, |one| one.texts_per_s)
            .max(self.lengths.least_capacity);
        let mut measured = Measured::default();
        let mut set_ups = set_ups();
        let pace = FloodKind::ALL.len() * 2;
        let progress = self.setup.work.progress;
        progress.set_length((self.lengths.repeats * (set_ups.len() + pace)) as u64);
        for repeat in 0..self.lengths.repeats {
            for kind in FloodKind::ALL {
                for home in [Home::Primary, Home::Rest] {
                    progress.set_message(format!("{} alone", kind.name()));
                    measured.add_pace(kind, home, self.pace(kind, home)?);
                    progress.inc(1);
                }
            }
            for set_up in &set_ups {
                progress.set_message(measured::name(*set_up));
                self.set_up(*set_up, repeat, of_partition, &mut measured)?;
                progress.inc(1);
            }
            // Each is first in turn.
            set_ups.rotate_left(1);
        }
        self.figures(capacity, &measured)
    }

    /// Measures what the interactive lane can do alone.
    fn capacity(&self) -> anyhow::Result<Vec<Capacity>> {
        let of = |placement| {
            let embedder = self.services.of(placement)?;
            let (texts, length) = (&self.texts.queries, self.lengths.capacity);
            let callers = self.senders;
            Ok(Capacity {
                placement,
                texts_per_s: closed_loop::capacity(embedder, texts, length, callers)?,
            })
        };
        Placement::ALONE.into_iter().map(of).collect()
    }

    /// Measures the pace of a flood without requests.
    fn pace(&self, kind: FloodKind, home: Home) -> anyhow::Result<measured::Pace> {
        let placement = match home {
            Home::Rest => Placement::Partitions,
            _ => Placement::PlainStreams,
        };
        let lengths = self.lengths;
        self.with_flood((placement, Some(kind)), |progress| {
            let wait = || {
                std::thread::sleep(lengths.flood_alone);
                Ok(())
            };
            let run = || match progress {
                Some(progress) => progress.during(wait).map(|((), per_s)| per_s),
                None => Ok(0.0),
            };
            let (per_s, readings) = self.watch.during(run)?;
            Ok(measured::Pace { per_s, readings })
        })
    }

    /// Measures one caller, and each rate of arrivals, while the flood runs.
    fn set_up(
        &self,
        set_up: SetUp,
        repeat: usize,
        capacity: f64,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        let embedder = self.services.of(set_up.0)?;
        let (lengths, texts) = (self.lengths, &self.texts.queries);
        let rates = match set_up.1 {
            None | Some(FloodKind::Matrix) => lengths.rates.clone(),
            Some(_) => vec![lengths.other_rate],
        };
        self.with_flood(set_up, |progress| {
            let mut note = |rate, run: &dyn Fn() -> anyhow::Result<outcome::Outcome>| {
                let (found, readings) = self.watch.during(|| match progress {
                    Some(progress) => progress
                        .during(run)
                        .map(|(found, per_s)| (found, Some(per_s))),
                    None => Ok((run()?, None)),
                })?;
                measured.add(set_up, rate, found, readings)
            };
            note(None, &|| {
                closed_loop::one_caller(embedder, texts, closed_loop::PAUSE, lengths.one_caller)
            })?;
            for (place, share) in rates.iter().enumerate() {
                // The same arrivals for every set-up of a repeat.
                let seed = SEED + (repeat * rates.len() + place) as u64;
                let per_s = share * capacity;
                let rate = measured::Rate { place, per_s };
                let schedule = Schedule::poisson(per_s, lengths.one_rate, seed);
                note(Some(rate), &|| {
                    open_loop::run(embedder, texts, &schedule, self.senders)
                })?;
            }
            Ok(())
        })
    }

    /// Calls `action` while a set-up's flood runs, if it has one.
    fn with_flood<T>(
        &self,
        (placement, flood): SetUp,
        action: impl FnOnce(Option<&floods::Progress>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Some(kind) = flood else {
            std::thread::sleep(self.lengths.settle);
            return action(None);
        };
        let home = placement.home();
        let bulk;
        let found = self
            .floods
            .iter()
            .find(|(of, at, _)| (*of, *at) == (kind, home));
        let flood = match found {
            Some((_, _, flood)) => Flood::Gpu(flood),
            None => {
                bulk = BulkFlood {
                    embedder: self.services.of(placement)?,
                    lists: &self.texts.lists,
                };
                Flood::Bulk(&bulk)
            }
        };
        flood.beside(self.lengths.settle, |progress| action(Some(progress)))
    }

    fn figures(
        &self,
        capacity: Vec<Capacity>,
        measured: &Measured,
    ) -> anyhow::Result<ServiceFigures> {
        let floods: Vec<_> = self
            .descriptions
            .iter()
            .map(|(flood, what)| {
                let whole = measured.pace(*flood, Home::Primary);
                FloodAlone {
                    flood: *flood,
                    what: what.clone(),
                    unit: flood.unit().to_owned(),
                    whole_gpu_per_s: whole.per_s,
                    rest_per_s: measured.pace(*flood, Home::Rest).per_s,
                    readings: whole.readings,
                }
            })
            .collect();
        let mut one_caller: Vec<Row> = measured.one_caller();
        let mut open_loop: Vec<OpenRow> = measured.open_loop();
        let within_bound = within_bound(&open_loop);
        if !self.setup.device().driver().is_simulated() {
            compare(&mut one_caller, &floods);
            for row in &mut open_loop {
                row.background_kept = background_kept(&row.row, &floods);
            }
        }
        let [partition_sms, rest_sms] = self.sms;
        Ok(ServiceFigures {
            setting: Setting {
                model: self.setup.describe().name,
                precision: self.setup.precision.name().to_owned(),
                cores: self.setup.cores,
                partition_sms,
                rest_sms,
                texts: self.texts.queries.len(),
                tokens_of_text: self.texts.tokens_of_query,
                texts_of_list: self.texts.lists.first().map_or(0, Vec::len),
                tokens_of_list_text: self.texts.tokens_of_list_text,
                senders: self.senders,
                on_the_way: closed_loop::ON_THE_WAY,
                arrivals: format!("Poisson, fastrand 2 (Wyrand), seeds from {SEED} on"),
                repeats: self.lengths.repeats,
                seconds: 0.0,
            },
            floods,
            capacity,
            one_caller,
            open_loop,
            within_bound,
            elastic: None,
            goals: Vec::new(),
        })
    }
}

/// Returns all set-ups: alone, and each placement beside each flood.
fn set_ups() -> Vec<SetUp> {
    let alone = Placement::ALONE
        .into_iter()
        .map(|placement| (placement, None));
    let beside = FloodKind::ALL.into_iter().flat_map(|flood| {
        Placement::BESIDE
            .into_iter()
            .map(move |placement| (placement, Some(flood)))
    });
    alone.chain(beside).collect()
}

/// Returns the highest rates that keep the bound, alone and beside matrix products.
fn within_bound(rows: &[OpenRow]) -> Vec<WithinBound> {
    let compared = set_ups()
        .into_iter()
        .filter(|(_, flood)| matches!(flood, None | Some(FloodKind::Matrix)));
    compared
        .map(|(placement, flood)| {
            let own = rows.iter().filter(|row| row.row.is(placement, flood));
            let tried: Vec<_> = own
                .map(|row| {
                    let p99 = row
                        .row
                        .latencies
                        .p99_us
                        .map(|us| std::time::Duration::from_secs_f64(us / 1e6));
                    (row.offered_per_s, p99)
                })
                .collect();
            let lowest = tried.iter().map(|(rate, _)| *rate).reduce(f64::min);
            WithinBound {
                placement,
                p99_bound_ms: BOUND.as_secs_f64() * 1e3,
                per_s: highest_rate_within(BOUND, &tried),
                lowest_per_s: lowest.unwrap_or_default(),
            }
        })
        .collect()
}
