//! All set-ups in turn, several times over.

use std::{sync::Arc, thread};

use cuda_green_embed::BertModel;

use super::{
    closed_loop,
    figures::Capacity,
    floods::{BulkFlood, Flood, FloodKind, GpuFlood, Progress, Sources, THREADS},
    lengths::Lengths,
    measured::{self, Measured, Pace, Rate},
    open_loop,
    outcome::Outcome,
    placements::{Home, LaneSizes, Placement, Places, Services},
    schedule::Schedule,
    texts::Texts,
};
use crate::commands::bench::{embed::setup::Setup, watch::Watch};

/// The seed of the first schedule.
pub const SEED: u64 = 15;
/// The most threads that send requests.
const SENDERS: usize = 6;

/// A placement, and a flood unless it is one without.
pub type SetUp = (Placement, Option<FloodKind>);

/// All that is measured, ready to run.
pub struct Bench<'a> {
    pub setup: &'a Setup<'a>,
    pub lengths: &'a Lengths,
    pub senders: usize,
    pub texts: &'a Texts,
    services: Services,
    floods: Vec<(FloodKind, Home, GpuFlood)>,
    /// What each flood does.
    pub descriptions: Vec<(FloodKind, String)>,
    /// The SMs of the partition, and all others.
    pub sms: [u32; 2],
    watch: Watch,
}

impl<'a> Bench<'a> {
    pub fn new(
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

    /// Measures everything.
    pub fn measure(&self) -> anyhow::Result<Measured> {
        let mut measured = Measured::new(self.capacity()?);
        let mut capacity = measured.capacity.iter();
        let capacity = capacity.find(|one| one.placement == Placement::AloneInPartition);
        let capacity = capacity.map_or(0.0, |one| one.texts_per_s);
        let capacity = capacity.max(self.lengths.least_capacity);
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
                self.set_up(*set_up, repeat, capacity, &mut measured)?;
                progress.inc(1);
            }
            // Each is first in turn.
            set_ups.rotate_left(1);
        }
        Ok(measured)
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
    fn pace(&self, kind: FloodKind, home: Home) -> anyhow::Result<Pace> {
        let placement = match home {
            Home::Rest => Placement::Partitions,
            _ => Placement::PlainStreams,
        };
        let lengths = self.lengths;
        self.with_flood((placement, Some(kind)), |progress| {
            let wait = || {
                thread::sleep(lengths.flood_alone);
                Ok(())
            };
            let run = || match progress {
                Some(progress) => progress.during(wait).map(|((), per_s)| per_s),
                None => Ok(0.0),
            };
            let (per_s, readings) = self.watch.during(run)?;
            Ok(Pace { per_s, readings })
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
            let mut note = |rate, run: &dyn Fn() -> anyhow::Result<Outcome>| {
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
                let rate = Rate { place, per_s };
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
        action: impl FnOnce(Option<&Progress>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let Some(kind) = flood else {
            thread::sleep(self.lengths.settle);
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
                    threads: THREADS,
                };
                Flood::Bulk(&bulk)
            }
        };
        flood.beside(self.lengths.settle, |progress| action(Some(progress)))
    }
}

/// Returns all set-ups: alone, and each placement beside each flood.
pub fn set_ups() -> Vec<SetUp> {
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
