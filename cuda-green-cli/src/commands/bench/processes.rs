//! `cuda-green bench processes`: a request of one process beside a flood of another, for each way to place both on a GPU.
//!
//! It starts an MPS daemon and two processes of its own, new ones for each way to share the GPU, since a process has its
//! way from its start. All placements are measured in turn, several times over.
//!
//! | file | has |
//! |---|---|
//! | `placements.rs`, `lengths.rs` | what is measured, for how long |
//! | `protocol.rs`, `process.rs` | orders and answers; a process that takes orders |
//! | `worker.rs`, `matrix.rs` | the process of the request or of the flood, and its products |
//! | `keeper.rs`, `daemon.rs` | the process that removes what the others leave, and the MPS daemon |
//! | `pair.rs`, `change.rs` | a round of both processes; a change of their plan |
//! | `figures.rs`, `goals.rs`, `table.rs` | the figures, and how they are shown |

mod change;
mod daemon;
mod figures;
mod goals;
mod keeper;
mod lengths;
#[cfg(feature = "embed")]
mod matrix;
mod pair;
mod placements;
mod process;
mod protocol;
mod table;
mod worker;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
pub use figures::ProcessFigures;
use figures::{Change, Join, Row, Setting, compare};
use lengths::Lengths;
use pair::{Ground, Once, Opened, Pair};
use placements::{PERCENTAGES, Placement, Sharing};
use process::Process;
use protocol::{Answer, FloodKind, Order};
use worker::{PAUSE, REQUEST};

use super::{contexts::must_have_partitions, run::Work, watch::Watch};
use crate::args::{Global, ProcessPart};

/// Does the part of one of the processes.
pub fn part(global: &Global, part: ProcessPart) -> anyhow::Result<()> {
    match part {
        ProcessPart::Keeper => keeper::run(),
        ProcessPart::Worker => worker::run(global),
    }
}

/// What is known so far.
#[derive(Default)]
struct Measured {
    /// In the order of their first measurement.
    cells: Vec<Cell>,
    opened: Opened,
    join: Option<Join>,
    change: Option<Change>,
    skipped: Vec<String>,
    /// The ways in which the processes could not share the device.
    refused: Vec<Sharing>,
}

struct Cell {
    placement: Placement,
    flood: Option<FloodKind>,
    sm_counts: [u32; 2],
    rounds: Vec<Once>,
}

pub fn measure(work: &Work<'_>, with_daemon: bool) -> anyhow::Result<ProcessFigures> {
    let (begin, device) = (Instant::now(), work.device);
    must_have_partitions(device)?;
    anyhow::ensure!(
        cfg!(target_os = "linux"),
        "nothing to measure: processes share partitions on Linux only"
    );
    let lengths = match work.quick {
        true => Lengths::quick(),
        false => Lengths::real(),
    };
    let is_real = !device.driver().is_simulated();
    let mut measured = Measured::default();
    // Dropped after all other processes: it waits for them to leave the daemon.
    let mut keeper = Process::start("the keeper", ProcessPart::Keeper, device, &[])?;
    let (folder, no_daemon) = keep(&mut keeper, with_daemon && is_real)?;
    let no_daemon = match with_daemon {
        true => no_daemon,
        false => Some("--no-mps-daemon".to_owned()),
    };
    if let Some(reason) = no_daemon {
        measured.refuse_mps(&reason);
    }
    let total = device.properties().multiprocessor_count;
    let ground = Ground {
        work,
        watch: &Watch::new(device)?,
        lengths: &lengths,
        folder: &folder,
        request_sms: (total / 4 / 8 * 8).max(1),
    };
    work.progress
        .set_length((lengths.repeats * Placement::ALL.len()) as u64);
    let mut repeats = 0;
    let mut longest = Duration::ZERO;
    while repeats < lengths.repeats && (repeats == 0 || begin.elapsed() + longest < lengths.budget)
    {
        let start = Instant::now();
        measured.round(&ground)?;
        longest = longest.max(start.elapsed());
        repeats += 1;
    }
    keeper.end()?;
    let mut figures = measured.figures(repeats, begin.elapsed());
    if is_real {
        compare(&mut figures.rows);
        figures.goals = goals::goals(&figures);
    }
    Ok(figures)
}

