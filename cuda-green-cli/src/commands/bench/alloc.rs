//! `cuda-green bench alloc`: the cost of an allocation from our pool, from the driver's stream-ordered pool and from
//! `cuMemAlloc`; its distribution, on one thread and on several; and the fragmentation by a random workload.

mod allocators;
mod pairs;
mod random;
mod sizes;
pub mod soak;
mod threads;

use std::time::Instant;

use allocators::RawPool;
use cuda_green::{CudaDevice, GpuMemoryPool};
use pairs::Pair;
use random::Random;
use serde::{Deserialize, Serialize};
use sizes::{LIMIT, MIB};
use soak::Soak;
use threads::Threads;

use super::{
    clock,
    run::{Drawn, Figures, Work},
    samples::Distribution,
};
use crate::render::{duration::duration, svg::Curve};

#[derive(Serialize, Deserialize)]
pub struct Alloc {
    pairs: Vec<Pair>,
    /// The clock's part in the time of a single pair.
    clock: Distribution,
    threads: Vec<Threads>,
    whole_limit: WholeLimit,
    random: Vec<Random>,
    /// Not read back, since pictures do not show it.
    #[serde(skip_deserializing)]
    soak: Option<Soak>,
}

/// An allocation of the whole limit, after all of it was in use in small blocks.
#[derive(Serialize, Deserialize)]
struct WholeLimit {
    bytes: u64,
    ns: f64,
}

pub fn measure(work: &Work<'_>) -> anyhow::Result<Alloc> {
    let device = work.device;
    work.progress.set_length(pairs::SIZES.len() as u64 + 9);
    let raw = RawPool::new(device)?;
    let pairs = pairs::measure(work, &raw)?;
    let clock = clock::alone(if work.quick { 100 } else { 100_000 })?;
    let threads = threads::measure(work, &raw)?;
    work.progress.set_message("8 GiB at once");
    let whole_limit = whole_limit(device)?;
    work.progress.inc(1);
    work.progress.set_message("random allocations");
    let random = random::measure(work, &raw)?;
    work.progress.inc(1);
    drop(raw);
    let length = soak::Length {
        seconds: if work.quick { 0.2 } else { 20.0 },
        threads: 8,
    };
    let soak = Some(soak::measure(work, &length)?);
    Ok(Alloc {
        pairs,
        clock,
        threads,
        whole_limit,
        random,
        soak,
    })
}

fn whole_limit(device: &CudaDevice) -> anyhow::Result<WholeLimit> {
    let pool = GpuMemoryPool::on(device, LIMIT)?;
    let mut pieces = Vec::new();
    while pool.available() >= 3 * MIB as u64 {
        pieces.push(pool.allocate(3 * MIB)?);
    }
    drop(pieces);
    let start = Instant::now();
    drop(pool.allocate(LIMIT as usize)?);
    Ok(WholeLimit {
        bytes: LIMIT,
        ns: start.elapsed().as_nanos() as f64,
    })
}

impl Figures for Alloc {
    fn table(&self) -> String {
        let mut table = pairs::table(&self.pairs);
        table += &format!(
            "raw pool: the driver's own, which releases nothing during the run\np99 to max: pairs timed one by one, including {} for the clock\n\n",
            duration(self.clock.p50_ns)
        );
        table += &threads::table(&self.threads);
        table += "\n";
        table += &random::table(&self.random);
        table += &format!(
            "\n{} GiB in one allocation, after all of it was in pieces of 3 MiB: {}\n",
            self.whole_limit.bytes >> 30,
            duration(self.whole_limit.ns)
        );
        if let Some(soak) = &self.soak {
            table += &format!("\n{}", soak.table());
        }
        table
    }

    fn verdict(&self) -> anyhow::Result<()> {
        self.soak.as_ref().map_or(Ok(()), Figures::verdict)
    }
}

impl Drawn for Alloc {
    const COMMAND: &str = "alloc";
    const TITLE: &str = "An allocation and its release";
    const OF: &str = "pairs";
    const NOTE: Option<&str> = Some("Each time includes one reading of the clock.");

    fn curves(&self) -> Vec<Curve> {
        let mut curves = Vec::new();
        for Pair {
            size,
            ours,
            raw_pool,
            ..
        } in &self.pairs
        {
            if ["4 KiB", "64 MiB"].contains(&&**size) {
                curves.push(raw_pool.curve(&format!("{size}, the driver's pool")));
                curves.push(ours.curve(&format!("{size}, ours")));
            }
        }
        curves.push(self.clock.curve("the clock alone"));
        curves
    }
}
