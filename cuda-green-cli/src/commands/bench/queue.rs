//! `cuda-green bench queue`: tasks that kernels submit to the CPU, the CPU to a resident kernel, and one kernel to
//! another, each beside a hand-written loop of raw loads and stores in the same run.
//!
//! Everything is measured in turn, several times over. The payloads of all tasks are summed where they are run, and a sum
//! that does not match is an error.
//!
//! | file | has |
//! |---|---|
//! | `lengths.rs` | what is measured, for how long |
//! | `shared.rs`, `sums.rs`, `times.rs` | words that kernels and threads share; sums of payloads; times and repeats |
//! | `kernels.rs` | the kernels' PTX |
//! | `raw.rs`, `polled.rs` | the hand-written loops, on the GPU and on the CPU |
//! | `own.rs`, `resident.rs` | the same by the queue |
//! | `host.rs`, `idle.rs`, `beside.rs` | tasks of the CPU, a poller without work, a request beside tasks |
//! | `soak.rs` | so many tasks that a lost one would show |
//! | `simulated.rs` | the kernels' bodies for simulated drivers |
//! | `figures.rs`, `goals.rs`, `table.rs` | the figures, and how they are shown |

mod beside;
mod figures;
mod goals;
mod host;
mod idle;
mod kernels;
mod lengths;
mod own;
mod polled;
mod raw;
mod resident;
mod shared;
mod simulated;
mod soak;
mod sums;
mod table;
mod times;

use std::{thread, time::Instant};

use anyhow::Context;
use cuda_green::{ContextPolicy, GreenContext};
pub use figures::QueueFigures;
use figures::{By, Row, Setting, Shape, What};
use lengths::Lengths;
pub use soak::soak;
use times::{Found, Times, Trips};

use super::{run::Work, watch::Watch};

/// What one repeat of one shape found.
pub struct Once {
    pub tasks: u64,
    /// The time of all tasks, if it counts.
    pub seconds: Option<f64>,
    pub times: Option<Times>,
}

/// Everything that is measured by the number of warps, ready to run.
struct Ways {
    raw: raw::Raw,
    own: own::Own,
}

impl Ways {
    fn run(&self, shape: &Shape, each: u64) -> anyhow::Result<Once> {
        match shape.by {
            By::Raw => self.raw.run(shape, each),
            By::Queue => self.own.run(shape, each),
        }
    }
}

pub fn measure(work: &Work<'_>) -> anyhow::Result<QueueFigures> {
    let begin = Instant::now();
    let lengths = match work.quick {
        true => Lengths::quick(),
        false => Lengths::real(),
    };
    let (device, is_real) = (work.device, !work.device.driver().is_simulated());
    if let Some(simulator) = device.driver().simulator() {
        simulated::register(simulator);
    }
    let watch = Watch::new(device)?;
    let (mut figures, readings) = watch.during(|| all(work, &lengths))?;
    figures.setting.readings = readings;
    figures.setting.seconds = begin.elapsed().as_secs_f64();
    if is_real {
        figures.goals = goals::goals(&figures);
    }
    Ok(figures)
}

fn all(work: &Work<'_>, lengths: &Lengths) -> anyhow::Result<QueueFigures> {
    let device = work.device;
    let context = GreenContext::primary(device, ContextPolicy::default())?;
    let ways = Ways {
        raw: raw::Raw::new(device, context.create_stream()?)?,
        own: own::Own::new(device, context.create_stream()?)?,
    };
    let (mut shapes, mut skipped) = (lengths.shapes(), Vec::new());
    if let Some(reason) = resident::impossible() {
        shapes.retain(|shape| ![What::Resident, What::KernelToKernel].contains(&shape.what));
        skipped.push(reason.to_owned());
    }
    work.progress
        .set_length((shapes.len() * lengths.repeats) as u64 + 3);
    let mut found: Vec<Vec<Once>> = shapes.iter().map(|_| Vec::new()).collect();
    for _ in 0..lengths.repeats {
        for (shape, found) in shapes.iter().zip(&mut found) {
            work.progress.set_message(shape.name());
            let once = ways.run(shape, lengths.each(shape));
            found.push(once.with_context(|| format!("measuring {}", shape.name()))?);
            work.progress.inc(1);
        }
    }
    let rows = shapes
        .into_iter()
        .zip(found)
        .map(|(shape, found)| row(shape, &found));
    let rows = rows.collect::<anyhow::Result<_>>()?;
    let step = |name: &'static str| {
        work.progress.set_message(name);
        work.progress.inc(1);
    };
    step("tasks of the CPU");
    let host = host::measure(&ways.own, lengths)?;
    step("an idle poller");
    let idle = idle::measure(&ways.own, lengths)?;
    step("beside another partition");
    let mut beside = None;
    match device.missing_features() {
        None => beside = Some(beside::measure(work, lengths)?),
        Some(reason) => skipped.push(format!(
            "a request beside another partition's tasks: {reason}"
        )),
    }
    Ok(QueueFigures {
        setting: Setting {
            cores: thread::available_parallelism().map_or(1, usize::from),
            depth: own::DEPTH,
            payload_bytes: own::PAYLOAD,
            repeats: lengths.repeats,
            seconds: 0.0,
            readings: None,
        },
        rows,
        host,
        idle: Some(idle),
        beside,
        skipped,
        goals: Vec::new(),
    })
}

fn row(shape: Shape, found: &[Once]) -> anyhow::Result<Row> {
    let rates = found
        .iter()
        .filter_map(|once| Some(once.tasks as f64 / once.seconds? / 1e6));
    let rates: Vec<_> = rates.collect();
    let times: Vec<_> = found
        .iter()
        .filter_map(|once| once.times.as_ref())
        .collect();
    let trips = match times.is_empty() {
        true => None,
        false => Some(Trips::of(&times)?),
    };
    Ok(Row {
        shape,
        tasks: found.first().map_or(0, |once| once.tasks),
        m_per_s: (!rates.is_empty()).then(|| Found::of(rates)),
        trips,
    })
}
