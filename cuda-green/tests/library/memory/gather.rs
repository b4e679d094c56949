//! What threads have at hand, and what is between them and the heap: it is counted, taken back when that pays,
//! and whenever the limit is near, and given to the system by a trim.

use std::time::Duration;

use cuda_green::{
    ContextPolicy, Driver, Error, GpuBuffer, GpuMemoryPool, GreenContext, Result,
    sim::{Injection, Sim},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn pool(limit: usize) -> Result<GpuMemoryPool> {
    let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    GpuMemoryPool::on(&device, limit as u64)
}

fn take(pool: &GpuMemoryPool, count: usize, size: usize) -> Result<Vec<GpuBuffer>> {
    (0..count).map(|_| pool.allocate(size)).collect()
}

/// Allocates until the driver gives more; tells how many misses that took.
fn grow(pool: &GpuMemoryPool, size: usize, held: &mut Vec<GpuBuffer>) -> Result<u64> {
    let before = pool.metrics();
    while pool.metrics().from_driver == before.from_driver {
        held.push(pool.allocate(size)?);
    }
    Ok(pool.metrics().misses.count() - before.misses.count())
}

/// 20 MiB are freed by one thread, which keeps half a MiB of them, and a MiB is left between the threads.
#[test]
fn what_one_thread_frees_is_free_for_another_and_goes_back() -> Result<()> {
    let pool = pool(64 * MIB)?;
    drop(take(&pool, 100, 200 * KIB)?);
    let metrics = pool.metrics();
    assert!(metrics.cached <= 512 * 1024, "{metrics}");
    assert_eq!(
        metrics.cached + metrics.free_from_driver,
        metrics.from_driver
    );
    let held = std::thread::scope(|scope| {
        let other = scope.spawn(|| take(&pool, 90, 200 * KIB));
        other.join().unwrap()
    })?;
    let now = pool.metrics();
    assert_eq!(now.from_driver, metrics.from_driver, "no more was needed");
    // Of 224 KiB each, to which 200 are rounded: what no buffer has is free, to the byte.
    let free = now.cached + now.free_from_driver;
    assert_eq!(now.from_driver - free, 90 * 208 * 1024);
    drop(held);
    assert_eq!(pool.trim()?, metrics.from_driver);
    assert_eq!(pool.metrics().from_driver, 0);
    Ok(())
}

/// The whole limit in one buffer, after it was all in small ones, some of them in caches and between them.
#[test]
fn nothing_at_hand_stands_in_the_way_of_a_request_that_fits() -> Result<()> {
    let pool = pool(64 * MIB)?;
    let size = 48 * KIB;
    for _ in 0..3 {
        let held = take(&pool, 64 * MIB / size, size)?;
        std::thread::scope(|scope| scope.spawn(|| drop(held)).join()).unwrap();
        drop(take(&pool, 100, size)?);
        drop(pool.allocate(64 * MIB)?);
        assert!(pool.allocate(64 * MIB + 1).is_err());
        let allowed = (64 + 8 + 2) * MIB as u64;
        assert!(pool.metrics().from_driver_high <= allowed);
    }
    Ok(())
}

/// One pool's free blocks are gathered when another of the family needs more memory; not again at once, but
/// after sixteen times as many misses.
#[test]
fn free_blocks_are_gathered_when_that_pays() -> Result<()> {
    let pool = pool(1 << 30)?;
    let (idle, busy) = (pool.child(512 << 20)?, pool.child(1 << 30)?);
    // By another thread, whose shard is its alone, since this one has another.
    let refill = || {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| take(&idle, 40, 64 * KIB).map(drop));
            other.join().unwrap()
        })?;
        Ok::<u64, Error>(idle.metrics().cached)
    };
    drop(pool.allocate(1)?);
    let mut held = Vec::new();
    assert_eq!(refill()?, 40 * 64 * 1024);
    grow(&busy, 4 * MIB, &mut held)?;
    assert_eq!(idle.metrics().cached, 0, "gathered the first time");

    let full = refill()?;
    let mut misses = 40;
    while misses <= 16 * 40 {
        assert_eq!(idle.metrics().cached, full, "after {misses} misses");
        misses += grow(&busy, MIB, &mut held)?;
    }
    grow(&busy, MIB, &mut held)?;
    assert_eq!(idle.metrics().cached, 0, "it pays again");
    Ok(())
}

/// A pool that ends while another thread gathers gives its bytes back at once: what fits is not refused.
#[test]
fn a_pool_that_ends_during_a_gather_is_gone_at_once() {
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let context = GreenContext::primary(&device, ContextPolicy::default()).unwrap();
    let stream = context.create_stream().unwrap();
    let pool = GpuMemoryPool::on(&device, 1 << 20).unwrap();
    let model = pool.reserve(900 << 10).unwrap();
    let other = pool.child(50 << 10).unwrap();
    let buffer = other.allocate(1000).unwrap();
    buffer.free_on(&stream).unwrap();
    // The gathering thread is held up while it waits for that buffer. Were it not, this would show nothing.
    let wait = Injection::slow("cuEventSynchronize", Duration::from_millis(500)).unwrap();
    simulator.inject(wait);
    let before = simulator.calls();
    std::thread::scope(|scope| {
        let trimming = scope.spawn(|| pool.trim());
        while simulator.calls() == before {
            std::thread::yield_now();
        }
        drop(model);
        pool.reserve(900 << 10).unwrap();
        trimming.join().unwrap().unwrap();
    });
    simulator.assert_injections_fired();
}
