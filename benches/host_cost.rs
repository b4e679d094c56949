//! What this library costs beyond the raw driver calls it makes: each figure beside the same sequence of
//! raw calls, in alternating batches of one run, as a ratio of medians.

#![allow(missing_docs)]

mod common;

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use clap::Parser;
use common::{Args, Outcome, percentile, sort};
use cuda_green::{
    ContextId, CudaDevice, Event, GreenContextConfig, HandOff, LaunchConfig, Module, RebalanceHint,
    SmPartitionManager, sys,
};
use serde_json::{Map, Value, json};
use sys::{Api, CUresult, MissingEntryPoint};

/// Set in a child process that measures loading once and prints the nanoseconds.
const LOADING: &str = "CUDA_GREEN_BENCH_LOADING";

fn main() -> Outcome {
    if std::env::var_os(LOADING).is_some() {
        return loading_child();
    }
    let args = Args::parse();
    let device = args.device()?;
    let rounds = if args.quick { 3 } else { 200 };
    let mut figures = Map::new();
    println!(
        "{} ({} from {})",
        device.name(),
        device.driver().version(),
        device.driver().source()
    );
    println!(
        "{:<34} {:>12} {:>12} {:>7}",
        "median time of one", "ours", "raw", "ratio"
    );
    activation(&device, rounds, &mut figures)?;
    launch(&device, rounds, &mut figures)?;
    events(&device, rounds, &mut figures)?;
    creation(&device, rounds, &mut figures)?;
    rebalance(&device, rounds, &mut figures)?;
    if !device.driver().is_simulated() {
        loading(if args.quick { 2 } else { 20 }, &mut figures)?;
    }
    args.write(&device, "host_cost", figures)
}

/// Runs both in alternating batches and notes the median time of one call of each, and their ratio.
fn compare(
    name: &str,
    rounds: usize,
    batch: usize,
    figures: &mut Map<String, Value>,
    mut ours: impl FnMut() -> Outcome,
    mut raw: impl FnMut() -> Outcome,
) -> Outcome {
    let time = |action: &mut dyn FnMut() -> Outcome| -> Outcome<f64> {
        let start = Instant::now();
        for _ in 0..batch {
            action()?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / batch as f64)
    };
    time(&mut ours)?;
    time(&mut raw)?;
    let (mut of_ours, mut of_raw) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Which goes first alternates, so that neither always finds the caches of the other.
        if round % 2 == 0 {
            of_ours.push(time(&mut ours)?);
            of_raw.push(time(&mut raw)?);
        } else {
            of_raw.push(time(&mut raw)?);
            of_ours.push(time(&mut ours)?);
        }
    }
    note(name, of_ours, of_raw, figures);
    Ok(())
}

fn note(name: &str, mut ours: Vec<f64>, mut raw: Vec<f64>, figures: &mut Map<String, Value>) {
    sort(&mut ours);
    sort(&mut raw);
    let (ours_ns, raw_ns) = (percentile(&ours, 0.5), percentile(&raw, 0.5));
    let ratio = ours_ns / raw_ns;
    println!("{name:<34} {ours_ns:>9.1} ns {raw_ns:>9.1} ns {ratio:>7.2}");
    figures.insert(
        name.to_owned(),
        json!({
            "ours_ns": ours_ns, "raw_ns": raw_ns, "ratio": ratio, "rounds": ours.len(),
            "ours_p99_ns": percentile(&ours, 0.99), "raw_p99_ns": percentile(&raw, 0.99),
        }),
    );
}

fn ok(result: Result<CUresult, MissingEntryPoint>) -> Outcome {
    Ok(result?.ok()?)
}

fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

fn activation(device: &CudaDevice, rounds: usize, figures: &mut Map<String, Value>) -> Outcome {
    let manager = SmPartitionManager::on(device)?;
    let context = manager.create_context(ContextId::Embedding, config(8))?;
    let raw_context = context.raw_context()?;
    let api = device.driver().api();
    let ours = || {
        drop(context.activate()?);
        Ok(())
    };
    let raw = || {
        let mut popped = std::ptr::null_mut();
        // SAFETY: the context is live, and the pointer valid for the one handle that is written.
        unsafe {
            ok(api.cuCtxPushCurrent_v2(raw_context))?;
            ok(api.cuCtxPopCurrent_v2(&mut popped))
        }
    };
    compare("activate + drop", rounds, 10_000, figures, ours, raw)?;
    // A guard restores what it saw, so it asks first: the same three calls are what it could cost at best.
    let asking = || {
        let mut seen = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe { ok(api.cuCtxGetCurrent(&mut seen))? };
        black_box(seen);
        raw()
    };
    compare(
        "activate + drop beside its three calls",
        rounds,
        10_000,
        figures,
        ours,
        asking,
    )?;
    let through_manager = || {
        drop(manager.activate(ContextId::Embedding)?);
        Ok(())
    };
    compare(
        "activate + drop through the manager",
        rounds,
        10_000,
        figures,
        through_manager,
        raw,
    )
}

