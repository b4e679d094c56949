//! SMs change hands while all partitions work; nothing is cancelled, and no kernel waits longer than for those
//! before it on the same SMs.
//!
//! `cargo run --release --package cuda-green-examples --example rebalance_under_load` runs it on the system's GPU, and
//! with `CUDA_GREEN_DRIVER=sim:h200@13.0` on a simulated one.

use std::{process::ExitCode, time::Instant};

use cuda_green::{
    ContextId, CudaDevice, LaunchConfig, Module, RebalanceHint, Result, SmPartitionManager, kernels,
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
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let kept = manager.provision_rebalance()?; // ahead of the load, since making contexts waits for it
    let simulated = if device.driver().is_simulated() {
        " (SIMULATED: no GPU was used)"
    } else {
        ""
    };
    println!("{}{simulated}: {kept} green contexts kept", device.name());
    println!("hint, time that `rebalance` took, SMs of each context after it:");

    // Streams that follow their names: what is launched after a rebalance runs on the new SMs.
    let streams = ContextId::ALL.map(|id| manager.create_stream(id));
    let streams = streams.into_iter().collect::<Result<Vec<_>>>()?;
    for hint in RebalanceHint::ALL.into_iter().cycle().take(8) {
        let start = Instant::now();
        manager.rebalance(hint)?;
        let took = start.elapsed();
        for stream in &streams {
            for _ in 0..20 {
                let shape = LaunchConfig::linear(64, 1024);
                // SAFETY: the kernel takes an address, to which it never comes to write, and a number.
                unsafe { stream.launch(&burn, &shape, &[&0u64, &20_000u32])? };
            }
        }
        let status = manager.allocation_status();
        let sizes: Vec<String> = status
            .contexts
            .iter()
            .map(|context| format!("{} {}", context.id, context.sm_count))
            .collect();
        println!(
            "{:<16} {:>7.1} µs: {}",
            format!("{hint:?}"),
            took.as_secs_f64() * 1e6,
            sizes.join(", ")
        );
    }
    streams.iter().try_for_each(|stream| stream.synchronize())?;
    println!("all work is done");
    Ok(())
}
