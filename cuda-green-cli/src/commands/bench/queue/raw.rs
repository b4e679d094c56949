//! The hand-written loops: flags, and rings whose head producers advance by compare-and-swap.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::ensure;
use cuda_green::{
    CudaDevice, GpuBuffer, GpuMemoryPool, Kernel, KernelArg, LaunchConfig, Module, Stream,
};

use super::{
    Once,
    figures::{Shape, What},
    kernels,
    polled::{self, DEPTH, Polled, SLOT, Taken},
    shared::{LINE, Words},
    times::Times,
};

/// Times of round trips that each warp keeps.
pub const KEPT: u64 = 400;
/// Warps of a block.
const WARPS_OF_BLOCK: u32 = 4;
/// Bytes of device memory for a ring: its head and what is known of its tail, each on a line of its own.
const RING_STATE: u64 = 256;

/// The kernels, and the stream in which they run.
pub struct Raw {
    device: CudaDevice,
    stream: Stream,
    pool: GpuMemoryPool,
    module: Module,
}

impl Raw {
    pub fn new(device: &CudaDevice, stream: Stream) -> anyhow::Result<Self> {
        Ok(Self {
            device: device.clone(),
            stream,
            pool: GpuMemoryPool::on(device, 256 << 20)?,
            module: Module::load_ptx(device, kernels::RAW)?,
        })
    }

    /// Measures a shape once.
    pub fn run(&self, shape: &Shape, each: u64) -> anyhow::Result<Once> {
        match shape.what {
            What::PingPong => self.ping_pong(each),
            What::HostPingPong => self.host_ping_pong(each),
            What::Launch => self.launches(each),
            _ => self.produce(shape, each),
        }
    }

    fn kernel(&self, name: &str) -> anyhow::Result<Kernel> {
        Ok(self.module.kernel(name)?)
    }

    /// Returns device memory, all zero.
    fn zeroed(&self, bytes: u64) -> anyhow::Result<GpuBuffer> {
        let buffer = self.pool.allocate(bytes as usize)?;
        buffer.fill(0)?;
        Ok(buffer)
    }

