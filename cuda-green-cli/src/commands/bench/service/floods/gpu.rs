//! Floods that this program launches itself: their memory, and what one piece of each is.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use cuda_green::{
    CaptureMode, CudaDevice, Event, GpuBuffer, GpuMemoryPool, GraphExec, Kernel, LaunchConfig,
    Module, Stream, kernels,
};
use cuda_green_embed::{CublasLt, InferencePrecision, Product, ProductShape};
use fastrand::Rng;

use super::{FloodKind, OUTSTANDING, Progress, training};
use crate::commands::bench::raw::ok;

/// Bytes of memory in which cuBLASLt may compute.
pub const WORKSPACE: usize = 32 << 20;
/// Tiny launches in one piece.
const TINY_LAUNCHES: u64 = 16;
/// The random bytes that fill the operands, again and again: what is multiplied decides how much power a product takes,
/// and zeros take little.
const RANDOM_BYTES: usize = 16 << 20;

/// What all floods are made of: libraries, kernels and memory. One flood runs at a time, so they share the memory.
pub struct Sources {
    cublaslt: Arc<CublasLt>,
    sizes: Sizes,
    burn: Kernel,
    mix: Kernel,
    /// Only read by products, so that their operands stay what they are.
    operands: GpuBuffer,
    results: GpuBuffer,
    workspace: GpuBuffer,
}

/// The extents of the floods.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Rows, columns and inner dimension of the matrix products.
    matrix: usize,
    /// Bytes of one copy.
    copy: usize,
    pub training: training::Sizes,
}

/// The extents on a GPU: products of 8192³ in 16 bits, which take 1.4 ms on a whole H200; copies of 512 MiB.
const REAL: Sizes = Sizes {
    matrix: 8192,
    copy: 512 << 20,
    training: training::BERT_BASE,
};

/// The extents on a simulated driver, which computes on the CPU.
const SIMULATED: Sizes = Sizes {
    matrix: 32,
    copy: 64 << 10,
    training: training::SIMULATED,
};

/// A flood in one stream.
pub struct GpuFlood {
    piece: Piece,
    stream: Stream,
    /// Dropped last: the memory that the work uses, for which [`run`](Self::run) waits.
    _sources: Arc<Sources>,
}

/// What is launched at a time.
enum Piece {
    /// A graph: a single launch, however much it does.
    Graph(GraphExec),
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
    Tiny(Kernel),
}

/// The addresses of memory that launches take in turn, from its start again once it is used up. So what one launch uses
/// is not in the cache from the launch before, unless it is small.
pub struct Ring {
    start: u64,
    len: usize,
    next: usize,
}

impl Ring {
    fn of(buffer: &GpuBuffer) -> Self {
        Self {
            start: buffer.address(),
            len: buffer.len(),
            next: 0,
        }
    }

    /// Returns the address of so many bytes.
    pub fn take(&mut self, bytes: usize) -> u64 {
        if self.next + bytes > self.len {
            self.next = 0;
        }
        let address = self.start + self.next as u64;
        self.next += bytes.next_multiple_of(256);
        address
    }
}

impl Sources {
    pub fn new(
        device: &CudaDevice,
        pool: &GpuMemoryPool,
        cublaslt: &Arc<CublasLt>,
    ) -> anyhow::Result<Self> {
        let sizes = match device.driver().is_simulated() {
            true => SIMULATED,
            false => REAL,
        };
        let matrices = 2 * sizes.matrix * sizes.matrix * size_of::<u16>();
        let bytes = matrices.max(sizes.copy).max(sizes.training.ring_bytes());
        let operands = pool.allocate(bytes)?;
        fill(&operands)?;
        Ok(Self {
            cublaslt: Arc::clone(cublaslt),
            sizes,
            burn: Module::load_ptx(device, kernels::PTX)?.kernel(kernels::BURN)?,
            mix: Module::load_ptx(device, training::PTX)?.kernel(training::MIX)?,
            operands,
            results: pool.allocate(bytes)?,
            workspace: pool.allocate(WORKSPACE)?,
        })
    }

