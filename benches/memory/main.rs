//! What an allocation costs: our pool beside the driver's stream-ordered pool and `cuMemAlloc`, in
//! alternating batches of one run; how the time spreads, on one thread and on several; and what RMM's
//! random workload leaves in pieces.

#![allow(missing_docs)]

mod allocators;
mod availability;
#[path = "../common/mod.rs"]
mod common;
mod pairs;
mod random;
mod soak;
mod threads;

use std::time::Instant;

use allocators::RawPool;
use clap::Parser;
use common::Outcome;
use cuda_green::{CudaDevice, GpuMemoryPool};
use serde_json::{Map, Value, json};

const MIB: usize = 1 << 20;
const LIMIT: u64 = 8 << 30;

#[derive(Parser)]
struct MemoryArgs {
    #[command(flatten)]
    common: common::Args,
    /// The soak alone, for so many seconds
    #[arg(long, value_name = "SECONDS")]
    soak: Option<f64>,
    /// Threads of the soak
    #[arg(long, default_value_t = 8)]
    threads: usize,
}

fn main() -> Outcome {
    if let Some(result) = availability::child() {
        return result;
    }
    let MemoryArgs {
        common: args,
        soak,
        threads,
    } = MemoryArgs::parse();
    let device = args.device()?;
    println!(
        "{} ({} from {})",
        device.name(),
        device.driver().version(),
        device.driver().source()
    );
    let short = if args.quick { 0.2 } else { 20.0 };
    let seconds = soak.unwrap_or(short);
    if !(0.1..=1e6).contains(&seconds) || threads == 0 {
        return Err("a soak takes 0.1 to 1,000,000 seconds and one thread at least".into());
    }
    let length = soak::Length { seconds, threads };
    if soak.is_some() {
        return soak::alone(&device, &length, args.out.as_deref());
    }
    let mut figures = Map::new();
    let raw = RawPool::new(&device)?;
    availability::availability(&device, args.quick, &mut figures)?;
    pairs::pairs(&device, &raw, args.quick, &mut figures)?;
    threads::threads(&device, &raw, args.quick, &mut figures)?;
    whole(&device, &mut figures)?;
    random::random(&device, &raw, args.quick, &mut figures)?;
    drop(raw);
    let soaked = soak::soak(&device, &length)?;
    let verdict = soak::check(&soaked);
    figures.insert("soak".into(), soaked);
    args.write(&device, "memory", figures)?;
    verdict
}

/// The whole limit in one buffer, after it was in use in small pieces.
fn whole(device: &CudaDevice, figures: &mut Map<String, Value>) -> Outcome {
    let pool = GpuMemoryPool::on(device, LIMIT)?;
    let mut pieces = Vec::new();
    while pool.available() >= 3 * MIB as u64 {
        pieces.push(pool.allocate(3 * MIB)?);
    }
    drop(pieces);
    let start = Instant::now();
    drop(pool.allocate(LIMIT as usize)?);
    let took = start.elapsed();
    println!("\n8 GiB at once after 3 MiB pieces: {took:?}");
    figures.insert(
        "8 GiB at once".into(),
        json!({"ns": took.as_nanos() as u64}),
    );
    Ok(())
}
