//! What an allocation costs: our pool beside the driver's stream-ordered pool and `cuMemAlloc`, in
//! alternating batches of one run; how the time spreads, on one thread and on several; and what RMM's
//! random workload leaves in pieces.

#![allow(missing_docs)]

mod common;

use std::{
    hint::black_box,
    sync::Barrier,
    time::{Duration, Instant},
};

use clap::Parser;
use common::{Args, Outcome, percentile, sort};
use cuda_green::{CudaDevice, GpuMemoryPool, sys};
use serde_json::{Map, Value, json};
use sys::{Api, CUdeviceptr, CUmemoryPool, CUresult, CUstream, MissingEntryPoint};

const MIB: usize = 1 << 20;
const LIMIT: u64 = 8 << 30;

fn main() -> Outcome {
    let args = Args::parse();
    let device = args.device()?;
    let mut figures = Map::new();
    println!(
        "{} ({} from {})",
        device.name(),
        device.driver().version(),
        device.driver().source()
    );
    let raw = RawPool::new(&device)?;
    availability(&device, &mut figures)?;
    pairs(&device, &raw, args.quick, &mut figures)?;
    threads(&device, &raw, args.quick, &mut figures)?;
    whole(&device, &mut figures)?;
    random(&device, &raw, args.quick, &mut figures)?;
    soak(&device, args.quick, &mut figures)?;
    args.write(&device, "memory", figures)
}

/// One allocator under test.
trait Allocator: Sync {
    type Block;
    fn take(&self, size: usize) -> Outcome<Self::Block>;
    fn give(&self, block: Self::Block) -> Outcome;
}

struct Ours(GpuMemoryPool);

impl Allocator for Ours {
    type Block = cuda_green::GpuBuffer;
    fn take(&self, size: usize) -> Outcome<Self::Block> {
        Ok(self.0.allocate(size)?)
    }
    fn give(&self, block: Self::Block) -> Outcome {
        drop(block);
        Ok(())
    }
}

fn ok(result: Result<CUresult, MissingEntryPoint>) -> Outcome {
    Ok(result?.ok()?)
}

/// The driver's own pool, kept warm: nothing is released before the end.
struct RawPool<'a> {
    device: &'a CudaDevice,
    pool: CUmemoryPool,
    stream: CUstream,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread.
unsafe impl Sync for RawPool<'_> {}

impl<'a> RawPool<'a> {
    fn new(device: &'a CudaDevice) -> Outcome<Self> {
        let properties = sys::CUmemPoolProps {
            allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            location: sys::CUmemLocation {
                type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                __bindgen_anon_1: sys::CUmemLocation_st__bindgen_ty_1 { id: device.raw() },
            },
            ..Default::default()
        };
        let (mut pool, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut threshold = u64::MAX;
        let api = device.driver().api();
        // SAFETY: the outputs are valid; the context is retained by the device; the attribute is a 64-bit
        // number.
        unsafe {
            ok(api.cuCtxSetCurrent(device.raw_primary_context()?))?;
            ok(api.cuMemPoolCreate(&mut pool, &properties))?;
            ok(api.cuMemPoolSetAttribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                std::ptr::from_mut(&mut threshold).cast(),
            ))?;
            ok(api.cuStreamCreateWithPriority(&mut stream, 1, 0))?;
        }
        Ok(Self {
            device,
            pool,
            stream,
        })
    }

    fn api(&self) -> &Api {
        self.device.driver().api()
    }

    /// Bytes that the pool has from the device, and that it gave out; now, or at most.
    fn reserved(&self, high: bool) -> Outcome<u64> {
        let mut bytes = 0u64;
        let attribute = if high {
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH
        } else {
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        };
        // SAFETY: the pool is live, and the attribute a 64-bit number.
        ok(unsafe {
            self.api().cuMemPoolGetAttribute(
                self.pool,
                attribute,
                std::ptr::from_mut(&mut bytes).cast(),
            )
        })?;
        Ok(bytes)
    }

    fn reset(&self) -> Outcome {
        let mut zero = 0u64;
        // SAFETY: pool and stream are live; the attribute is a 64-bit number that may be set to zero.
        unsafe {
            ok(self.api().cuStreamSynchronize(self.stream))?;
            ok(self.api().cuMemPoolTrimTo(self.pool, 0))?;
            ok(self.api().cuMemPoolSetAttribute(
                self.pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH,
                std::ptr::from_mut(&mut zero).cast(),
            ))
        }
    }
}

