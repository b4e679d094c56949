//! The choice among cuBLASLt's ways to compute a product on the SMs of a partition.
//!
//! Its kernels for compute capability 9.0 start one block for each SM that the heuristic is told, in clusters of up to
//! four blocks. A partition can have SMs that no such cluster fits on, and then the last clusters wait for a second
//! round: in the 100 SMs that a split into units of 8 leaves beside 32, a product of MiniLM takes 76 µs where told of 100
//! SMs and 46 µs where told of the 88 that clusters fill (H200, driver 580, cuBLASLt 13). Told of none, it is now the
//! best, now the worst. So where SMs and clusters differ, each is tried.

use std::{sync::Arc, time::Duration};

use cuda_green::{CudaDevice, Event, Kernel, LaunchConfig, Module, Stream, kernels};

use super::{CublasLt, Product, ProductShape};
use crate::{error::Result, lock::lock};

/// The first compute capability with clusters.
const CLUSTERS: (u32, u32) = (9, 0);
/// The blocks of the largest clusters that cuBLASLt uses.
const CLUSTER: u32 = 4;
/// The threads of a block of which two fill an SM.
const HALF_AN_SM: u32 = 1024;
/// The launches that are timed, after one that is not.
const LAUNCHES: u32 = 4;

impl CublasLt {
    /// Prepares a product for the SMs of a stream's context. Where these have room for fewer clusters of blocks than they
    /// are SMs, it is launched by the closure in a few ways, which takes some of its times, and is prepared in the way
    /// that was the fastest. The stream must not be in a capture.
    ///
    /// # Errors
    /// As [`product`](Self::product), and the closure's.
    pub fn product_on(
        self: &Arc<Self>,
        stream: &Stream,
        shape: ProductShape,
        workspace_bytes: usize,
        launch: impl Fn(&Product) -> Result<()>,
    ) -> Result<Product> {
        let sms = stream.context().sm_count();
        let first = self.product(shape, workspace_bytes, Some(sms))?;
        let filled = self.sms_filled_by_clusters(stream)?;
        if filled >= sms {
            return Ok(first);
        }
        let events = [Event::timed(&self.device)?, Event::timed(&self.device)?];
        let time = |product: &Product| time(stream, &events, || launch(product));
        let mut best = (time(&first)?, first);
        for target in [Some(filled.max(1)), None] {
            // The first way is there already, so another one may be refused.
            let Ok(other) = self.product(shape, workspace_bytes, target) else {
                continue;
            };
            match time(&other) {
                Ok(took) if took < best.0 => best = (took, other),
                Ok(_) => {}
                Err(error) => log::debug!("a product told of {target:?} SMs: {error}"),
            }
        }
        Ok(best.1)
    }

    /// Returns how many SMs of a partition clusters of blocks can fill at once; all where there are no clusters or no
    /// partition, and on a simulated driver, whose times mean nothing.
    fn sms_filled_by_clusters(&self, stream: &Stream) -> Result<u32> {
        let context = stream.context();
        let capability = self.device.properties().compute_capability;
        let is_simulated = self.device.driver().is_simulated();
        if !context.is_partitioned() || capability < CLUSTERS || is_simulated {
            return Ok(context.sm_count());
        }
        let blocks = LaunchConfig::linear(CLUSTER, HALF_AN_SM).cluster([CLUSTER, 1, 1]);
        let clusters = stream.max_active_clusters(&self.half_an_sm()?, &blocks)?;
        Ok(clusters * CLUSTER / 2)
    }

    /// Returns a kernel of which two blocks of 1024 threads fit on an SM.
    fn half_an_sm(&self) -> Result<Kernel> {
        let mut kernel = lock(&self.half_an_sm);
        if let Some(kernel) = &*kernel {
            return Ok(kernel.clone());
        }
        let loaded = load(&self.device)?;
        *kernel = Some(loaded.clone());
        Ok(loaded)
    }
}

fn load(device: &CudaDevice) -> Result<Kernel> {
    Ok(Module::load_ptx(device, kernels::PTX)?.kernel(kernels::BURN)?)
}

/// Returns the time of some launches.
fn time(
    stream: &Stream,
    [start, end]: &[Event; 2],
    launch: impl Fn() -> Result<()>,
) -> Result<Duration> {
    let timed = || -> Result<()> {
        launch()?;
        stream.record(start)?;
        for _ in 0..LAUNCHES {
            launch()?;
        }
        Ok(stream.record(end)?)
    };
    let timed = timed();
    // In any case: nothing may be on the way when the caller is told of an error.
    stream.synchronize()?;
    timed?;
    Ok(end.elapsed_since(start)?)
}
