//! Tasks to a resident kernel, from the CPU and from another kernel.

use std::{env, thread, time::Instant};

use anyhow::{Context, bail, ensure};
use cuda_green::{KernelArg, LaunchConfig};
use cuda_green_queue::{KernelQueue, ResidentQueue};

use super::{
    Once,
    own::{Ask, Own, STUCK},
    raw::{grid, kept},
    times::Times,
};

/// Returns the reason why no kernel can stay here while the CPU goes on, if there is one.
pub fn impossible() -> Option<&'static str> {
    let blocks = env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|value| value != "0");
    blocks
        .then_some("resident kernels: CUDA_LAUNCH_BLOCKING has launches wait for the kernel's end")
}

/// Measures tasks of the CPU, one after another.
pub fn from_cpu(own: &Own, each: u64) -> anyhow::Result<Once> {
    let queue = ResidentQueue::builder().lanes(1).build(&own.device)?;
    let (kernel, inbox) = (own.module.kernel("queue_serve")?, queue.device_inbox());
    // SAFETY: the kernel takes an inbox, and the queue is fenced.
    unsafe {
        queue.launch(
            &own.stream,
            &kernel,
            &LaunchConfig::linear(1, 32),
            &[&inbox],
        )
    }?;
    let mut times = Times::new()?;
    for payload in 0..each {
        let begin = Instant::now();
        let mut future = queue.try_submit(Ask { payload })?;
        let Some(answer) = future.wait_timeout(STUCK) else {
            bail!("the resident kernel does not answer");
        };
        times.add(begin.elapsed().as_nanos() as u64);
        let answer = answer?;
        ensure!(answer == payload + 1, "{answer} is the answer to {payload}");
    }
    queue.shutdown()?;
    Ok(Once {
        tasks: each,
        seconds: None,
        times: Some(times),
    })
}

/// Measures tasks of a kernel, one after another.
pub fn from_kernel(own: &Own, each: u64) -> anyhow::Result<Once> {
    let queue = KernelQueue::builder().lanes(1).build(&own.device)?;
    let (kernel, inbox) = (own.module.kernel("queue_serve")?, queue.device_inbox());
    let asking = own.module.kernel("queue_round_trip")?;
    let stream = own.stream.context().create_stream()?;
    // All before the kernel that stays: what follows must wait for no other stream.
    let times = own.pool.allocate((each * 4) as usize)?;
    let failed = own.pool.allocate(8)?;
    times.fill(0)?;
    failed.fill(0)?;
    own.stream.synchronize()?;
    // SAFETY: the kernel takes an inbox, and the queue is fenced.
    unsafe { queue.launch(&stream, &kernel, &LaunchConfig::linear(1, 32), &[&inbox]) }?;
    let (argument, addresses) = (queue.device_queue(), [failed.address(), times.address()]);
    let (lanes, each_warp) = (1_u32, u32::try_from(each)?);
    let [failed_at, times_at] = &addresses;
    let args: [&dyn KernelArg; 6] = [
        &argument, failed_at, &lanes, &each_warp, times_at, &each_warp,
    ];
    // SAFETY: the arguments are those of the kernel in `own.cu`, and their memory lives until it has ended.
    unsafe { own.stream.launch(&asking, &grid(1), &args) }?;
    queue.fence_on(&own.stream)?;
    while !own.stream.is_done()? {
        thread::yield_now();
    }
    queue.shutdown()?;
    let mut bytes = [0; 8];
    failed.copy_to(&mut bytes)?;
    ensure!(
        u64::from_ne_bytes(bytes) == 0,
        "the resident kernel answered wrongly, or not in time"
    );
    Ok(Once {
        tasks: each,
        seconds: None,
        times: Some(kept(&times, each).context("no times")?),
    })
}
