//! The same by the queue.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytemuck::{Pod, Zeroable};
use cuda_green::{CudaDevice, GpuBuffer, GpuMemoryPool, KernelArg, LaunchConfig, Module, Stream};
use cuda_green_queue::{Task, TaskQueue};

use super::{
    Once,
    figures::{Shape, What},
    kernels, polled,
    raw::{KEPT, grid, kept},
    resident,
    sums::Sums,
    times::Times,
};

/// Slots of a ring, and the longest payload.
pub const DEPTH: u32 = 1_024;
pub const PAYLOAD: u32 = 112;
/// The longest time in which no task is run.
pub const STUCK: Duration = Duration::from_secs(20);
/// Warps that submit at a pace, and the tasks of each in one launch.
const PACED_WARPS: u32 = 528;
const PACED_EACH: u32 = 500;

/// A task without an answer: `Note` in `own.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Note {
    pub payload: u64,
}

impl Task for Note {
    const METHOD: u16 = 1;
    type Output = ();
}

/// A task whose answer is its payload + 1: `Ask` in `own.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Ask {
    pub payload: u64,
}

impl Task for Ask {
    const METHOD: u16 = 2;
    type Output = u64;
}

/// A queue, and the sums of what its handlers were called with.
pub struct Summed {
    pub queue: TaskQueue,
    sums: Sums,
}

/// The kernels, and the stream in which they run.
pub struct Own {
    pub device: CudaDevice,
    pub stream: Stream,
    pub pool: GpuMemoryPool,
    pub module: Module,
}

impl Own {
    pub fn new(device: &CudaDevice, stream: Stream) -> anyhow::Result<Self> {
        Ok(Self {
            device: device.clone(),
            stream,
            pool: GpuMemoryPool::on(device, 64 << 20)?,
            module: Module::load_ptx(device, kernels::OWN)?,
        })
    }

    /// Makes a queue whose handlers sum what they are called with, on the polling threads or on the workers.
    pub fn queue(&self, lanes: u32, threads: u32, is_inline: bool) -> anyhow::Result<Summed> {
        let sums = Sums::default();
        let builder = TaskQueue::builder()
            .lanes(lanes)
            .priorities(1)
            .depth(DEPTH)
            .payload_bytes(PAYLOAD)
            .polling_threads(threads);
        let (notes, asked) = (sums.clone(), sums.clone());
        let note = move |note: Note| {
            notes.add(note.payload);
            Ok(())
        };
        let ask = move |ask: Ask| {
            asked.add(ask.payload);
            Ok(ask.payload.wrapping_add(1))
        };
        let builder = match is_inline {
            true => builder.inline_handler(note).inline_handler(ask),
            false => builder.handler(note).handler(ask),
        };
        Ok(Summed {
            queue: builder.build(&self.device)?,
            sums,
        })
    }

    /// Measures a shape once.
    pub fn run(&self, shape: &Shape, each: u64) -> anyhow::Result<Once> {
        match shape.what {
            What::Resident => return resident::from_cpu(self, each),
            What::KernelToKernel => return resident::from_kernel(self, each),
            _ => {}
        }
        let summed = self.queue(
            shape.lanes,
            shape.polling_threads,
            shape.what != What::Pooled,
        )?;
        let once = match shape.what {
            What::OneWay | What::WarpWide => self.one_way(&summed, shape, each)?,
            _ => {
                let (seconds, times) = self.trips(&summed, shape.lanes, shape.warps, each)?;
                Once {
                    tasks: u64::from(shape.warps) * each,
                    seconds: Some(seconds),
                    times: Some(times),
                }
            }
        };
        summed.queue.shutdown()?;
        Ok(once)
    }

    fn one_way(&self, summed: &Summed, shape: &Shape, each: u64) -> anyhow::Result<Once> {
        let name = match shape.what {
            What::WarpWide => "queue_produce_warp",
            _ => "queue_produce",
        };
        let start = Instant::now();
        let args = (shape.lanes, each as u32, 0_u64);
        self.launch(
            summed,
            name,
            &grid(shape.warps),
            &[&args.0, &args.1, &args.2],
        )?;
        let tasks = u64::from(shape.warps) * each;
        summed.wait_for(tasks)?;
        let seconds = start.elapsed().as_secs_f64();
        summed.check(u64::from(shape.warps), each)?;
        Ok(Once {
            tasks,
            seconds: Some(seconds),
            times: None,
        })
    }

    /// Has each warp wait for so many answers; returns the seconds of all, and the times of the first of each warp.
    fn trips(
        &self,
        summed: &Summed,
        lanes: u32,
        warps: u32,
        each: u64,
    ) -> anyhow::Result<(f64, Times)> {
        let keep = match warps {
            1 => each,
            _ => each.min(KEPT),
        };
        let times = self.pool.allocate((u64::from(warps) * keep * 4) as usize)?;
        times.fill(0)?;
        let args = (lanes, each as u32, times.address(), keep as u32);
        let start = Instant::now();
        let args: [&dyn KernelArg; 4] = [&args.0, &args.1, &args.2, &args.3];
        self.launch(summed, "queue_round_trip", &grid(warps), &args)?;
        let seconds = start.elapsed().as_secs_f64();
        summed.check(warps.into(), each)?;
        Ok((seconds, kept(&times, u64::from(warps) * keep)?))
    }