/// Returns the folder of the run, and the reason why there is no daemon, though there was to be one.
fn keep(keeper: &mut Process, daemon: bool) -> anyhow::Result<(PathBuf, Option<String>)> {
    match keeper.ask(&Order::Keep { daemon })? {
        Answer::Kept { folder, no_daemon } => Ok((folder, no_daemon)),
        other => Err(keeper.confused(&other)),
    }
}

impl Measured {
    /// Measures each placement once.
    fn round(&mut self, ground: &Ground<'_>) -> anyhow::Result<()> {
        let is_simulated = ground.work.device.driver().is_simulated();
        for sharing in Sharing::ALL {
            let placements = sharing.placements();
            if self.refused.contains(&sharing) {
                ground.work.progress.inc(placements.count() as u64);
                continue;
            }
            let mut pair = match Pair::start(ground, sharing)? {
                Ok(pair) => pair,
                Err(reason) => {
                    self.refuse(sharing, &reason);
                    continue;
                }
            };
            for placement in placements {
                ground.work.progress.set_message(placement.name());
                let measured = pair.measure(placement);
                let (sms, found) =
                    measured.with_context(|| format!("measuring {}", placement.name()))?;
                for (flood, once) in found {
                    self.add(placement, flood, sms, once);
                }
                ground.work.progress.inc(1);
            }
            // Where both hold their SMs at once.
            if sharing == Sharing::Mps && self.join.is_none() {
                self.join = Some(Join::of(&pair.joins()?, is_simulated));
                match change::measure(&mut pair)? {
                    Ok(change) => self.change = Some(change),
                    Err(reason) => self.skipped.push(format!("a change of the plan: {reason}")),
                }
            }
            self.opened = pair.opened.clone();
            pair.end()?;
        }
        Ok(())
    }

    fn refuse(&mut self, sharing: Sharing, reason: &str) {
        self.refused.push(sharing);
        let names = sharing.placements().map(Placement::name);
        let names = names.collect::<Vec<_>>().join("; ");
        self.skipped.push(format!("{names}: {reason}"));
    }

    fn refuse_mps(&mut self, reason: &str) {
        let ways = Sharing::ALL.into_iter();
        for sharing in ways.filter(|sharing| sharing.percentages().is_some()) {
            self.refuse(sharing, reason);
        }
    }

    fn add(
        &mut self,
        placement: Placement,
        flood: Option<FloodKind>,
        sm_counts: [u32; 2],
        once: Once,
    ) {
        let is_own = |cell: &&mut Cell| (cell.placement, cell.flood) == (placement, flood);
        match self.cells.iter_mut().find(is_own) {
            Some(cell) => cell.rounds.push(once),
            None => self.cells.push(Cell {
                placement,
                flood,
                sm_counts,
                rounds: vec![once],
            }),
        }
    }

    fn figures(mut self, repeats: usize, took: Duration) -> ProcessFigures {
        if let Some(reason) = self.opened.no_matrix {
            self.skipped.push(format!("matrix products: {reason}"));
        }
        let rows = self.cells.into_iter();
        let rows =
            rows.map(|cell| Row::of(cell.placement, cell.flood, cell.sm_counts, cell.rounds));
        ProcessFigures {
            setting: Setting {
                repeats,
                seconds: took.as_secs_f64(),
                request: format!(
                    "{} blocks of {} threads, {} µs after the answer before",
                    REQUEST.blocks,
                    REQUEST.threads,
                    PAUSE.as_micros()
                ),
                blocks: "of 1024 threads for about 2 ms, four times as many as the SMs hold"
                    .to_owned(),
                matrix: self.opened.matrix,
                thread_percentages: PERCENTAGES,
            },
            rows: rows.collect(),
            join: self.join,
            change: self.change,
            skipped: self.skipped,
            goals: Vec::new(),
        }
    }
}