    /// Prepares a flood in a stream; the bulk lane's is none of these.
    pub fn flood(
        self: &Arc<Self>,
        kind: FloodKind,
        stream: Stream,
    ) -> anyhow::Result<Option<GpuFlood>> {
        let piece = match kind {
            FloodKind::Matrix => self.matrix(&stream)?,
            FloodKind::Training => self.training(&stream)?,
            FloodKind::Copies => Piece::Copy {
                from: self.operands.address(),
                to: self.results.address(),
                bytes: self.sizes.copy,
            },
            FloodKind::Tiny => Piece::Tiny(self.burn.clone()),
            FloodKind::Bulk => return Ok(None),
        };
        let flood = GpuFlood {
            piece,
            stream,
            _sources: Arc::clone(self),
        };
        // What is loaded at the first launch is loaded now, since that waits for all work on the device.
        flood.launch()?;
        flood.stream.synchronize()?;
        Ok(Some(flood))
    }

    /// Returns what a flood does, in words.
    pub fn describe(&self, kind: FloodKind) -> String {
        let training = self.sizes.training;
        match kind {
            FloodKind::Matrix => format!("{0} × {0} × {0} in bf16, cuBLASLt", self.sizes.matrix),
            FloodKind::Copies => format!("{} KiB, device to device", self.sizes.copy >> 10),
            FloodKind::Training => training.describe(),
            FloodKind::Bulk => "lists of texts that are tokenised, in the bulk lane".to_owned(),
            FloodKind::Tiny => "one empty block each".to_owned(),
        }
    }

    /// Prepares a product for the SMs of a stream, as the encoder does.
    pub fn product(
        &self,
        stream: &Stream,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> anyhow::Result<Product> {
        let shape = ProductShape {
            rows,
            inputs,
            outputs,
            precision: InferencePrecision::BF16,
            with_bias: false,
            with_residual: false,
        };
        let launch = RefCell::new(Launch::new(self, stream));
        let product = self
            .cublaslt
            .product_on(stream, shape, WORKSPACE, |product| {
                let launch = || launch.borrow_mut().product(product);
                stream.context().with_current(launch)?
            });
        Ok(product?)
    }

    fn matrix(&self, stream: &Stream) -> anyhow::Result<Piece> {
        let n = self.sizes.matrix;
        let product = self.product(stream, n, n, n)?;
        let mut launch = Launch::new(self, stream);
        self.graph(stream, || Ok(launch.product(&product)?))
    }

    fn training(&self, stream: &Stream) -> anyhow::Result<Piece> {
        let step = training::Step::new(self, stream, self.sizes.training)?;
        self.graph(stream, || step.launch(&mut Launch::new(self, stream)))
    }

    /// Captures what is put into the stream as a graph. It is run once before, as a capture must not be the first to load
    /// a library's kernels.
    fn graph(
        &self,
        stream: &Stream,
        mut record: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Piece> {
        stream.context().with_current(|| {
            record()?;
            stream.synchronize()?;
            let mut recorded = Ok(());
            let graph = stream.capture(CaptureMode::default(), |_| {
                recorded = record();
                Ok(())
            });
            recorded?;
            Ok(Piece::Graph(graph?.instantiate()?))
        })?
    }
}

/// The launches of a piece, and the memory that they take in turn.
pub struct Launch<'a> {
    sources: &'a Sources,
    stream: &'a Stream,
    operands: Ring,
    results: Ring,
}

impl<'a> Launch<'a> {
    fn new(sources: &'a Sources, stream: &'a Stream) -> Self {
        Self {
            sources,
            stream,
            operands: Ring::of(&sources.operands),
            results: Ring::of(&sources.results),
        }
    }

    /// Launches a product, whose context is current.
    pub fn product(&mut self, product: &Product) -> cuda_green_embed::Result<()> {
        let shape = product.shape();
        let bytes = |rows: usize, columns: usize| rows * columns * size_of::<u16>();
        let a = self.operands.take(bytes(shape.rows, shape.inputs));
        let w = self.operands.take(bytes(shape.outputs, shape.inputs));
        let out = self.results.take(bytes(shape.rows, shape.outputs));
        let workspace = self.sources.workspace.address();
        // SAFETY: the buffers have room for each operand of the floods' sizes, operands and results are apart, and a
        // flood keeps `Sources` until its work is done. The context is current: see `Sources::graph` and `product`.
        unsafe { product.launch(self.stream, a, w, 0, 0, out, workspace) }
    }

