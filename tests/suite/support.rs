//! What several cases need.

use std::collections::BTreeSet;

use cuda_green::{
    ContextId, ContextPriority, CudaDevice, Driver, GreenContext, GreenContextConfig, Module,
    Result, SmPartitionManager, sys,
};

/// Repetitions of a loop: many on a simulator, few on a GPU, where each costs milliseconds.
pub fn times(driver: &Driver, on_simulator: usize, on_gpu: usize) -> usize {
    if driver.is_simulated() {
        on_simulator
    } else {
        on_gpu
    }
}

pub fn quad(driver: &Driver) -> Result<(CudaDevice, SmPartitionManager)> {
    let device = driver.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    Ok((device, manager))
}

pub fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

pub fn low(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        priority: ContextPriority::Low,
        ..config(sm_count)
    }
}

/// The SMs that a context really runs on; as many as it says it has.
pub fn sm_ids(context: &GreenContext) -> Result<BTreeSet<u32>> {
    let ids: BTreeSet<u32> = context.observed_sm_ids()?.into_iter().collect();
    assert_eq!(ids.len(), context.sm_count() as usize, "SMs seen: {ids:?}");
    Ok(ids)
}

/// The largest cluster that runs in a context, by the driver's occupancy calculation.
pub fn largest_cluster(context: &GreenContext) -> Result<u32> {
    let device = context.device();
    let ptx = include_str!("../../cuda-green/src/kernels/kernels.ptx");
    let kernel = Module::load_ptx(device, ptx)?.kernel("cuda_green_burn")?;
    let stream = context.create_stream()?;
    let config = sys::CUlaunchConfig {
        gridDimX: 1024,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 128,
        blockDimY: 1,
        blockDimZ: 1,
        hStream: stream.raw(),
        ..Default::default()
    };
    let mut size = 0;
    // SAFETY: the output is valid, kernel and stream are live, and the configuration has no attributes.
    let result = unsafe {
        device
            .driver()
            .api()
            .cuOccupancyMaxPotentialClusterSize(&mut size, kernel.raw(), &config)
    };
    result.unwrap().ok().unwrap();
    Ok(size as u32)
}

/// Fails if two sets have an SM in common, or if they do not add up.
pub fn assert_disjoint(sets: &[BTreeSet<u32>]) {
    let distinct: BTreeSet<u32> = sets.iter().flatten().copied().collect();
    let seen: usize = sets.iter().map(BTreeSet::len).sum();
    assert_eq!(seen, distinct.len(), "an SM is in two partitions: {sets:?}");
}

pub fn is_partitioned(driver: &Driver) -> bool {
    driver.version() >= cuda_green::CudaVersion::new(12, 4)
}

/// The raw current context of this thread.
pub fn current(driver: &Driver) -> usize {
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is valid for the one handle that is written.
    unsafe { driver.api().cuCtxGetCurrent(&mut context) }
        .unwrap()
        .ok()
        .unwrap();
    context as usize
}

pub fn contexts(manager: &SmPartitionManager) -> Result<Vec<GreenContext>> {
    ContextId::ALL
        .iter()
        .map(|id| manager.get_context(*id))
        .collect()
}
