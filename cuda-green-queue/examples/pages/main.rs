//! A kernel in the partition `Dream` walks a list and asks the CPU for the pages that it lacks, while the partition
//! `Embedding` answers requests. Prints the p99 of the requests with and without that traffic.
//!
//! `cargo run --release --package cuda-green-queue --example pages` runs it on the first GPU, and with
//! `CUDA_GREEN_DRIVER=sim:h200@13.0` on a simulated one. Without any GPU, it asks for a page from the CPU.

mod simulated;

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytemuck::{Pod, Zeroable};
use cuda_green::{
    ContextId, ContextPolicy, CudaDevice, Kernel, LaunchConfig, Module, PinnedBuffer,
    SmPartitionManager, Stream, kernels, planner::PartitionRequest,
};
use cuda_green_queue::{Task, TaskFailure, TaskQueue, TaskQueues};

/// The kernel `walk`, compiled from `pages.cu` by `cargo xtask kernels`.
const PTX: &str = include_str!("pages.ptx");
/// Nodes of a page, as in `pages.cu`, and pages of the list.
const NODES: u64 = 512;
const PAGES: u64 = 256;
/// The number of the task's method, and the code of its failure.
const METHOD: u16 = 1;
const NO_SUCH_PAGE: u32 = 1;

/// Asks for the address of a page: `Page` in `pages.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Page {
    number: u64,
}

