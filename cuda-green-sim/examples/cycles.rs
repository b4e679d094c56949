//! The speed of the simulator: green contexts created and destroyed in turn.
//!
//! `cargo run --release --package cuda-green-sim --example cycles -- [PROFILE]`

use std::{error::Error, ptr, time::Instant};

use cuda_green_sim::Sim;
use cuda_green_sys::{CUdevResource, CUdevResourceType};

const CYCLES: u32 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let profile = std::env::args().nth(1);
    let sim = Sim::new(profile.as_deref().unwrap_or("h200@13.0"))?;
    let _nothing_left = sim.leak_guard();
    let driver = sim.api()?;
    let mut part = CUdevResource::default();
    let mut groups = 1;
    let mut descriptor = ptr::null_mut();
    // SAFETY: every pointer is to a live variable of its type or null where the driver allows it, the
    // driver is initialised first, and handles are used while they live.
    let took = unsafe {
        driver.cuInit(0)?.ok()?;
        let mut context = ptr::null_mut();
        driver.cuDevicePrimaryCtxRetain(&mut context, 0)?.ok()?;
        let mut whole = CUdevResource::default();
        let sms = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
        driver.cuDeviceGetDevResource(0, &mut whole, sms)?.ok()?;
        let (rest, flags, least) = (ptr::null_mut(), 0, 8);
        driver
            .cuDevSmResourceSplitByCount(&mut part, &mut groups, &whole, rest, flags, least)?
            .ok()?;
        driver
            .cuDevResourceGenerateDesc(&mut descriptor, &mut part, 1)?
            .ok()?;
        let start = Instant::now();
        for _ in 0..CYCLES {
            let mut green = ptr::null_mut();
            driver
                .cuGreenCtxCreate(&mut green, descriptor, 0, 1)?
                .ok()?;
            driver.cuGreenCtxDestroy(green)?.ok()?;
        }
        let took = start.elapsed();
        driver.cuDevicePrimaryCtxRelease_v2(0)?.ok()?;
        took
    };
    println!(
        "SIMULATED {}: {CYCLES} green contexts made and destroyed in {took:.1?}",
        sim.profile()
    );
    Ok(())
}