    /// Launches an element-wise kernel over so many values of 16 bits.
    pub fn element_wise(&mut self, values: usize) -> anyhow::Result<()> {
        let bytes = values * size_of::<u16>();
        let (from, to) = (self.operands.take(bytes), self.results.take(bytes));
        let vectors = (bytes / 16) as u32;
        let blocks = self.stream.context().sm_count() * 8;
        let shape = LaunchConfig::linear(blocks.min(vectors.div_ceil(256)).max(1), 256);
        // SAFETY: the kernel takes two addresses and the number of 16-byte vectors that it reads from both and writes to
        // the second. Both are aligned and have that many, as above.
        unsafe {
            self.stream
                .launch(&self.sources.mix, &shape, &[&from, &to, &vectors])
        }?;
        Ok(())
    }
}

impl GpuFlood {
    /// Launches one piece, and returns its units.
    fn launch(&self) -> anyhow::Result<u64> {
        let stream = &self.stream;
        match &self.piece {
            Piece::Graph(graph) => {
                // SAFETY: all that the graph uses is in `Sources`, which this holds.
                unsafe { graph.launch(stream) }?;
                Ok(1)
            }
            Piece::Copy { from, to, bytes } => {
                let api = stream.device().driver().api();
                // SAFETY: both buffers have that many bytes and are apart, and `Sources`, which this holds, has them.
                ok(unsafe { api.cuMemcpyDtoDAsync_v2(*to, *from, *bytes, stream.raw()) })?;
                Ok(1)
            }
            Piece::Tiny(kernel) => {
                let shape = LaunchConfig::linear(1, 32);
                for _ in 0..TINY_LAUNCHES {
                    // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
                    unsafe { stream.launch(kernel, &shape, &[&0_u64, &0_u32]) }?;
                }
                Ok(TINY_LAUNCHES)
            }
        }
    }

    /// Keeps work on the way until it is told to stop, then waits for it.
    pub fn run(&self, progress: &Progress) -> anyhow::Result<()> {
        let ran = self.launch_until_stopped(progress);
        // In any case: what the work uses may be dropped afterwards.
        self.stream.synchronize()?;
        ran
    }

    fn launch_until_stopped(&self, progress: &Progress) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(OUTSTANDING);
        for _ in 0..OUTSTANDING {
            events.push(Event::new(self.stream.device())?);
        }
        let mut on_the_way = VecDeque::with_capacity(OUTSTANDING);
        while !progress.is_stopped() {
            let event = match events.pop() {
                Some(event) => event,
                None => match on_the_way.pop_front() {
                    Some((oldest, units)) => {
                        let oldest: Event = oldest;
                        oldest.synchronize()?;
                        progress.add(units);
                        oldest
                    }
                    None => return Ok(()),
                },
            };
            let units = self.launch()?;
            self.stream.record(&event)?;
            on_the_way.push_back((event, units));
        }
        Ok(())
    }
}

/// Fills a buffer with random values of bf16 between 0.5 and 2 or -0.5 and -2.
fn fill(buffer: &GpuBuffer) -> anyhow::Result<()> {
    let mut random = Rng::with_seed(1);
    let count = RANDOM_BYTES.min(buffer.len()) / size_of::<u16>();
    let values = (0..count).flat_map(|_| {
        let bits = random.u16(..);
        // The sign, an exponent of 126 or 127, and the 7 bits after the point.
        let value = bits & 0x807f | (126 + (bits >> 7 & 1)) << 7;
        value.to_le_bytes()
    });
    let values: Vec<u8> = values.collect();
    let mut repeated = values.repeat(buffer.len().div_ceil(values.len().max(1)));
    repeated.truncate(buffer.len());
    buffer.copy_from(&repeated)?;
    Ok(())
}