impl Task for Page {
    const METHOD: u16 = METHOD;
    type Output = u64;
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let device = match CudaDevice::init(0) {
        Ok(device) => device,
        Err(cuda_green::Error::Load { .. } | cuda_green::Error::NoGpu { .. }) => {
            return without_gpu();
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(simulator) = device.driver().simulator() {
        simulated::register(simulator);
    }
    let policy = ContextPolicy::default();
    let manager = SmPartitionManager::on(&device)?;
    manager.create_partitions(&[
        (ContextId::Embedding, PartitionRequest::percent(25), policy),
        (ContextId::Dream, PartitionRequest::rest(), policy),
    ])?;
    println!("{}: {}\n", device.name(), manager.allocation_status());

    let frames = Arc::new(Frames::new(&device)?);
    let pages = Arc::clone(&frames);
    let queue = TaskQueue::builder()
        .handler(move |Page { number }| pages.address(number).ok_or(TaskFailure(NO_SUCH_PAGE)))
        .build(&device)?;

    // Both kernels are loaded before one waits: loading may wait until the GPU is idle.
    let walk = Module::load_ptx(&device, PTX)?.kernel("walk")?;
    let burn = Module::load_ptx(&device, kernels::PTX)?.kernel(kernels::BURN)?;
    let requests = manager.get_context(ContextId::Embedding)?.create_stream()?;
    let background = manager.get_context(ContextId::Dream)?.create_stream()?;
    let is_real = !device.driver().is_simulated();
    let count = if is_real { 2_000 } else { 5 };
    latencies(&burn, &requests, 5)?;

    let alone = latencies(&burn, &requests, count)?;
    let stop = AtomicBool::new(false);
    let (beside, walks) = thread::scope(|scope| {
        let walks = scope.spawn(|| {
            let mut walks = Walks::default();
            while walks.launches == 0 || !stop.load(Ordering::Relaxed) {
                walks
                    .run(&queue, &walk, &background, is_real)
                    .map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(walks)
        });
        let beside = latencies(&burn, &requests, count).map_err(|error| error.to_string());
        stop.store(true, Ordering::Relaxed);
        (beside, walks.join())
    });
    let walks = walks.map_err(|_| "the thread of the walks panicked")??;
    println!(
        "{} nodes were walked, {} pages asked for: {:.2} million a second; the sums match",
        walks.nodes,
        walks.asked,
        walks.asked as f64 / walks.time.as_secs_f64() / 1e6
    );
    for (name, latencies) in [("alone", alone), ("beside the walk", beside?)] {
        println!(
            "requests {name:<16} p50 {:>9.1} us, p99 {:>9.1} us",
            at(&latencies, 0.5),
            at(&latencies, 0.99)
        );
    }
    println!("\n{}", queue.stats());
    queue.shutdown()?;
    Ok(())
}

/// Without a GPU there is a set of queues all the same, for tasks of the CPU.
fn without_gpu() -> Result<()> {
    let queues = TaskQueues::builder()
        .handler(|Page { number }| Ok(number * NODES))
        .build_visible()?;
    println!("{queues}");
    let answer = queues
        .submit(Page { number: 3 })
        .map_err(|error| error.to_string())?;
    println!(
        "a task of the CPU: page 3 begins with node {}",
        answer.wait()?
    );
    queues.shutdown()?;
    Ok(())
}

/// Pages in pinned memory, each filled when it is first asked for.
struct Frames {
    memory: PinnedBuffer<u64>,
    address: u64,
    filled: Vec<OnceLock<()>>,
}

impl Frames {
    fn new(device: &CudaDevice) -> Result<Self> {
        let memory = PinnedBuffer::new(device, (PAGES * NODES) as usize)?;
        Ok(Self {
            address: memory.device_address()?,
            memory,
            filled: (0..PAGES).map(|_| OnceLock::new()).collect(),
        })
    }

    /// Returns the address of a page for kernels.
    fn address(&self, page: u64) -> Option<u64> {
        let filled = self.filled.get(usize::try_from(page).ok()?)?;
        filled.get_or_init(|| {
            let first = page * NODES;
            for node in first..first + NODES {
                // SAFETY: the memory has a word for each node of each page, of which this is one; kernels read it only
                // after the answer, and threads write it here alone.
                unsafe { AtomicU64::from_ptr(self.memory.as_ptr().cast_mut().add(node as usize)) }
                    .store(next(node), Ordering::Relaxed);
            }
        });
        Some(self.address + page * NODES * 8)
    }
}

/// Returns the node after a node: a walk that comes through all pages.
fn next(node: u64) -> u64 {
    (node * 5 + 4_099) % (PAGES * NODES)
}

/// What was walked.
#[derive(Default)]
struct Walks {
    launches: u64,
    nodes: u64,
    asked: u64,
    time: Duration,
}

impl Walks {
    /// Walks the list from several nodes at once, and compares the sums with what they must be.
    fn run(
        &mut self,
        queue: &TaskQueue,
        walk: &Kernel,
        stream: &Stream,
        is_real: bool,
    ) -> Result<()> {
        let (walkers, steps) = if is_real { (64, 1_000) } else { (2, 40) };
        let (first, stride) = (self.launches % (PAGES * NODES), 1_777_u64);
        let found = stream.context().memory()?.allocate(walkers as usize * 24)?;
        found.fill(0)?;
        let (argument, address) = (queue.device_queue(), found.address());
        let begin = Instant::now();
        let shape = LaunchConfig::linear(walkers / 2, 64);
        // SAFETY: the kernel takes a queue, two numbers of 64 bits, one of 32, and the address of three words for each
        // walker; their memory lives until the kernel has ended, which is waited for.
        unsafe {
            queue.launch(
                stream,
                walk,
                &shape,
                &[&argument, &first, &stride, &steps, &address],
            )
        }?;
        // A host that only spins has no promise that the kernel starts.
        while !stream.is_done()? {
            thread::yield_now();
        }
        self.time += begin.elapsed();
        let mut bytes = vec![0; found.len()];
        found.copy_to(&mut bytes)?;
        let (words, _) = bytes.as_chunks::<8>();
        let words: Vec<_> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        for (walker, words) in (0..u64::from(walkers)).zip(words.chunks(3)) {
            let mut node = first + walker * stride;
            let sum: u64 = (0..steps)
                .map(|_| {
                    node = next(node);
                    node
                })
                .sum();
            let [found, asked, ended] = words else {
                continue;
            };
            if (*found, *ended) != (sum, 1) {
                return Err(format!("walker {walker} found {found} instead of {sum}").into());
            }
            self.asked += asked;
        }
        self.launches += 1;
        self.nodes += u64::from(walkers * steps);
        Ok(())
    }
}

/// Returns the latencies of requests one after another, in microseconds, sorted.
fn latencies(burn: &Kernel, stream: &Stream, count: usize) -> Result<Vec<f64>> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
        unsafe { stream.launch(burn, &LaunchConfig::linear(256, 1024), &[&0u64, &4_000u32]) }?;
        stream.synchronize()?;
        latencies.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
