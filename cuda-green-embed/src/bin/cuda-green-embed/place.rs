//! The device, and the SMs on it.

use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, Driver, PartitionStream, SmPartitionManager,
    planner::PartitionRequest,
};

use crate::args::{Embed, Place};

impl Place {
    /// Opens the device that was asked for.
    pub fn device(&self) -> cuda_green::Result<CudaDevice> {
        let driver = match &self.driver {
            Some(spec) => Driver::open(spec)?,
            None => Driver::load()?,
        };
        driver.device(self.device)
    }
}

/// Makes the partition that was asked for, and a stream in it.
pub fn stream(
    device: &CudaDevice,
    options: &Embed,
) -> cuda_green::Result<(SmPartitionManager, PartitionStream)> {
    let manager = SmPartitionManager::on(device)?;
    let id = match (options.partition, options.sms) {
        (Some(partition), _) => {
            manager.init_quad_partition()?;
            partition.id()
        }
        (None, sms) => {
            let request = sms.map_or(PartitionRequest::rest(), PartitionRequest::target);
            let id = ContextId::Embedding;
            manager.create_partitions(&[(id, request, ContextPolicy::default())])?;
            id
        }
    };
    let stream = manager.create_stream(id)?;
    Ok((manager, stream))
}
