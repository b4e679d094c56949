//! The work that a measurement puts on the GPU: requests one after another, and floods beside them.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use cuda_green::{CudaDevice, Event, Kernel, LaunchConfig, Module, Stream, kernels, sim::Sim};

use super::{
    numbers::Numbers,
    progress::{Progress, StopAtEnd},
    samples::Samples,
};

/// A request: some kernels in a row, then a wait for the last.
#[derive(Clone, Copy)]
pub struct Request {
    pub kernels: u32,
    pub blocks: u32,
    pub threads: u32,
    /// Rounds of arithmetic of each thread.
    pub rounds: u32,
}

/// Background work that goes on until it is stopped.
#[derive(Clone, Copy)]
pub struct Flood {
    pub name: &'static str,
    pub kind: FloodKind,
}

#[derive(Clone, Copy)]
pub enum FloodKind {
    /// Kernels whose blocks fill their SMs `waves` times, with `rounds` rounds of arithmetic each.
    Waves { waves: u32, rounds: u32 },
    /// Kernels of one empty block, as fast as they can be launched.
    TinyLaunches,
}

/// One request of 256 blocks of 1024 threads, two of which fill an SM: about 60 µs on a whole H200.
pub const ONE_KERNEL: Request = Request {
    kernels: 1,
    blocks: 256,
    threads: 1024,
    rounds: 4_000,
};

/// Twelve kernels in a row that leave most SMs idle, as those of a small model do.
pub const SMALL_KERNELS: Request = Request {
    kernels: 12,
    blocks: 32,
    threads: 256,
    rounds: 3_000,
};

/// Blocks that hold an SM for about 10 ms at a time: whatever waits for one waits that long, since nothing is
/// preempted.
pub const LONG_BLOCKS: Flood = Flood {
    name: "long blocks",
    kind: FloodKind::Waves {
        waves: 1,
        rounds: 1_085_000,
    },
};

/// Blocks that hold an SM for about 60 µs at a time, but very many of them.
pub const SHORT_BLOCKS: Flood = Flood {
    name: "short blocks",
    kind: FloodKind::Waves {
        waves: 250,
        rounds: 4_000,
    },
};

/// Launches that load not the SMs but everything between the host and them.
pub const TINY_LAUNCHES: Flood = Flood {
    name: "tiny launches",
    kind: FloodKind::TinyLaunches,
};

/// Threads of a block of a flood: two of them fill an SM.
const FLOOD_THREADS: u32 = 1024;
/// Tiny launches between two events; waiting for the events keeps the queue short.
const TINY_BATCH: u32 = 256;

/// The longest time that a flood takes to fill the device.
const FLOODED: Duration = Duration::from_millis(30);

/// The kernel of all requests and floods, and the extent of a measurement.
pub struct Load {
    device: CudaDevice,
    kernel: Kernel,
    /// The number of requests.
    requests: usize,
    /// The time after which no further requests are made.
    limit: Duration,
}

impl Load {
    pub fn new(device: &CudaDevice, quick: bool) -> anyhow::Result<Self> {
        let (requests, seconds) = if quick { (5, 1) } else { (1_500, 15) };
        Self::of(device, requests, Duration::from_secs(seconds))
    }

