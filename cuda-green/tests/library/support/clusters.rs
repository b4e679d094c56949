//! The clusters that run in a context, by the driver's own account.

use cuda_green::{GreenContext, Kernel, Result, sys};

/// The largest cluster of a kernel that runs in a context, by the driver's occupancy calculation.
pub fn largest_cluster(kernel: &Kernel, context: &GreenContext) -> Result<u32> {
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
        context
            .device()
            .driver()
            .api()
            .cuOccupancyMaxPotentialClusterSize(&mut size, kernel.raw(), &config)
    };
    result.unwrap().ok().unwrap();
    Ok(size as u32)
}