    /// As [`launched`], in this stream.
    fn beside<T>(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&(dyn KernelArg + Sync)],
        stop: &AtomicBool,
        meanwhile: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        launched(&self.stream, kernel, config, args, stop, meanwhile)
    }

    /// Times the CPU's answers to a kernel's flag.
    fn ping_pong(&self, each: u64) -> anyhow::Result<Once> {
        let flags = Words::new(&self.device, 2 * LINE)?;
        let (asked, answered) = (flags.word(0)?, flags.word(LINE)?);
        let times = self.zeroed(each * 4)?;
        let address = flags.address()?;
        let args = (
            address,
            address + 8 * LINE as u64,
            each as u32,
            times.address(),
        );
        let stop = AtomicBool::new(false);
        self.beside(
            &self.kernel("raw_ping_pong")?,
            &LaunchConfig::linear(1, 32),
            &[&args.0, &args.1, &args.2, &args.3],
            &stop,
            || {
                let mut seen = 0;
                while seen < each && !stop.load(Ordering::Relaxed) {
                    let now = asked.load(Ordering::Acquire);
                    if now > seen {
                        answered.store(now, Ordering::Release);
                        seen = now;
                    }
                }
                Ok(())
            },
        )?;
        Ok(Once {
            tasks: each,
            seconds: None,
            times: Some(kept(&times, each)?),
        })
    }

    /// Times a kernel's answers to the CPU's flag.
    fn host_ping_pong(&self, each: u64) -> anyhow::Result<Once> {
        let flags = Words::new(&self.device, 2 * LINE)?;
        let (asked, answered) = (flags.word(0)?, flags.word(LINE)?);
        let address = flags.address()?;
        let args = (address, address + 8 * LINE as u64, each as u32);
        let stop = AtomicBool::new(false);
        let times = self.beside(
            &self.kernel("raw_pong")?,
            &LaunchConfig::linear(1, 32),
            &[&args.0, &args.1, &args.2],
            &stop,
            || {
                let mut times = Times::new()?;
                for number in 1..=each {
                    let start = Instant::now();
                    asked.store(number, Ordering::Release);
                    while answered.load(Ordering::Acquire) < number {
                        if stop.load(Ordering::Relaxed) {
                            return Ok(times);
                        }
                    }
                    times.add(start.elapsed().as_nanos() as u64);
                }
                Ok(times)
            },
        )?;
        Ok(Once {
            tasks: each,
            seconds: None,
            times: Some(times),
        })
    }

    /// Times launches of an empty kernel, and the waits for its end.
    fn launches(&self, each: u64) -> anyhow::Result<Once> {
        let kernel = self.kernel("raw_empty")?;
        let mut times = Times::new()?;
        for _ in 0..each {
            let start = Instant::now();
            // SAFETY: the kernel has no parameters and touches no memory.
            unsafe {
                self.stream
                    .launch(&kernel, &LaunchConfig::linear(1, 32), &[])
            }?;
            self.stream.synchronize()?;
            times.add(start.elapsed().as_nanos() as u64);
        }
        Ok(Once {
            tasks: each,
            seconds: None,
            times: Some(times),
        })
    }

    /// Runs producers on the GPU and consumers on threads.
    fn produce(&self, shape: &Shape, each: u64) -> anyhow::Result<Once> {
        let (lanes, warps) = (u64::from(shape.lanes), u64::from(shape.warps));
        let waits = matches!(shape.what, What::Inline | What::RoundTrip);
        let slots = Words::new(&self.device, lanes as usize * DEPTH * SLOT)?;
        let tails = Words::new(&self.device, lanes as usize * LINE)?;
        let answers = Words::new(&self.device, warps as usize * LINE)?;
        let states = self.zeroed(lanes * RING_STATE)?;
        let keep = if waits { each.min(KEPT) } else { 0 };
        let times = self.zeroed((warps * keep * 4).max(4))?;
        let polled = Polled {
            slots: slots.words(),
            tails: tails.words(),
            answers: if waits { answers.words() } else { &[] },
            wanted: (0..lanes)
                .map(|lane| each * of_lane(warps, lanes, lane))
                .collect(),
        };
        let args = (
            (slots.address()?, tails.address()?, answers.address()?),
            (states.address(), times.address()),
            (shape.lanes, each as u32, u32::from(waits), keep as u32),
        );
        let kernel = match shape.what {
            What::WarpWide => self.kernel("raw_produce_warp")?,
            _ => self.kernel("raw_produce")?,
        };
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let (taken, seconds) = self.beside(
            &kernel,
            &grid(shape.warps),
            &[
                &args.0.0, &args.0.1, &args.0.2, &args.1.0, &args.1.1, &args.2.0, &args.2.1,
                &args.2.2, &args.2.3,
            ],
            &stop,
            || {
                let taken = take(&polled, shape.polling_threads as usize, &stop)?;
                Ok((taken, start.elapsed().as_secs_f64()))
            },
        )?;
        let expected = polled::expected(warps, each);
        ensure!(
            taken == expected,
            "{shape:?} by hand: {taken:?} were taken, and {expected:?} expected"
        );
        Ok(Once {
            tasks: taken.tasks,
            seconds: Some(seconds),
            times: (keep > 0).then(|| kept(&times, warps * keep)).transpose()?,
        })
    }
}

/// Returns a grid of so many warps.
pub fn grid(warps: u32) -> LaunchConfig {
    let of_block = match warps % WARPS_OF_BLOCK {
        0 => WARPS_OF_BLOCK,
        _ => 1,
    };
    LaunchConfig::linear(warps / of_block, 32 * of_block)
}

/// Returns how many of the warps use a lane: warp `w` uses lane `w % lanes`.
pub fn of_lane(warps: u64, lanes: u64, lane: u64) -> u64 {
    warps / lanes + u64::from(lane < warps % lanes)
}

/// Takes all tasks on so many threads.
fn take(polled: &Polled<'_>, threads: usize, stop: &AtomicBool) -> anyhow::Result<Taken> {
    thread::scope(|scope| {
        let taking: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || polled.take(index, threads, stop)))
            .collect();
        let mut all = Taken::default();
        for taking in taking {
            let taken = taking.join();
            let taken = taken.map_err(|_| anyhow::anyhow!("a polling thread panicked"))??;
            all.tasks += taken.tasks;
            all.sum = all.sum.wrapping_add(taken.sum);
        }
        Ok(all)
    })
}

