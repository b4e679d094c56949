//! The cost of calls while background work floods the GPU. Some make the driver wait for the work on the device; their
//! provisioned forms do not.

use std::{io, thread, time::Instant};

use cuda_green::{
    ContextId, CudaDevice, Event, GreenContextConfig, LaunchConfig, Module, PinnedBuffer,
    RebalanceHint, Result, SmPartitionManager, kernels,
};
use serde::Serialize;

use super::{
    contexts::must_have_partitions,
    load::{LONG_BLOCKS, Load},
    run::{Figures, Work},
    samples::{Distribution, Samples},
};
use crate::render::duration::duration;

#[derive(Serialize)]
pub struct UnderLoad {
    flood: String,
    calls: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    call: String,
    /// The times on an otherwise idle GPU.
    alone: Distribution,
    beside_a_flood: Distribution,
}

/// A prepared call, which runs on a new thread and returns its time in nanoseconds.
type Ready<'a> = Box<dyn FnOnce() -> Result<f64> + Send + 'a>;
/// A function that prepares all that a call needs, before the flood.
type Prepare = fn(&SmPartitionManager) -> Result<Ready<'_>>;

const CALLS: [(&str, Prepare); 11] = [
    ("create a context", create_context),
    ("first rebalance", rebalance),
    ("first rebalance, provisioned", rebalance_provisioned),
    ("activate on a further thread", activate),
    (
        "activate on a further thread, provisioned",
        activate_provisioned,
    ),
    ("create a stream", create_stream),
    ("create an event", create_event),
    ("load a module of PTX", load_module),
    ("launch a kernel for the first time", first_launch),
    ("allocate from a pool for the first time", first_allocation),
    ("allocate pinned host memory", allocate_pinned),
];

pub fn measure(work: &Work<'_>) -> anyhow::Result<UnderLoad> {
    must_have_partitions(work.device)?;
    let load = Load::new(work.device, work.quick)?;
    let rounds = if work.quick { 2 } else { 30 };
    work.progress.set_length(CALLS.len() as u64 * rounds);
    let device = work.device;
    let mut calls = Vec::new();
    for (name, prepare) in CALLS {
        work.progress.set_message(name);
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            alone.push(once(device, prepare, None)?);
            beside.push(once(device, prepare, Some(&load))?);
            work.progress.inc(1);
        }
        calls.push(Row {
            call: name.to_owned(),
            alone: Samples::of(alone).into(),
            beside_a_flood: Samples::of(beside).into(),
        });
    }
    Ok(UnderLoad {
        flood: LONG_BLOCKS.name.to_owned(),
        calls,
    })
}

/// Times one call, beside a flood or alone. Each call gets new contexts, because a second one would find what the
/// first made.
fn once(device: &CudaDevice, prepare: Prepare, flood: Option<&Load>) -> anyhow::Result<f64> {
    let manager = SmPartitionManager::on(device)?;
    manager.init_quad_partition()?;
    let background = manager.get_context(ContextId::Training)?.create_stream()?;
    let ready = prepare(&manager)?;
    let call = || {
        let time = thread::scope(|scope| -> io::Result<_> {
            Ok(thread::Builder::new().spawn_scoped(scope, ready)?.join())
        })?;
        Ok(time.map_err(|_| anyhow::anyhow!("the call's thread panicked"))??)
    };
    match flood {
        Some(load) => load.beside(LONG_BLOCKS, &background, call),
        None => call(),
    }
}

/// Returns the nanoseconds that it takes to make something, without its destruction.
fn timed<T>(make: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    let made = make()?;
    let time = start.elapsed().as_nanos() as f64;
    drop(made);
    Ok(time)
}

fn create_context(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    manager.destroy_context(ContextId::Reserved)?;
    let config = GreenContextConfig {
        sm_count: manager.allocation_status().available_sms,
        ..GreenContextConfig::default()
    };
    Ok(Box::new(move || {
        timed(|| manager.create_context(ContextId::Reserved, config))
    }))
}

fn rebalance(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    Ok(Box::new(|| {
        timed(|| manager.rebalance(RebalanceHint::EmbeddingHeavy))
    }))
}

fn rebalance_provisioned(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    manager.provision_rebalance()?;
    rebalance(manager)
}

fn activate(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    let embedding = manager.get_context(ContextId::Embedding)?;
    // This thread uses the context itself from now on, so another thread needs a sibling.
    embedding.activate()?.close()?;
    Ok(Box::new(move || timed(|| embedding.activate())))
}

fn activate_provisioned(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    let embedding = manager.get_context(ContextId::Embedding)?;
    embedding.provision_threads(2)?;
    activate(manager)
}

fn create_stream(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    let embedding = manager.get_context(ContextId::Embedding)?;
    Ok(Box::new(move || timed(|| embedding.create_stream())))
}

fn create_event(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    Ok(Box::new(|| timed(|| Event::new(manager.device()))))
}

fn load_module(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    Ok(Box::new(|| {
        timed(|| Module::load_ptx(manager.device(), kernels::PTX))
    }))
}

/// A driver may load a kernel only when it is first launched (`CUDA_MODULE_LOADING`).
fn first_launch(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    let stream = manager.get_context(ContextId::Embedding)?.create_stream()?;
    let kernel = Module::load_ptx(manager.device(), kernels::PTX)?.kernel(kernels::BURN)?;
    Ok(Box::new(move || {
        let shape = LaunchConfig::linear(1, 32);
        // SAFETY: the kernel takes an address, which it does not use, and a number of rounds.
        timed(|| unsafe { stream.launch(&kernel, &shape, &[&0u64, &0u32]) })
    }))
}

fn first_allocation(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    let embedding = manager.get_context(ContextId::Embedding)?;
    embedding.memory()?;
    Ok(Box::new(move || {
        timed(|| embedding.memory()?.allocate(1 << 20))
    }))
}

fn allocate_pinned(manager: &SmPartitionManager) -> Result<Ready<'_>> {
    Ok(Box::new(|| {
        timed(|| PinnedBuffer::<u8>::new(manager.device(), 1 << 20))
    }))
}

impl Figures for UnderLoad {
    fn table(&self) -> String {
        let mut table = format!(
            "{:<42} {:>9} {:>9} {:>9}\n",
            "one call, alone and beside a flood", "alone", "beside", "max"
        );
        for row in &self.calls {
            let (alone, beside) = (&row.alone, &row.beside_a_flood);
            let [alone, p50, max] = [alone.p50_ns, beside.p50_ns, beside.max_ns].map(duration);
            table += &format!("{:<42} {alone:>9} {p50:>9} {max:>9}\n", row.call);
        }
        table.trim_end().to_owned()
    }
}
