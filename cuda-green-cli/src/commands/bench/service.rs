//! `cuda-green bench service`: a query beside background work, by one caller and in an open loop, for each way to place
//! both on the GPU.
//!
//! Everything is measured in turn, several times over, so that a drift of the machine does not look like a difference of
//! set-ups.
//!
//! | file | has |
//! |---|---|
//! | `schedule.rs` | the moments at which queries are due |
//! | `open_loop.rs`, `closed_loop.rs`, `task.rs` | the ways to send queries and to take their answers |
//! | `outcome.rs` | percentiles, goodput, the highest rate within a bound |
//! | `floods.rs` | the background work |
//! | `placements.rs` | the contexts and priorities of both |
//! | `elastic.rs` | lanes whose SMs follow the load |
//! | `several_gpus.rs` | a service on several GPUs |
//! | `turns.rs`, `lengths.rs`, `measured.rs` | what is measured when, for how long, and what came of it |
//! | `report.rs`, `figures.rs`, `goals.rs`, `table.rs`, `picture.rs` | the figures, and how they are shown |

mod closed_loop;
mod elastic;
#[cfg(test)]
mod fake;
mod figures;
pub mod floods;
mod goals;
mod lengths;
mod measured;
mod open_loop;
mod outcome;
mod picture;
mod placements;
mod report;
mod schedule;
mod several_gpus;
mod table;
mod task;
mod texts;
mod turns;

use std::{sync::Arc, time::Instant};

use cuda_green::GpuMemoryPool;
use cuda_green_embed::{BertModel, EncoderOptions};
pub use figures::ServiceFigures;
use lengths::Lengths;
use placements::LaneSizes;
use texts::Texts;
use turns::Bench;

use super::{contexts::must_have_partitions, embed::setup::Setup, run::Work};
use crate::args::ServiceBench;

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
    let bench = Bench::new(&setup, &model, sizes, &lengths, &texts)?;
    let measured = bench.measure()?;
    let mut figures = report::report(&bench, measured);
    let senders = figures.setting.senders;
    work.progress.set_message("elastic lanes");
    // Elastic lanes make partitions of their own, so the others must be gone.
    drop(bench);
    let elastic = elastic::measure(&setup, &model, sizes, &texts, &lengths, &figures.floods)?;
    if !work.device.driver().is_simulated() {
        figures.goals = goals::goals(&figures.one_caller, &figures.within_bound, &elastic);
    }
    figures.elastic = Some(elastic);
    work.progress.set_message("several GPUs");
    figures.several_gpus = several_gpus::measure(&setup, sizes, &texts, &lengths, senders)?;
    if let (false, Some(row)) = (figures.goals.is_empty(), figures.several_gpus.get(1)) {
        figures.goals.push(goals::two_gpus(row));
    }
    figures.setting.seconds = begin.elapsed().as_secs_f64();
    Ok(figures)
}
