//! So many tasks that a lost one would show.

use anyhow::ensure;
use cuda_green::{ContextPolicy, GreenContext};
use serde::Serialize;

use super::{own::Own, simulated};
use crate::commands::bench::run::{Figures, Work};

/// Warps that submit at once, and lanes.
const WARPS: u32 = 528;
const LANES: u32 = 4;
/// Tasks of a launch.
const LAUNCH: u64 = 100_000_000;

#[derive(Serialize)]
pub struct Soak {
    tasks: u64,
    launches: u64,
    seconds: f64,
    m_per_s: f64,
    /// Submissions that found no room, and were tried again.
    refused: u64,
    /// The most tasks that waited in a ring at once.
    deepest: u64,
}

pub fn soak(work: &Work<'_>, tasks: u64) -> anyhow::Result<Soak> {
    let device = work.device;
    if let Some(simulator) = device.driver().simulator() {
        simulated::register(simulator);
    }
    let context = GreenContext::primary(device, ContextPolicy::default())?;
    let own = Own::new(device, context.create_stream()?)?;
    let summed = own.queue(LANES, LANES, true)?;
    let warps = match device.driver().is_simulated() {
        true => LANES,
        false => WARPS,
    };
    work.progress.set_length(tasks);
    let (mut done, mut launches, mut seconds) = (0, 0, 0.0);
    while done < tasks {
        let each = (tasks - done).min(LAUNCH).div_ceil(u64::from(warps));
        let each = each.next_multiple_of(32);
        seconds += own.long_run(&summed, warps, LANES, each)?;
        done += u64::from(warps) * each;
        launches += 1;
        work.progress.set_position(done);
    }
    let stats = summed.queue.stats();
    let rings = || stats.devices.iter().flat_map(|device| &device.rings);
    let taken: u64 = rings().map(|ring| ring.taken).sum();
    ensure!(taken == done, "{taken} tasks were taken of {done}");
    let soak = Soak {
        tasks: done,
        launches,
        seconds,
        m_per_s: done as f64 / seconds / 1e6,
        refused: rings().filter_map(|ring| ring.refused).sum(),
        deepest: rings().map(|ring| ring.deepest).max().unwrap_or_default(),
    };
    summed.queue.shutdown()?;
    Ok(soak)
}

impl Figures for Soak {
    fn table(&self) -> String {
        format!(
            "{} tasks in {:.1} s, {:.1} M/s, in {} launches; the sums match\n{} submissions found no room, \
             at most {} tasks waited in a ring",
            self.tasks, self.seconds, self.m_per_s, self.launches, self.refused, self.deepest
        )
    }
}
