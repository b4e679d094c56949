//! The cost of one more context of 8 SMs out of an existing split, beside raw calls over one group of that size.

use std::{hint::black_box, ptr, time::Instant};

use anyhow::Context;
use cuda_green::{
    ContextId, CudaDevice, SmPartitionManager,
    sys::{CUdevResource, CUgreenCtx},
};

use super::{clock::Comparison, contexts::config, raw::ok, samples::Samples};

/// The nanoseconds of each creation and of each destruction, in the same order.
#[derive(Default)]
struct Times {
    created: Vec<f64>,
    destroyed: Vec<f64>,
}

impl Times {
    /// Times a creation and a destruction, and, between the two and untimed, `between`.
    fn add<T, U>(
        &mut self,
        create: impl FnOnce() -> anyhow::Result<T>,
        between: impl FnOnce(T) -> U,
        destroy: impl FnOnce(U) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let made = create()?;
        self.created.push(start.elapsed().as_secs_f64() * 1e9);
        let left = between(black_box(made));
        let start = Instant::now();
        destroy(left)?;
        self.destroyed.push(start.elapsed().as_secs_f64() * 1e9);
        Ok(())
    }

    /// Returns the sums of both, the creations, and the destructions.
    fn samples(self) -> [Samples; 3] {
        let pairs = self.created.iter().zip(&self.destroyed);
        let both = pairs.map(|(created, destroyed)| created + destroyed);
        let both = both.collect();
        [both, self.created, self.destroyed].map(Samples::of)
    }
}

/// Compares ours and the raw calls in turn. No other context has the same SMs meanwhile.
pub fn compare(device: &CudaDevice, rounds: usize) -> anyhow::Result<Vec<Comparison>> {
    let manager = SmPartitionManager::on(device)?;
    let _keeps_the_split = manager.create_context(ContextId::Reserved, config(8))?;
    let mut unit = unit(device)?;
    let (mut ours, mut raw) = (Times::default(), Times::default());
    for _ in 0..rounds {
        ours.add(
            || Ok(manager.create_context(ContextId::Embedding, config(8))?),
            drop,
            |()| Ok(manager.destroy_context(ContextId::Embedding)?),
        )?;
        raw.add(
            || create(device, &mut unit),
            |green| green,
            // SAFETY: the context was made just now, and nothing was made in it.
            |green| ok(unsafe { device.driver().api().cuGreenCtxDestroy(green) }),
        )?;
    }
    let names = ["create + destroy", "create", "destroy"];
    let both = ours.samples().into_iter().zip(raw.samples());
    let named = names.into_iter().zip(both);
    Ok(named
        .map(|(name, (ours, raw))| Comparison::of(device, name, &ours, &raw))
        .collect())
}

/// Splits the whole device, and returns one group of 8 SMs.
fn unit(device: &CudaDevice) -> anyhow::Result<CUdevResource> {
    let whole = device.sm_resource()?;
    let all = *whole.raw_parts().next().context("a device has SMs")?;
    let mut unit = CUdevResource::default();
    let mut one = 1;
    let api = device.driver().api();
    // SAFETY: the outputs are valid and zeroed, and the input is the driver's.
    ok(unsafe {
        api.cuDevSmResourceSplitByCount(&mut unit, &mut one, &all, ptr::null_mut(), 0, 8)
    })?;
    Ok(unit)
}

fn create(device: &CudaDevice, unit: &mut CUdevResource) -> anyhow::Result<CUgreenCtx> {
    let (mut descriptor, mut green, mut context) =
        (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let api = device.driver().api();
    // SAFETY: the outputs are valid; each input is what the call before gave.
    unsafe {
        ok(api.cuDevResourceGenerateDesc(&mut descriptor, unit, 1))?;
        ok(api.cuGreenCtxCreate(&mut green, descriptor, device.raw(), 1))?;
        ok(api.cuCtxFromGreenCtx(&mut context, green))?;
    }
    black_box(context);
    Ok(green)
}
