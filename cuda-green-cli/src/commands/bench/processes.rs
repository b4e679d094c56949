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
    /// Joins and changes are measured in the first round.
    plan_was_tried: bool,
    skipped: Vec<String>,
    failed: Vec<String>,
    /// The placements that are not measured again.
    refused: Vec<Placement>,
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
        measured.round(&ground);
        longest = longest.max(start.elapsed());
        repeats += 1;
    }
    if let Err(error) = keeper.end() {
        measured.failed.push(format!("{error:#}"));
    }
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
    /// Measures each placement once. What fails is not measured again, and ends nothing else.
    fn round(&mut self, ground: &Ground<'_>) {
        let progress = ground.work.progress;
        for sharing in Sharing::ALL {
            let mut pair = None;
            for placement in sharing.placements() {
                progress.set_message(placement.name());
                if pair.is_none() && !self.refused.contains(&placement) {
                    pair = self.start(ground, sharing);
                }
                if let Some(mut running) = pair.take_if(|_| !self.refused.contains(&placement)) {
                    match running.measure(placement) {
                        Ok((sms, found)) => {
                            for (flood, once) in found {
                                self.add(placement, flood, sms, once);
                            }
                            pair = Some(running);
                        }
                        Err(error) => {
                            self.refused.push(placement);
                            self.fail(placement.name(), &error);
                        }
                    }
                }
                progress.inc(1);
            }
            let Some(mut pair) = pair else { continue };
            // Where both hold their SMs at once.
            if sharing == Sharing::Mps
                && !std::mem::replace(&mut self.plan_was_tried, true)
                && let Err(error) = self.plan(ground, &mut pair)
            {
                self.fail("joins and changes of the plan", &error);
            }
            if let Err(error) = pair.end() {
                self.fail("the end", &error);
            }
        }
    }

    /// Starts both processes, unless they cannot share the device in this way.
    fn start<'a>(&mut self, ground: &'a Ground<'a>, sharing: Sharing) -> Option<Pair<'a>> {
        match Pair::start(ground, sharing) {
            Ok(Ok(pair)) => {
                self.opened = pair.opened.clone();
                return Some(pair);
            }
            Ok(Err(reason)) => self.skipped.push(format!("{}: {reason}", names(sharing))),
            Err(error) => self.fail(&names(sharing), &error),
        }
        self.refused.extend(sharing.placements());
        None
    }

    /// Measures joins and a change of the plan.
    fn plan(&mut self, ground: &Ground<'_>, pair: &mut Pair<'_>) -> anyhow::Result<()> {
        let is_simulated = ground.work.device.driver().is_simulated();
        self.join = Some(Join::of(&pair.joins()?, is_simulated));
        match change::measure(pair)? {
            Ok(change) => self.change = Some(change),
            Err(reason) => self.skipped.push(format!("a change of the plan: {reason}")),
        }
        Ok(())
    }

    fn fail(&mut self, what: &str, error: &anyhow::Error) {
        self.failed.push(format!("{what}: {error:#}"));
    }

    /// Leaves out everything under MPS.
    fn refuse_mps(&mut self, reason: &str) {
        let all = Placement::ALL.into_iter();
        let under_mps = all.filter(|placement| placement.sharing().percentages().is_some());
        self.refused.extend(under_mps);
        self.skipped.push(format!("everything under MPS: {reason}"));
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
            failed: self.failed,
            goals: Vec::new(),
        }
    }
}

/// Returns the names of all placements that processes of this kind can have.
fn names(sharing: Sharing) -> String {
    let names = sharing.placements().map(Placement::name);
    names.collect::<Vec<_>>().join("; ")
}