impl Allocator for RawPool<'_> {
    type Block = CUdeviceptr;
    fn take(&self, size: usize) -> Outcome<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: pool and stream are live, and the output is valid.
        ok(unsafe {
            self.api()
                .cuMemAllocFromPoolAsync(&mut address, size, self.pool, self.stream)
        })?;
        Ok(address)
    }
    fn give(&self, address: CUdeviceptr) -> Outcome {
        // SAFETY: the address is of this pool, and nothing uses it.
        ok(unsafe { self.api().cuMemFreeAsync(address, self.stream) })
    }
}

impl Drop for RawPool<'_> {
    fn drop(&mut self) {
        // SAFETY: both are live, and all that came from the pool was freed.
        unsafe {
            let _ = self.api().cuStreamSynchronize(self.stream);
            let _ = self.api().cuStreamDestroy_v2(self.stream);
            let _ = self.api().cuMemPoolDestroy(self.pool);
        }
    }
}

/// `cuMemAlloc`, with the context current already.
struct Plain<'a>(&'a Api);

impl Allocator for Plain<'_> {
    type Block = CUdeviceptr;
    fn take(&self, size: usize) -> Outcome<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: a context is current, and the output is valid.
        ok(unsafe { self.0.cuMemAlloc_v2(&mut address, size) })?;
        Ok(address)
    }
    fn give(&self, address: CUdeviceptr) -> Outcome {
        // SAFETY: the address is of `cuMemAlloc`, and nothing uses it.
        ok(unsafe { self.0.cuMemFree_v2(address) })
    }
}

fn batch<A: Allocator>(allocator: &A, size: usize, pairs: usize) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..pairs {
        allocator.give(black_box(allocator.take(size)?))?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / pairs as f64)
}

/// Each pair timed by itself, the clock's own cost left in.
fn spread<A: Allocator>(allocator: &A, size: usize, pairs: usize) -> Outcome<Value> {
    let mut samples = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let start = Instant::now();
        allocator.give(black_box(allocator.take(size)?))?;
        samples.push(start.elapsed().as_nanos() as f64);
    }
    sort(&mut samples);
    Ok(json!({
        "p50_ns": percentile(&samples, 0.5), "p99_ns": percentile(&samples, 0.99),
        "p999_ns": percentile(&samples, 0.999), "max_ns": percentile(&samples, 1.0),
    }))
}

fn pairs(
    device: &CudaDevice,
    raw: &RawPool<'_>,
    quick: bool,
    figures: &mut Map<String, Value>,
) -> Outcome {
    let ours = Ours(GpuMemoryPool::on(device, LIMIT)?);
    let plain = Plain(device.driver().api());
    let rounds = if quick { 3 } else { 100 };
    println!(
        "{:<26} {:>11} {:>11} {:>11}   ours p99.9",
        "allocate + free", "ours", "raw pool", "cuMemAlloc"
    );
    for (name, size) in [
        ("256 B", 256),
        ("4 KiB", 4 << 10),
        ("64 KiB", 64 << 10),
        ("1 MiB", MIB),
        ("8 MiB", 8 * MIB),
        ("64 MiB", 64 * MIB),
        ("1 GiB", 1024 * MIB),
    ] {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        batch(&ours, size, 100)?;
        batch(raw, size, 100)?;
        for round in 0..rounds {
            // Which goes first alternates, so that neither always finds the caches of the other.
            for which in 0..3 {
                match (which + round) % 3 {
                    0 => times[0].push(batch(&ours, size, 10_000)?),
                    1 => times[1].push(batch(raw, size, 2_000)?),
                    _ => times[2].push(batch(&plain, size, if quick { 2 } else { 10 })?),
                }
            }
        }
        let medians = times.map(|mut samples| {
            sort(&mut samples);
            percentile(&samples, 0.5)
        });
        let spreads = [
            spread(&ours, size, 200_000)?,
            spread(raw, size, if quick { 2_000 } else { 100_000 })?,
        ];
        println!(
            "{name:<26} {:>8.1} ns {:>8.1} ns {:>8.0} ns   {} ns",
            medians[0], medians[1], medians[2], spreads[0]["p999_ns"]
        );
        let [of_ours, of_raw] = spreads;
        figures.insert(
            format!("pair {name}"),
            json!({
                "ours_ns": medians[0], "raw_pool_ns": medians[1], "cu_mem_alloc_ns": medians[2],
                "rounds": rounds, "ours": of_ours, "raw_pool": of_raw,
            }),
        );
    }
    Ok(())
}

