//! Thirteen models share one memory budget: those in use stay, and the least recently used makes room.
//!
//! `cargo run --release --package cuda-green-examples --example models_in_a_budget` runs it on the system's GPU, and
//! with `CUDA_GREEN_DRIVER=sim:h200@13.0` on a simulated one.

use std::process::ExitCode;

use cuda_green::{CudaDevice, Error, GpuMemoryPool, MemoryReport, ModelNeeds, ModelSlots, Result};

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let device = CudaDevice::init(0)?;
    let slots = ModelSlots::new(GpuMemoryPool::on(&device, 2048 * MIB)?, 13)?;
    let needs = |mib: u64| ModelNeeds {
        bytes: mib * MIB,
        priority: 0,
    };
    // A caller's own function loads a model; here, its weights are an empty buffer.
    let load = |name: &str, mib: u64| {
        slots.get_or_load(name, needs(mib), |pool| pool.allocate((mib * MIB) as usize))
    };
    let report = || MemoryReport::default().with_slots("models", &slots);
    for index in 0..13 {
        load(&format!("model-{index}"), 90 + index * 10)?;
    }
    let simulated = if device.driver().is_simulated() {
        " (SIMULATED: no GPU was used)"
    } else {
        ""
    };
    println!("{}{simulated}: thirteen models", device.name());
    println!("{}\n", report());

    slots.pin("model-0")?; // is never evicted
    let in_use = load("model-1", 100)?; // nor is one that a lease holds
    load("large", 900)?;
    println!("room made for a large one\n{}\n", report());

    match load("too large", 1900) {
        Err(error @ Error::NoRoomForModel { .. }) => println!("refused: {error}"),
        Err(error) => return Err(error),
        Ok(_) => println!("a model fitted beside those in use"),
    }
    drop(in_use);
    Ok(())
}
