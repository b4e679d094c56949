//! One request beside a flood: in the same context, in a partition of its own, and with the flood left in the
//! primary context. Times are the GPU's own, between two events.
//!
//! `cargo run --release --package cuda-green-examples --example protected_latency` runs it on the system's GPU, and
//! with `CUDA_GREEN_DRIVER=sim:h200@13.0` on a simulated one, in its virtual time.

use std::{process::ExitCode, time::Duration};

use cuda_green::{
    ContextPolicy, CudaDevice, Event, GreenContext, Kernel, LaunchConfig, Module, Result,
    SmPartitionManager, Stream, kernels, planner::PartitionRequest,
};

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
    let burn = Module::load_ptx(&device, kernels::PTX)?.kernel(kernels::BURN)?;
    let policy = ContextPolicy::default();
    let manager = SmPartitionManager::with_ids(&device)?;
    manager.create_partitions(&[
        ("requests", PartitionRequest::percent(25), policy),
        ("background", PartitionRequest::rest(), policy),
    ])?;
    println!("{}: {}\n", device.name(), manager.allocation_status());

    let primary = GreenContext::primary(&device, policy)?;
    let own = manager.get_context("requests")?.create_stream()?;
    let other = manager.get_context("background")?.create_stream()?;
    let (plain, flood) = (primary.create_stream()?, primary.create_stream()?);
    for (set_up, request, flood) in [
        ("alone, in the partition", &own, None),
        ("flood in the other partition", &own, Some(&other)),
        (
            "flood in the same context, no partition",
            &plain,
            Some(&flood),
        ),
        ("flood left in the primary context", &own, Some(&flood)),
    ] {
        let time = worst_of(10, || latency(&burn, request, flood))?;
        println!("{set_up:<40} {:>9.3} ms at worst", time.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// The time of one request, on the GPU, while a flood of long kernels is queued elsewhere.
fn latency(burn: &Kernel, request: &Stream, flood: Option<&Stream>) -> Result<Duration> {
    let device = request.device();
    if let Some(flood) = flood {
        let blocks = flood.context().sm_count() * 2; // two of 1024 threads fill an SM
        for _ in 0..3 {
            launch(burn, flood, blocks, 500_000)?;
        }
    }
    let (start, end) = (Event::timed(device)?, Event::timed(device)?);
    request.record(&start)?;
    launch(burn, request, 64, 4_000)?;
    request.record(&end)?;
    end.synchronize()?;
    if let Some(flood) = flood {
        flood.synchronize()?;
    }
    end.elapsed_since(&start)
}

fn launch(burn: &Kernel, stream: &Stream, blocks: u32, rounds: u32) -> Result<()> {
    let shape = LaunchConfig::linear(blocks, 1024);
    // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
    unsafe { stream.launch(burn, &shape, &[&0u64, &rounds]) }
}

fn worst_of(times: usize, mut action: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    (0..times).try_fold(Duration::ZERO, |worst, _| Ok(worst.max(action()?)))
}