fn together<A: Allocator>(allocator: &A, threads: usize, pairs: usize) -> Outcome<f64> {
    let barrier = Barrier::new(threads);
    let times = std::thread::scope(|scope| -> Outcome<Vec<f64>> {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    batch(allocator, 4096, 100)?;
                    barrier.wait();
                    batch(allocator, 4096, pairs)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a thread panicked")?)
            .collect()
    })?;
    Ok(times.iter().sum::<f64>() / times.len() as f64)
}

fn threads(
    device: &CudaDevice,
    raw: &RawPool<'_>,
    quick: bool,
    figures: &mut Map<String, Value>,
) -> Outcome {
    let ours = Ours(GpuMemoryPool::on(device, LIMIT)?);
    println!(
        "\n{:<26} {:>11} {:>11}",
        "a pair of 4 KiB, threads", "ours", "raw pool"
    );
    for threads in [1, 2, 4, 8, 16] {
        let (mut of_ours, mut of_raw) = (Vec::new(), Vec::new());
        for _ in 0..if quick { 1 } else { 20 } {
            of_ours.push(together(
                &ours,
                threads,
                if quick { 2_000 } else { 100_000 },
            )?);
            of_raw.push(together(raw, threads, if quick { 500 } else { 10_000 })?);
        }
        sort(&mut of_ours);
        sort(&mut of_raw);
        let medians = [percentile(&of_ours, 0.5), percentile(&of_raw, 0.5)];
        println!(
            "{threads:<26} {:>8.1} ns {:>8.1} ns",
            medians[0], medians[1]
        );
        figures.insert(
            format!("pair on {threads} threads"),
            json!({"ours_ns": medians[0], "raw_pool_ns": medians[1]}),
        );
    }
    Ok(())
}

/// The whole limit in one buffer, after it was in use in small pieces.
fn whole(device: &CudaDevice, figures: &mut Map<String, Value>) -> Outcome {
    let pool = GpuMemoryPool::on(device, LIMIT)?;
    let mut pieces = Vec::new();
    while pool.available() >= 3 * MIB as u64 {
        pieces.push(pool.allocate(3 * MIB)?);
    }
    drop(pieces);
    let start = Instant::now();
    drop(pool.allocate(LIMIT as usize)?);
    let took = start.elapsed();
    println!("\n8 GiB at once after 3 MiB pieces: {took:?}");
    figures.insert(
        "8 GiB at once".into(),
        json!({"ns": took.as_nanos() as u64}),
    );
    Ok(())
}

/// The same numbers everywhere: `random` 's MINSTD, which C++ and Python have, too.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0 * 48_271 % 2_147_483_647;
        self.0 % end
    }
}

/// After RMM's `random_allocations`: at even odds, allocate a random size up to a maximum or free a random
/// block, and free one where the memory in use would pass the limit.
fn workload<A: Allocator>(
    allocator: &A,
    count: usize,
    most: usize,
    mut after_each: impl FnMut(usize) -> Outcome,
) -> Outcome<(Duration, u64)> {
    let mut numbers = Numbers(1);
    let mut blocks: Vec<(A::Block, usize)> = Vec::new();
    let (mut in_use, mut high, mut allocated) = (0, 0u64, 0);
    let mut took = Duration::ZERO;
    while allocated < count {
        let size = 1 + numbers.below(most as u64) as usize;
        let allocate = numbers.below(2) == 0 || blocks.is_empty();
        if allocate && in_use + size <= LIMIT as usize {
            let start = Instant::now();
            let block = allocator.take(size)?;
            took += start.elapsed();
            blocks.push((block, size));
            in_use += size;
            allocated += 1;
        } else {
            let at = numbers.below(blocks.len() as u64) as usize;
            let (block, size) = blocks.swap_remove(at);
            let start = Instant::now();
            allocator.give(block)?;
            took += start.elapsed();
            in_use -= size;
        }
        high = high.max(in_use as u64);
        after_each(in_use)?;
    }
    for (block, _) in blocks {
        allocator.give(block)?;
    }
    Ok((took, high))
}

/// How much the driver's memory exceeds what was in use, at the most of both.
fn overhead(from_driver: u64, in_use: u64) -> f64 {
    from_driver as f64 / in_use as f64 - 1.0
}

