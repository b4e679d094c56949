//! A program of cudarc's in partitions: its kernels are launched in streams of `cuda-green`, and run on the
//! SMs of the partition that the stream is of.
//!
//! `cargo run --release --example cudarc_partition -- [--out FILE]`

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use cuda_green::{ContextId, Driver, PartitionMode, SmPartitionManager, kernels};
use cudarc::{
    driver::{CudaContext, LaunchConfig, PushKernelArg, sys},
    nvrtc::Ptx,
};
use serde_json::{Map, Value, json};

/// Run a program of cudarc's in each partition and compare the SMs that it saw with the partition's.
#[derive(Parser)]
struct Args {
    /// Write what was seen to this file as JSON
    #[arg(long)]
    out: Option<PathBuf>,
}

/// More than any device has.
const IDS: usize = 4096;

#[allow(dead_code)] // the test that runs this calls what is below
fn main() -> ExitCode {
    match run(Args::parse().out.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the kernel in each partition, prints what it saw, and fails where that is not the partition.
///
/// # Errors
/// What either library says, and SMs that are not the partition's.
pub fn run(out: Option<&Path>) -> Result<(), Box<dyn Error + Send + Sync>> {
    // Both libraries load the same `libcuda.so.1`, and both hold the primary context of the same device.
    let device = Driver::load()?.device(0)?;
    if device.driver().source().starts_with("sim:") {
        return Err("cudarc loads libcuda.so.1 by itself, and CUDA_GREEN_DRIVER does not reach it: put the \
                    simulated driver there, as the README of cuda-green-sim-driver says"
            .into());
    }
    let simulated = if device.driver().is_simulated() {
        " (SIMULATED: no GPU was used)"
    } else {
        ""
    };
    println!("{}{simulated}", device.name());
    if let Some(path) = out {
        driver_matrix::evidence::check(path)?;
    }
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let partitioned = manager.allocation_status().mode == PartitionMode::Partitioned;
    let theirs = CudaContext::new(device.ordinal() as usize)?;
    let kernel = theirs
        .load_module(Ptx::from_src(kernels::PTX))?
        .load_function("cuda_green_sm_ids")?;
    let mut figures = Map::new();
    for id in ContextId::ALL {
        let context = manager.get_context(id)?;
        let stream = context.create_stream()?;
        // SAFETY: the stream is of this device, and outlives `borrowed`, which never destroys it. A context
        // of cudarc's over the green context itself would destroy that when it is dropped: there must be
        // none (`CudaContext::from_raw_context`).
        let borrowed = unsafe { theirs.wrap_borrowed_stream(stream.raw().cast()) };
        let counts = context.memory()?.allocate(IDS * 4)?;
        counts.fill(0)?;
        let blocks = device.properties().multiprocessor_count * 8;
        let shape = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (1024, 1, 1),
            shared_mem_bytes: 0,
        };
        let (address, ids, spin) = (counts.address(), IDS as u32, 50_000u32);
        let mut launch = borrowed.launch_builder(&kernel);
        launch.arg(&address).arg(&ids).arg(&spin);
        // SAFETY: the kernel takes so many counters, their number and a time; they outlive the wait below.
        unsafe { launch.launch(shape)? };
        borrowed
            .record_event(Some(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))?
            .synchronize()?;
        let mut bytes = vec![0; IDS * 4];
        counts.copy_to(&mut bytes)?;
        let seen = bytes.chunks_exact(4).zip(0u32..);
        let seen = seen.filter(|(count, _)| count.iter().any(|byte| *byte != 0));
        let seen: Vec<u32> = seen.map(|(_, sm)| sm).collect();
        let is_its_own = seen == context.observed_sm_ids()?;
        println!("{id}: cudarc's kernel ran on {} SMs", seen.len());
        if !is_its_own || (partitioned && seen.len() != context.sm_count() as usize) {
            return Err(format!("{id} has {} SMs, not {seen:?}", context.sm_count()).into());
        }
        let figure = json!({ "sm_count": context.sm_count(), "sm_ids_seen_by_cudarc": seen });
        figures.insert(id.to_string(), figure);
    }
    if let Some(path) = out {
        let command = "cargo run --release --example cudarc_partition -- --out FILE";
        driver_matrix::evidence::write(path, &device, command, Value::Object(figures))?;
    }
    Ok(())
}
