//! A process that holds one partition of a plan which several processes share, and floods it: each says what a kernel of its
//! own took at worst, whatever the others do.
//!
//! `cargo run --release --package cuda-green-examples --example shared_device serving 10` holds the partition `serving` for 10
//! seconds; run another with `indexing` beside it, both as clients of one MPS daemon. A third argument says how many kernels
//! it launches before it waits, one without it. With
//! `CUDA_GREEN_DRIVER=sim:h200@13.0` it runs on a simulated GPU; `CUDA_GREEN_SHARED_DIR` names the folder of the plan.

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use cuda_green::{
    ContextPolicy, CudaDevice, Driver, LaunchConfig, Module, Result, SharedPlan,
    SmPartitionManager, kernels, planner::PartitionRequest, serve_separation_test,
};

fn main() -> ExitCode {
    let name = env::args().nth(1).unwrap_or_else(|| "serving".to_owned());
    let seconds = env::args().nth(2).and_then(|text| text.parse().ok());
    let done = match name.as_str() {
        "separation-partner" => Driver::load().and_then(|driver| serve_separation_test(&driver)),
        name => {
            let at_once = env::args().nth(3).and_then(|text| text.parse().ok());
            run(
                name,
                Duration::from_secs(seconds.unwrap_or(1)),
                at_once.unwrap_or(1),
            )
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, time: Duration, at_once: u32) -> Result<()> {
    let device = CudaDevice::init(0)?;
    // The same list in every process. The first makes the plan, and tests with a second process of this program whether
    // its partitions are apart.
    let mut plan = SharedPlan::of([
        ("serving", PartitionRequest::percent(25)),
        ("indexing", PartitionRequest::rest()),
    ])
    .wait(Duration::from_secs(5));
    if let Ok(program) = env::current_exe() {
        plan = plan.tested_by(program, ["separation-partner"]);
    }
    let manager = SmPartitionManager::join(&device, &plan, &[(name, ContextPolicy::default())])?;
    println!("{}: {}", device.name(), manager.allocation_status());

    // It follows the name: `cuda-green partitions set serving=50%` gives other SMs while this works.
    let stream = manager.create_stream(name)?;
    let burn = Module::load_ptx(&device, kernels::PTX)?.kernel(kernels::BURN)?;
    let (nowhere, rounds) = (0u64, 130_000u32); // about 2 ms on an H200
    let begun = Instant::now();
    let (mut kernels, mut worst) = (0, Duration::ZERO);
    while begun.elapsed() < time {
        let sms = manager.get_context(name)?.sm_count();
        let config = LaunchConfig::linear(sms * 2, 1024); // two of 1024 threads fill an SM
        let launched = Instant::now();
        for _ in 0..at_once {
            // SAFETY: the kernel takes an address that it never writes, and a number of rounds.
            unsafe { stream.launch(&burn, &config, &[&nowhere, &rounds])? };
        }
        stream.synchronize()?;
        kernels += at_once;
        worst = worst.max(launched.elapsed());
    }
    println!("{name}: {kernels} kernels, at worst {worst:.1?}");
    Ok(())
}