/// Reads so many times of 32 bits.
pub fn kept(times: &GpuBuffer, count: u64) -> anyhow::Result<Times> {
    let mut bytes = vec![0; count as usize * 4];
    times.copy_to(&mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    Times::of(
        numbers
            .iter()
            .map(|bytes| u32::from_ne_bytes(*bytes).into()),
    )
}

/// Launches a kernel and calls `meanwhile`, which may wait for it and returns early at `stop`; then waits for its end.
///
/// Another thread makes the launch, since it may block until the kernel has ended (`CUDA_LAUNCH_BLOCKING`), and asks the
/// driver for the kernel's end again and again: a host that only spins has no promise that the kernel starts.
pub fn launched<T>(
    stream: &Stream,
    kernel: &Kernel,
    config: &LaunchConfig,
    args: &[&(dyn KernelArg + Sync)],
    stop: &AtomicBool,
    meanwhile: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let run = || -> anyhow::Result<()> {
        let args: Vec<&dyn KernelArg> = args.iter().map(|arg| *arg as &dyn KernelArg).collect();
        // SAFETY: the callers pass what the kernels' sources in this crate and in `cuda-green-queue` say they take,
        // and keep all memory until this function has returned.
        unsafe { stream.launch(kernel, config, &args) }?;
        while !stream.is_done()? {
            thread::yield_now();
        }
        Ok(stream.synchronize()?)
    };
    thread::scope(|scope| {
        let running = thread::Builder::new().spawn_scoped(scope, || {
            let ended = run();
            if ended.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            ended
        })?;
        let done = meanwhile();
        let ended = running.join();
        ended.map_err(|_| anyhow::anyhow!("the launching thread panicked"))??;
        done
    })
}

#[cfg(test)]
mod tests {
    use cuda_green::{ContextPolicy, Driver, GreenContext, sim::Sim};

    use super::*;
    use crate::commands::bench::queue::{figures::By, lengths::Lengths, simulated};

    fn on(simulator: &Sim) -> Raw {
        let device = Driver::simulated(simulator).unwrap().device(0).unwrap();
        let context = GreenContext::primary(&device, ContextPolicy::default()).unwrap();
        Raw::new(&device, context.create_stream().unwrap()).unwrap()
    }

    #[test]
    fn every_shape_runs_and_its_sums_match() {
        let simulator = Sim::new("h200@13.0").unwrap();
        simulated::register(&simulator);
        let (raw, lengths) = (on(&simulator), Lengths::quick());
        let shapes = lengths.shapes().into_iter();
        for shape in shapes.filter(|shape| shape.by == By::Raw) {
            let each = lengths.each(&shape);
            let once = raw.run(&shape, each).unwrap();
            let each_warp = matches!(
                shape.what,
                What::OneWay | What::WarpWide | What::RoundTrip | What::Inline
            );
            let warps = if each_warp { u64::from(shape.warps) } else { 1 };
            assert_eq!(once.tasks, warps * each, "{shape:?}");
            let has_times = !matches!(shape.what, What::OneWay | What::WarpWide);
            assert_eq!(
                once.times.is_some_and(|times| times.len() > 0),
                has_times,
                "{shape:?}"
            );
        }
    }

    #[test]
    fn a_sum_that_differs_is_an_error() {
        let simulator = Sim::new("h200@13.0").unwrap();
        simulated::register(&simulator);
        // A kernel that submits the payload of another task.
        simulator.register_concurrent_kernel("raw_produce", |launch| {
            let slots = launch.arg_u64(0).unwrap();
            let _ = launch
                .store_u64(slots + 8, 7)
                .and_then(|()| launch.store_u64(slots, 1));
        });
        let shape = Shape {
            what: What::OneWay,
            by: By::Raw,
            lanes: 1,
            warps: 1,
            polling_threads: 1,
        };
        let error = on(&simulator).run(&shape, 1).err().unwrap();
        assert!(error.to_string().contains("sum: 7"), "{error}");
    }

    #[test]
    fn the_warps_of_all_lanes_are_all_warps() {
        for (warps, lanes) in [(1, 4), (8, 4), (9, 4), (2_112, 4), (5, 1)] {
            let all: u64 = (0..lanes).map(|lane| of_lane(warps, lanes, lane)).sum();
            assert_eq!(all, warps);
            let grid = grid(warps as u32);
            assert_eq!(u64::from(grid.grid[0] * grid.block[0] / 32), warps);
        }
    }
}
