//! Contexts of measurements.

use cuda_green::{CudaDevice, GreenContextConfig};

/// Returns the configuration of a context of this size.
pub fn config(sm_count: u32) -> GreenContextConfig {
    GreenContextConfig {
        sm_count,
        ..GreenContextConfig::default()
    }
}

/// Ensures that the device has partitions: without them, the figures would be of something else.
pub fn must_have_partitions(device: &CudaDevice) -> anyhow::Result<()> {
    match device.missing_features() {
        None => Ok(()),
        Some(reason) => anyhow::bail!("nothing to measure: {reason}"),
    }
}
