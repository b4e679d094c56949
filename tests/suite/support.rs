//! Helpers of several cases.

#[path = "../../cuda-green/tests/library/support/clusters.rs"]
mod clusters;
#[path = "../../cuda-green/tests/library/support/linked.rs"]
pub mod linked;
#[path = "../../cuda-green/tests/library/support/oracle.rs"]
pub mod oracle;

use std::collections::BTreeSet;

use cuda_green::{
    ContextId, ContextPriority, CudaDevice, CudaVersion, Driver, Error, GreenContext,
    GreenContextConfig, Kernel, Module, Result, SmPartitionManager, SmResource, kernels,
};

/// Repetitions of a loop: many on a simulator, few on a GPU, where each costs milliseconds.
pub fn times(driver: &Driver, on_simulator: usize, on_gpu: usize) -> usize {
    if driver.is_simulated() {
        on_simulator
    } else {
        on_gpu
    }
}

pub use clusters::largest_cluster;

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

/// One of the crate's own kernels.
pub fn kernel(device: &CudaDevice, name: &str) -> Result<Kernel> {
    Module::load_ptx(device, kernels::PTX)?.kernel(name)
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

/// The device where it can be partitioned.
pub fn partitioned_device(driver: &Driver) -> Result<Option<CudaDevice>> {
    let device = driver.device(0)?;
    Ok(device.supports_required_features().then_some(device))
}

pub fn since(driver: &Driver, major: u16, minor: u8) -> bool {
    driver.version() >= CudaVersion::new(major, minor)
}

/// A context over the whole of a resource.
pub fn over(resource: &SmResource) -> Result<GreenContext> {
    let one = std::slice::from_ref(resource);
    GreenContext::from_resources(one, None, GreenContextConfig::default())
}

/// Asserts a refusal that names the version which can.
pub fn needs<T: std::fmt::Debug>(result: Result<T>, major: u16, minor: u8) {
    match result {
        Err(Error::Unsupported { needs, .. }) => assert_eq!(needs, CudaVersion::new(major, minor)),
        other => panic!("{other:?}"),
    }
}
