//! The two processes: that of the request, and that of the flood.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use cuda_green::CudaDevice;

use super::{
    daemon::{self, LOGS, PIPES},
    lengths::Lengths,
    placements::{Home, Placement, Sharing},
    process::Process,
    protocol::{Answer, FloodKind, Order},
};
use crate::{
    args::ProcessPart,
    commands::bench::{
        run::Work,
        watch::{Readings, Watch},
    },
};

/// The time that a process gets to prepare for a change.
const BEFORE_CHANGE: Duration = Duration::from_millis(5);

/// What both processes need.
pub struct Ground<'a> {
    pub work: &'a Work<'a>,
    pub watch: &'a Watch,
    pub lengths: &'a Lengths,
    pub folder: &'a Path,
    pub request_sms: u32,
}

/// Both processes, with an open device.
pub struct Pair<'a> {
    ground: &'a Ground<'a>,
    request: Process,
    flood: Process,
    pub opened: Opened,
}

/// What the processes said of themselves.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// What a matrix product is; none if there are none.
    pub matrix: Option<String>,
    /// Why there are none.
    pub no_matrix: Option<String>,
}

/// What one round of one placement found.
#[derive(Default)]
pub struct Once {
    /// Microseconds of each request.
    pub times: Vec<f64>,
    /// The flood's pace without requests and beside them; none without a flood.
    pub paces: Option<[f64; 2]>,
    /// The GPU while the requests ran.
    pub readings: Option<Readings>,
}

/// What one round of one placement found, alone and beside each flood.
pub struct Placed {
    /// The SMs of the request and of the flood.
    pub sm_counts: [u32; 2],
    pub found: Vec<(Option<FloodKind>, Once)>,
}

/// The times of joins and of creations, in nanoseconds.
pub struct Joins {
    pub join: Vec<f64>,
    pub create: Vec<f64>,
}

impl<'a> Pair<'a> {
    /// Starts both processes; returns the reason where they cannot share the device in this way.
    pub fn start(ground: &'a Ground<'a>, sharing: Sharing) -> anyhow::Result<Result<Self, String>> {
        let device = ground.work.device;
        let start = |name, role: usize| {
            let variables = variables(device, ground.folder, sharing, role);
            Process::start(name, ProcessPart::Worker, device, &variables)
        };
        let mut request = start("the process of the request", 0)?;
        let mut flood = start("the process of the flood", 1)?;
        let open = |with_matrix| Order::Open {
            folder: ground.folder.to_owned(),
            request_sms: ground.request_sms,
            with_matrix,
        };
        // Both at once, since each waits for the driver.
        request.send(&open(false))?;
        flood.send(&open(true))?;
        let mut opened = Opened::default();
        for process in [&mut request, &mut flood] {
            match process.answer()? {
                Answer::Opened {
                    under_mps,
                    no_matrix,
                    matrix,
                } if under_mps == sharing.percentages().is_some() => {
                    opened = Opened { matrix, no_matrix };
                }
                Answer::Opened {
                    under_mps: false, ..
                } => {
                    return Ok(Err(
                        "the driver did not connect to the MPS daemon".to_owned()
                    ));
                }
                Answer::Opened { .. } => {
                    return Ok(Err("the driver connected to an MPS daemon".to_owned()));
                }
                Answer::Failed(reason) => return Ok(Err(reason)),
                other => return Err(process.confused(&other)),
            }
        }
        Ok(Ok(Self {
            ground,
            request,
            flood,
            opened,
        }))
    }

    /// Measures a placement, alone and beside each flood.
    pub fn measure(&mut self, placement: Placement) -> anyhow::Result<Placed> {
        let [request, flood] = placement.homes();
        let sm_counts = [
            settle(&mut self.request, request)?,
            settle(&mut self.flood, flood)?,
        ];
        let mut found = vec![(None, self.requests()?)];
        found.push((Some(FloodKind::Blocks), self.beside(FloodKind::Blocks)?));
        if self.opened.matrix.is_some() {
            found.push((Some(FloodKind::Matrix), self.beside(FloodKind::Matrix)?));
        }
        for process in [&mut self.request, &mut self.flood] {
            settle(process, Home::Whole)?;
        }
        Ok(Placed { sm_counts, found })
    }

    /// Times joins while the other process holds a name of the plan.
    pub fn joins(&mut self) -> anyhow::Result<Joins> {
        settle(&mut self.flood, Home::Flood)?;
        let rounds = self.ground.lengths.joins;
        let answer = self.request.ask(&Order::Join { rounds })?;
        settle(&mut self.flood, Home::Whole)?;
        match answer {
            Answer::Joined { join, create } => Ok(Joins { join, create }),
            other => Err(self.request.confused(&other)),
        }
    }