    /// Loads the kernel, for at most this number of requests and about this time.
    pub fn of(device: &CudaDevice, requests: usize, limit: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            device: device.clone(),
            kernel: Module::load_ptx(device, kernels::PTX)?.kernel(kernels::BURN)?,
            requests,
            limit,
        })
    }

    /// Returns the latencies of requests one after another, in microseconds, while the flood runs.
    pub fn measure(
        &self,
        request: Request,
        stream: &Stream,
        flood: Option<(Flood, &Stream)>,
    ) -> anyhow::Result<Samples> {
        let requests = || self.requests(request, stream);
        let samples = match flood {
            Some((flood, stream)) => self.beside(flood, stream, requests),
            None => requests(),
        };
        Ok(Samples::of(samples?))
    }

    /// Measures as [`measure`](Self::measure) does, by the virtual clock of a simulated driver.
    ///
    /// All threads share that clock, so this one keeps the flood going too, and the figures are the same in every run.
    /// A request comes at a random moment of one of the flood's kernels.
    pub fn measure_in_virtual_time(
        &self,
        sim: &Sim,
        request: Request,
        stream: &Stream,
        flood: Option<(Flood, &Stream)>,
    ) -> anyhow::Result<Samples> {
        let timed = |work: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<Duration> {
            let start = sim.now();
            work()?;
            Ok(sim.now() - start)
        };
        let longest = match flood {
            Some((flood, stream)) => timed(&|| {
                self.launch_flood(flood, stream)?;
                Ok(stream.synchronize()?)
            })?,
            None => Duration::ZERO,
        };
        let longest = longest.as_nanos() as u64;
        let mut moments = Numbers(1);
        let mut samples = Vec::with_capacity(self.requests);
        for _ in 0..self.requests {
            if let Some((flood, stream)) = flood {
                while stream.is_done()? {
                    self.launch_flood(flood, stream)?;
                    sim.advance(Duration::from_nanos(moments.below(longest.max(1))));
                }
            }
            let took = timed(&|| self.answer(request, stream))?;
            samples.push(took.as_secs_f64() * 1e6);
        }
        if let Some((_, stream)) = flood {
            stream.synchronize()?;
        }
        Ok(Samples::of(samples))
    }

    /// Calls `action` while the flood runs.
    pub fn beside<T>(
        &self,
        flood: Flood,
        stream: &Stream,
        action: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let progress = Progress::default();
        thread::scope(|scope| {
            // After a panic as well: the scope waits for the thread.
            let stop = StopAtEnd::of(&progress);
            let thread = thread::Builder::new();
            let flooding = thread.spawn_scoped(scope, || self.flood(flood, stream, &progress))?;
            // Wait until the flood surely runs.
            thread::sleep(FLOODED);
            let done = action();
            drop(stop);
            let ended = flooding.join();
            ended.map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
            done
        })
    }

    fn requests(&self, request: Request, stream: &Stream) -> anyhow::Result<Vec<f64>> {
        let once = || -> anyhow::Result<f64> {
            let start = Instant::now();
            self.answer(request, stream)?;
            Ok(start.elapsed().as_secs_f64() * 1e6)
        };
        // Warm up.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(100) {
            once()?;
        }
        let begin = Instant::now();
        let mut samples = Vec::with_capacity(self.requests);
        while samples.len() < self.requests && (samples.len() < 2 || begin.elapsed() < self.limit) {
            samples.push(once()?);
        }
        Ok(samples)
    }

    /// Launches a request's kernels, and waits for the last.
    pub fn answer(&self, request: Request, stream: &Stream) -> anyhow::Result<()> {
        let shape = LaunchConfig::linear(request.blocks, request.threads);
        for _ in 0..request.kernels {
            self.burn(stream, &shape, request.rounds)?;
        }
        Ok(stream.synchronize()?)
    }

    /// Launches one kernel of a flood, or one batch of tiny ones; returns their blocks.
    fn launch_flood(&self, flood: Flood, stream: &Stream) -> anyhow::Result<u64> {
        let (launches, blocks, threads, rounds) = match flood.kind {
            FloodKind::Waves { waves, rounds } => {
                let blocks = stream.context().sm_count() * 2 * waves;
                (1, blocks, FLOOD_THREADS, rounds)
            }
            FloodKind::TinyLaunches => (TINY_BATCH, 1, 32, 0),
        };
        let shape = LaunchConfig::linear(blocks, threads);
        for _ in 0..launches {
            self.burn(stream, &shape, rounds)?;
        }
        Ok(u64::from(launches) * u64::from(blocks))
    }

    /// Keeps work queued until it is told to stop, and counts the blocks that are done; then waits for all.
    pub fn flood(&self, flood: Flood, stream: &Stream, progress: &Progress) -> anyhow::Result<()> {
        let ran = self.launch_until_stopped(flood, stream, progress);
        // In any case: a process must not end with work in flight.
        let ended = stream.synchronize();
        ran?;
        Ok(ended?)
    }

    fn launch_until_stopped(
        &self,
        flood: Flood,
        stream: &Stream,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut queued = VecDeque::new();
        while !progress.is_stopped() {
            let blocks = self.launch_flood(flood, stream)?;
            let event = Event::new(&self.device)?;
            stream.record(&event)?;
            queued.push_back((event, blocks));
            if queued.len() > 2
                && let Some((oldest, blocks)) = queued.pop_front()
            {
                oldest.synchronize()?;
                progress.add(blocks);
            }
        }
        Ok(())
    }

    fn burn(&self, stream: &Stream, shape: &LaunchConfig, rounds: u32) -> anyhow::Result<()> {
        // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
        Ok(unsafe { stream.launch(&self.kernel, shape, &[&0u64, &rounds]) }?)
    }
}