    /// Launches a kernel, whose first two arguments are the queue and a count of failures, and waits for its end.
    fn launch(
        &self,
        summed: &Summed,
        name: &str,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> anyhow::Result<()> {
        let kernel = self.module.kernel(name)?;
        let failed: GpuBuffer = self.pool.allocate(8)?;
        failed.fill(0)?;
        let (queue, address) = (summed.queue.device_queue(), failed.address());
        let mut all: Vec<&dyn KernelArg> = vec![&queue, &address];
        all.extend(args);
        // SAFETY: the arguments are those of the kernel in `own.cu`, and their memory lives until the kernel has ended,
        // which is waited for.
        unsafe { summed.queue.launch(&self.stream, &kernel, config, &all) }?;
        // A host that only spins has no promise that the kernel starts.
        while !self.stream.is_done()? {
            thread::yield_now();
        }
        self.stream.synchronize()?;
        let mut bytes = [0; 8];
        failed.copy_to(&mut bytes)?;
        let count = u64::from_ne_bytes(bytes);
        ensure!(
            count == 0,
            "{count} threads of {name} had a task refused or answered wrongly"
        );
        Ok(())
    }

    /// Submits tasks at a pace until `stop`, from many warps; returns how many a second were run.
    pub fn paced(&self, per_s: f64, stop: &AtomicBool) -> anyhow::Result<f64> {
        let lanes = 4;
        let summed = self.queue(lanes, 1, true)?;
        let (mut launches, start) = (0, Instant::now());
        let (warps, each) = match self.device.driver().is_simulated() {
            true => (4, 4),
            false => (PACED_WARPS, PACED_EACH),
        };
        let interval = (f64::from(warps) / per_s * 1e9) as u64;
        while launches == 0 || !stop.load(Ordering::Relaxed) {
            let args: [&dyn KernelArg; 3] = [&lanes, &each, &interval];
            self.launch(&summed, "queue_produce", &grid(warps), &args)?;
            launches += 1;
        }
        let tasks = launches * u64::from(warps * each);
        summed.wait_for(tasks)?;
        let seconds = start.elapsed().as_secs_f64();
        let expected = polled::expected(warps.into(), each.into());
        let sum = expected.sum.wrapping_mul(launches);
        let found = summed.sums.get();
        ensure!(
            found == (tasks, sum),
            "at a pace: {found:?} were run, and {:?} expected",
            (tasks, sum)
        );
        summed.queue.shutdown()?;
        Ok(tasks as f64 / seconds)
    }

    /// Returns the nanoseconds of one task and its answer.
    pub fn one_trip(&self, summed: &Summed) -> anyhow::Result<u64> {
        let before = summed.sums.get();
        let times = self.pool.allocate(4)?;
        let args = (1_u32, 1_u32, times.address(), 1_u32);
        let args: [&dyn KernelArg; 4] = [&args.0, &args.1, &args.2, &args.3];
        self.launch(summed, "queue_round_trip", &grid(1), &args)?;
        ensure!(
            summed.sums.get().0 == before.0 + 1,
            "the task was not run once"
        );
        let mut bytes = [0; 4];
        times.copy_to(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes).into())
    }

    /// Submits so many tasks from all lanes of many warps at once, and checks the sums; returns the seconds.
    pub fn long_run(
        &self,
        summed: &Summed,
        warps: u32,
        lanes: u32,
        each: u64,
    ) -> anyhow::Result<f64> {
        let (before, start) = (summed.sums.get(), Instant::now());
        let args = (lanes, each as u32, 0_u64);
        self.launch(
            summed,
            "queue_produce_warp",
            &grid(warps),
            &[&args.0, &args.1, &args.2],
        )?;
        let expected = polled::expected(warps.into(), each);
        summed.wait_for(before.0 + expected.tasks)?;
        let seconds = start.elapsed().as_secs_f64();
        let wanted = (
            before.0 + expected.tasks,
            before.1.wrapping_add(expected.sum),
        );
        let found = summed.sums.get();
        ensure!(
            found == wanted,
            "{found:?} were run, and {wanted:?} expected"
        );
        Ok(seconds)
    }
}

impl Summed {
    /// Waits until so many tasks were run.
    fn wait_for(&self, tasks: u64) -> anyhow::Result<()> {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let (count, _) = self.sums.get();
            if count >= tasks {
                return Ok(());
            }
            if count > last {
                (last, moved) = (count, Instant::now());
            }
            ensure!(
                moved.elapsed() < STUCK,
                "{count} of {tasks} tasks were run, and no more"
            );
            thread::yield_now();
        }
    }

    /// Fails unless the tasks of so many warps were run once each, and no others.
    fn check(&self, warps: u64, each: u64) -> anyhow::Result<()> {
        let (tasks, sum) = self.sums.get();
        let (found, expected) = (polled::Taken { tasks, sum }, polled::expected(warps, each));
        ensure!(
            found == expected,
            "{found:?} were run, and {expected:?} expected"
        );
        Ok(())
    }
}
