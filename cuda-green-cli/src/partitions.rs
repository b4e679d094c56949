//! Partitions as several commands make them, and the sentences for devices that have none.

use cuda_green::{
    ContextPolicy, CudaDevice, CudaVersion, SmPartitionManager, planner::PartitionRequest,
};

/// The first version with green contexts.
pub const GREEN_CONTEXTS: CudaVersion = CudaVersion::new(12, 4);
/// The first drivers with green contexts, in words.
pub const FIRST_BRANCH: &str = "CUDA 12.4 comes with the drivers of NVIDIA's branch 550 and later";

/// Returns four equal partitions, of which the last takes the remainder.
pub fn quad(total: u32) -> Vec<(String, PartitionRequest)> {
    let quarter = (total / 4).max(2) & !1;
    let target = (quarter.to_string(), PartitionRequest::target(quarter));
    let rest = ("rest".to_owned(), PartitionRequest::rest());
    vec![target.clone(), target.clone(), target, rest]
}

/// Makes the partitions. Their ids are their places in the list.
pub fn partitioned(
    device: &CudaDevice,
    asked: &[(String, PartitionRequest)],
) -> anyhow::Result<SmPartitionManager<usize>> {
    let manager: SmPartitionManager<usize> = SmPartitionManager::with_ids(device)?;
    let policy = ContextPolicy::default();
    let partitions = asked.iter().enumerate();
    let partitions: Vec<_> = partitions
        .map(|(index, (_, request))| (index, *request, policy))
        .collect();
    manager.create_partitions(&partitions)?;
    Ok(manager)
}

/// Returns what programs do on a device without partitions, and what would give it partitions.
pub fn without_partitions(device: &CudaDevice) -> String {
    let single = "Programs work in single-context mode, where nothing is isolated.";
    if device.driver().version() < GREEN_CONTEXTS {
        format!("{single} {FIRST_BRANCH}.")
    } else {
        single.to_owned()
    }
}