fn random(
    device: &CudaDevice,
    raw: &RawPool<'_>,
    quick: bool,
    figures: &mut Map<String, Value>,
) -> Outcome {
    println!(
        "\n{:<26} {:>21} {:>21}",
        "random allocations", "ours", "raw pool"
    );
    let counts: &[usize] = if quick {
        &[1_000]
    } else {
        &[1_000, 10_000, 100_000]
    };
    for most in [4, 64] {
        for &count in counts {
            // The driver's own steps are of 32 MiB, so small runs are all rounding, on both sides.
            let ours = Ours(GpuMemoryPool::on(device, LIMIT + LIMIT / 4)?);
            let (our_time, high) = workload(&ours, count, most * MIB, |_| Ok(()))?;
            let ours_high = ours.0.metrics().from_driver_high;
            drop(ours);
            raw.reset()?;
            let (raw_time, _) = workload(raw, count, most * MIB, |_| Ok(()))?;
            let raw_high = raw.reserved(true)?;
            let each = |time: Duration| time.as_secs_f64() * 1e9 / count as f64;
            let more = [overhead(ours_high, high), overhead(raw_high, high)];
            println!(
                "{:<26} {:>9.0} ns {:>6.1} % {:>9.0} ns {:>6.1} %",
                format!("{count} up to {most} MiB"),
                each(our_time),
                more[0] * 100.0,
                each(raw_time),
                more[1] * 100.0
            );
            figures.insert(
                format!("random {count} up to {most} MiB"),
                json!({
                    "ours_ns": each(our_time), "raw_pool_ns": each(raw_time), "in_use_high_bytes": high,
                    "ours_from_driver_high_bytes": ours_high, "raw_pool_reserved_high_bytes": raw_high,
                    "ours_overhead": more[0], "raw_pool_overhead": more[1],
                }),
            );
        }
    }
    raw.reset()?;
    assert!(
        raw.reserved(false)? <= LIMIT,
        "the driver's pool was emptied"
    );
    Ok(())
}

/// Operations at full speed on several threads; in the end the driver's own counter is where it was.
fn soak(device: &CudaDevice, quick: bool, figures: &mut Map<String, Value>) -> Outcome {
    let time = if quick {
        Duration::from_millis(200)
    } else {
        Duration::from_secs(20)
    };
    // The first pool of a process may make the driver take memory for itself.
    drop(GpuMemoryPool::on(device, LIMIT)?.allocate(MIB)?);
    let before = device.free_memory()?;
    let pool = GpuMemoryPool::on(device, LIMIT)?;
    let end = Instant::now() + time;
    std::thread::scope(|scope| -> Outcome {
        let running: Vec<_> = (0..8u64)
            .map(|thread| {
                let pool = &pool;
                scope.spawn(move || -> Outcome {
                    let mut numbers = Numbers(thread + 1);
                    let mut held = Vec::new();
                    while Instant::now() < end {
                        for _ in 0..1000 {
                            if held.len() > 50 || (numbers.below(2) == 0 && !held.is_empty()) {
                                let at = numbers.below(held.len() as u64) as usize;
                                drop(held.swap_remove(at));
                            } else {
                                let size = 1 << numbers.below(23);
                                held.push(pool.allocate(1 + numbers.below(size) as usize)?);
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in running {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    let metrics = pool.metrics();
    println!("\nsoak of {time:?} on 8 threads\n{metrics}");
    drop(pool);
    let after = device.free_memory()?;
    println!("free memory before {before}, after {after}");
    figures.insert(
        "soak".into(),
        json!({
            "seconds": time.as_secs_f64(), "threads": 8, "operations": metrics.allocations + metrics.deallocations,
            "free_before_bytes": before, "free_after_bytes": after,
            "pool": metrics,
        }),
    );
    if before != after || metrics.used != 0 {
        return Err(format!("{} bytes were lost", before.abs_diff(after)).into());
    }
    Ok(())
}

/// What asking for the driver's readiness costs once it is initialised.
fn availability(device: &CudaDevice, figures: &mut Map<String, Value>) -> Outcome {
    if device.driver().is_simulated() {
        return Ok(());
    }
    GpuMemoryPool::check_availability()?;
    let start = Instant::now();
    GpuMemoryPool::check_availability()?;
    let again = start.elapsed();
    println!("check_availability beyond cuInit: {again:?}");
    figures.insert(
        "check_availability".into(),
        json!({"beyond_cu_init_ns": again.as_nanos() as u64}),
    );
    Ok(())
}
