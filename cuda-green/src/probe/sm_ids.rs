//! The SMs on which a context's blocks run, measured on the device.

use crate::{
    error::Result, kernels, launch::LaunchConfig, memory::GpuMemoryPool, partition::GreenContext,
};

impl GreenContext {
    /// Measures the ids of the SMs that the context's blocks run on: it runs a small kernel of this crate in a
    /// separate stream, and each block records the SM it runs on. This takes about a millisecond on
    /// an idle GPU; otherwise it waits for the work there.
    ///
    /// Under MPS each context numbers its SM ids from 0 (measured on an H200, driver 580). Their count is meaningful
    /// there, but the ids of two contexts cannot be compared.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn observed_sm_ids(&self) -> Result<Vec<u32>> {
        /// A number larger than the number of SMs of any device.
        const IDS: usize = 4096;
        /// Long enough that no SM gets a second block before every SM has had its first.
        const SPIN_NS: u32 = 50_000;
        let stream = self.create_stream()?;
        let pool = GpuMemoryPool::on(self.device(), (IDS * 4) as u64)?;
        let counts = pool.allocate(IDS * 4)?;
        counts.fill(0)?;
        let kernel = self
            .device()
            .kernels()?
            .function(self.device().driver(), kernels::SM_IDS)?;
        // Blocks of 1024 threads fit once or twice on an SM, so these are several rounds over all SMs.
        let blocks = self.device().properties().multiprocessor_count * 8;
        let config = LaunchConfig::linear(blocks, 1024);
        // SAFETY: the kernel takes a pointer to `IDS` counters, their number, and a time; the buffer
        // outlives the launch, which is waited for.
        unsafe {
            stream.launch_raw(
                kernel,
                &config,
                &[&counts.address(), &(IDS as u32), &SPIN_NS],
            )?
        };
        stream.synchronize_beside_captures()?;
        let mut bytes = vec![0u8; IDS * 4];
        counts.copy_to(&mut bytes)?;
        let seen = bytes
            .chunks_exact(4)
            .zip(0u32..)
            .filter(|(count, _)| count.iter().any(|byte| *byte != 0));
        Ok(seen.map(|(_, id)| id).collect())
    }
}