    /// Changes the plan back and forth, with both processes idle. Returns the microseconds of each change, from its order
    /// until both processes have run on their new SMs; a reason where it does not change.
    pub fn changes(&mut self) -> anyhow::Result<Result<Vec<f64>, String>> {
        let total = self.ground.work.device.properties().multiprocessor_count;
        let few = self.ground.request_sms;
        settle(&mut self.request, Home::ChangingRequest)?;
        settle(&mut self.flood, Home::ChangingFlood)?;
        let mut times = Vec::new();
        for round in 0..self.ground.lengths.changes {
            let sm_count = if round % 2 == 0 { 2 * few } else { few };
            self.flood.send(&Order::Follow {
                sm_count: total - sm_count,
            })?;
            // The other has let go of its old context by then.
            thread::sleep(BEFORE_CHANGE);
            let start = Instant::now();
            self.request.send(&Order::Change { sm_count })?;
            let answers = [self.request.answer()?, self.flood.answer()?];
            times.push(start.elapsed().as_nanos() as f64 / 1e3);
            for answer in answers {
                match answer {
                    Answer::Settled { .. } => {}
                    Answer::Failed(reason) => return Ok(Err(reason)),
                    other => return Err(self.request.confused(&other)),
                }
            }
        }
        for process in [&mut self.request, &mut self.flood] {
            settle(process, Home::Whole)?;
        }
        Ok(Ok(times))
    }

    pub fn end(self) -> anyhow::Result<()> {
        let ended = self.flood.end();
        self.request.end()?;
        ended
    }

    fn requests(&mut self) -> anyhow::Result<Once> {
        let Lengths {
            requests: most,
            request_time,
            ..
        } = *self.ground.lengths;
        let limit_ms = request_time.as_millis() as u64;
        let process = &mut self.request;
        let asked = || process.ask(&Order::Request { most, limit_ms });
        let (answer, readings) = self.ground.watch.during(asked)?;
        match answer {
            Answer::Times(times) => Ok(Once {
                times,
                paces: None,
                readings,
            }),
            other => Err(self.request.confused(&other)),
        }
    }

    fn beside(&mut self, kind: FloodKind) -> anyhow::Result<Once> {
        match self.flood.ask(&Order::Flood(kind))? {
            Answer::Flooding => {}
            other => return Err(self.flood.confused(&other)),
        }
        thread::sleep(self.ground.lengths.settle);
        let before = self.count()?;
        thread::sleep(self.ground.lengths.alone);
        let between = self.count()?;
        let mut once = self.requests()?;
        let after = self.count()?;
        match self.flood.ask(&Order::Stop)? {
            Answer::Stopped => {}
            other => return Err(self.flood.confused(&other)),
        }
        once.paces = Some([pace(before, between), pace(between, after)]);
        Ok(once)
    }

    /// Returns how much of the flood is done, and its time in nanoseconds.
    fn count(&mut self) -> anyhow::Result<(u64, u64)> {
        match self.flood.ask(&Order::Count)? {
            Answer::Counted { done, nanoseconds } => Ok((done, nanoseconds)),
            other => Err(self.flood.confused(&other)),
        }
    }
}

/// Returns what was done a second between two counts.
fn pace(from: (u64, u64), to: (u64, u64)) -> f64 {
    let nanoseconds = to.1.saturating_sub(from.1).max(1);
    to.0.saturating_sub(from.0) as f64 * 1e9 / nanoseconds as f64
}

fn settle(process: &mut Process, home: Home) -> anyhow::Result<u32> {
    match process.ask(&Order::Settle(home))? {
        Answer::Settled { sm_count } => Ok(sm_count),
        other => Err(process.confused(&other)),
    }
}

/// Returns the variables by which a process shares the device in this way; the request's role is 0, the flood's 1.
fn variables(
    device: &CudaDevice,
    folder: &Path,
    sharing: Sharing,
    role: usize,
) -> Vec<(&'static str, Option<String>)> {
    let mut variables: Vec<_> = daemon::NOT_INHERITED.map(|name| (name, None)).to_vec();
    variables.push((LOGS, None));
    let percentage = sharing.percentages().map(|both| both[role]);
    let pipes = match percentage {
        Some(_) => daemon::pipes(folder),
        None => daemon::no_pipes(folder),
    };
    variables.push((PIPES, Some(pipes.display().to_string())));
    if device.driver().is_simulated() {
        // Each process has a simulated device of its own, which needs no daemon.
        let faults = std::env::var(SIMULATED_FAULTS).unwrap_or_default();
        let mps = percentage.map(|percent| format!("mps={percent}%"));
        let all = [Some(faults).filter(|faults| !faults.is_empty()), mps];
        let all: Vec<_> = all.into_iter().flatten().collect();
        if !all.is_empty() {
            variables.push((SIMULATED_FAULTS, Some(all.join("; "))));
        }
        return variables;
    }
    if let Some(percent) = percentage.filter(|percent| *percent < 100) {
        let name = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
        variables.push((name, Some(percent.to_string())));
    }
    if sharing == Sharing::MpsPriorities {
        let priority = sharing.priorities()[role];
        variables.push(("CUDA_MPS_CLIENT_PRIORITY", Some(priority.to_string())));
    }
    variables
}

const SIMULATED_FAULTS: &str = "CUDA_GREEN_SIM_FAULTS";

#[cfg(test)]
mod tests {
    use super::pace;

    #[test]
    fn a_pace_is_by_the_second() {
        assert_eq!(pace((10, 1_000_000_000), (30, 3_000_000_000)), 10.0);
        assert_eq!(pace((10, 5), (10, 5)), 0.0);
    }
}