fn launch(device: &CudaDevice, rounds: usize, figures: &mut Map<String, Value>) -> Outcome {
    let manager = SmPartitionManager::on(device)?;
    let context = manager.create_context(ContextId::Embedding, config(8))?;
    let stream = context.create_stream()?;
    let module = Module::load_ptx(
        device,
        include_str!("../cuda-green/src/kernels/kernels.ptx"),
    )?;
    let kernel = module.kernel("cuda_green_burn")?;
    let shape = LaunchConfig::linear(1, 32);
    let (nowhere, no_rounds) = (0u64, 0u32);
    let api = device.driver().api();
    let ours = || {
        // SAFETY: the kernel takes an address, which it does not use, and a number of rounds.
        Ok(unsafe { stream.launch(&kernel, &shape, &[&nowhere, &no_rounds]) }?)
    };
    let raw = || {
        let mut args = [
            std::ptr::from_ref(&nowhere).cast_mut().cast(),
            std::ptr::from_ref(&no_rounds).cast_mut().cast(),
        ];
        // SAFETY: as above; stream and kernel are live.
        ok(unsafe {
            api.cuLaunchKernel(
                kernel.raw(),
                1,
                1,
                1,
                32,
                1,
                1,
                0,
                stream.raw(),
                args.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    };
    compare("launch", rounds, 500, figures, ours, raw)?;
    Ok(stream.synchronize()?)
}

fn events(device: &CudaDevice, rounds: usize, figures: &mut Map<String, Value>) -> Outcome {
    let manager = SmPartitionManager::on(device)?;
    let context = manager.create_context(ContextId::Embedding, config(8))?;
    let stream = context.create_stream()?;
    let event = Event::new(device)?;
    let api = device.driver().api();
    let ours = || {
        stream.record(&event)?;
        Ok(stream.wait(&event)?)
    };
    let raw = || {
        // SAFETY: stream and event are live.
        unsafe {
            ok(api.cuEventRecord(event.raw(), stream.raw()))?;
            ok(api.cuStreamWaitEvent(stream.raw(), event.raw(), 0))
        }
    };
    compare("record + wait", rounds, 500, figures, ours, raw)?;
    Ok(stream.synchronize()?)
}

/// One more context of 8 SMs out of a split in force, beside the raw calls over one unit of that size.
fn creation(device: &CudaDevice, rounds: usize, figures: &mut Map<String, Value>) -> Outcome {
    let manager = SmPartitionManager::on(device)?;
    let _keeps_the_split = manager.create_context(ContextId::Reserved, config(8))?;
    let api = device.driver().api();
    let whole = device.sm_resource()?;
    let all = *whole.raw_parts().next().ok_or("a resource has a part")?;
    let mut unit = sys::CUdevResource::default();
    let mut one = 1;
    // SAFETY: the outputs are valid and zeroed, and the input is the driver's.
    ok(unsafe {
        api.cuDevSmResourceSplitByCount(&mut unit, &mut one, &all, std::ptr::null_mut(), 0, 8)
    })?;
    let (mut created, mut destroyed) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let nanoseconds = |elapsed: Duration| elapsed.as_secs_f64() * 1e9;
    for _ in 0..rounds {
        let start = Instant::now();
        let context = manager.create_context(ContextId::Embedding, config(8))?;
        created.0.push(nanoseconds(start.elapsed()));
        drop(black_box(context));
        let start = Instant::now();
        manager.destroy_context(ContextId::Embedding)?;
        destroyed.0.push(nanoseconds(start.elapsed()));

        let (mut descriptor, mut green, mut context) = (
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
        let start = Instant::now();
        // SAFETY: the outputs are valid; each input is what the call before gave.
        unsafe {
            ok(api.cuDevResourceGenerateDesc(&mut descriptor, &mut unit, 1))?;
            ok(api.cuGreenCtxCreate(&mut green, descriptor, device.raw(), 1))?;
            ok(api.cuCtxFromGreenCtx(&mut context, green))?;
        }
        created.1.push(nanoseconds(start.elapsed()));
        black_box(context);
        let start = Instant::now();
        // SAFETY: the context was made above, and nothing was made in it.
        ok(unsafe { api.cuGreenCtxDestroy(green) })?;
        destroyed.1.push(nanoseconds(start.elapsed()));
    }
    let both = |created: &[f64], destroyed: &[f64]| {
        let pairs = created.iter().zip(destroyed);
        pairs
            .map(|(created, destroyed)| created + destroyed)
            .collect()
    };
    let (ours, raw) = (
        both(&created.0, &destroyed.0),
        both(&created.1, &destroyed.1),
    );
    note("create + destroy", ours, raw, figures);
    note("create", created.0, created.1, figures);
    note("destroy", destroyed.0, destroyed.1, figures);
    Ok(())
}

/// A provisioned rebalance, call to return, and the first kernel on the new SMs after it, on an idle GPU. There
/// is no raw call to hold the first against; the second stands beside a launch without a rebalance.
fn rebalance(device: &CudaDevice, rounds: usize, figures: &mut Map<String, Value>) -> Outcome {
    let manager = SmPartitionManager::on(device)?;
    manager.init_quad_partition()?;
    let contexts = manager.provision_rebalance()?;
    let module = Module::load_ptx(
        device,
        include_str!("../cuda-green/src/kernels/kernels.ptx"),
    )?;
    let kernel = module.kernel("cuda_green_burn")?;
    let stream = manager.create_stream(ContextId::Embedding)?;
    let launch = || -> Outcome<f64> {
        let start = Instant::now();
        // SAFETY: the kernel takes an address, which it does not use, and a number of rounds.
        unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[&0u64, &0u32])? };
        stream.synchronize()?;
        Ok(start.elapsed().as_secs_f64() * 1e9)
    };
    for (hand_off, name) in [
        (HandOff::Strict, "rebalance, strict"),
        (HandOff::Relaxed, "rebalance, relaxed"),
    ] {
        let (mut times, mut first, mut usual) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds * 4 {
            let hint = RebalanceHint::ALL[round % 4];
            let start = Instant::now();
            manager.rebalance_with(hint, hand_off)?;
            let elapsed = start.elapsed().as_secs_f64() * 1e9;
            let (after, again) = (launch()?, launch()?);
            // The first round makes streams for the new contexts.
            if round >= 4 {
                times.push(elapsed);
                first.push(after);
                usual.push(again);
            }
        }
        for samples in [&mut times, &mut first, &mut usual] {
            sort(samples);
        }
        let median = |samples: &[f64]| percentile(samples, 0.5);
        println!(
            "{name:<34} {:>9.1} ns; launch + sync after it {:.1} ns, usually {:.1} ns; {contexts} contexts kept",
            median(&times),
            median(&first),
            median(&usual),
        );
        figures.insert(
            name.to_owned(),
            json!({
                "ns": median(&times), "p99_ns": percentile(&times, 0.99), "rounds": times.len(),
                "launch_and_sync_after_ns": median(&first), "launch_and_sync_ns": median(&usual),
                "contexts_kept": contexts,
            }),
        );
    }
    Ok(())
}

/// Loading the driver and resolving every entry point, beyond `dlopen`: in fresh processes, since a
/// library is loaded once in each.
fn loading(children: usize, figures: &mut Map<String, Value>) -> Outcome {
    let mut nanoseconds = Vec::new();
    for _ in 0..children {
        let output = Command::new(std::env::current_exe()?)
            .env(LOADING, "1")
            .output()?;
        nanoseconds.push(String::from_utf8(output.stdout)?.trim().parse::<f64>()?);
    }
    sort(&mut nanoseconds);
    let median = percentile(&nanoseconds, 0.5);
    println!(
        "{:<34} {:>9.1} us beyond dlopen, {} entry points",
        "load",
        median / 1e3,
        sys::ENTRY_POINTS.len()
    );
    figures.insert(
        "load".into(),
        json!({
            "beyond_dlopen_ns": median, "max_ns": percentile(&nanoseconds, 1.0),
            "entry_points": sys::ENTRY_POINTS.len(), "processes": children,
        }),
    );
    Ok(())
}

fn loading_child() -> Outcome {
    // SAFETY: the system's CUDA driver is trusted, as by every program linked to it.
    let library = unsafe { libloading::Library::new("libcuda.so.1") }?;
    let start = Instant::now();
    let api = Api::load_spec(&sys::DriverSpec::System);
    println!("{}", start.elapsed().as_nanos());
    black_box(api)?;
    // The driver's threads run code of the library, so it must never be unloaded.
    std::mem::forget(library);
    Ok(())
}
