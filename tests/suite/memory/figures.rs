//! Figures of pools: pressure, counts, times.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cuda_green::{Driver, GpuMemoryPool, MemoryPressure, Result};

use crate::Case;

pub const CASES: &[Case] = &[
    ("memory/pressure_follows_use", pressure),
    ("memory/pressure_calls_back", callbacks),
    ("memory/figures_add_up", metrics),
    ("memory/others_press_on_the_device_too", device_pressure),
    ("memory/hits_and_frees_are_timed_now_and_then", timed),
];

fn pressure(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 100 * 512)?;
    let mut buffers = Vec::new();
    for percent in 0..=100 {
        let expected = match percent {
            ..50 => MemoryPressure::Low,
            50..80 => MemoryPressure::Medium,
            80..=95 => MemoryPressure::High,
            _ => MemoryPressure::Critical,
        };
        assert_eq!(pool.pressure_level(), expected, "{percent} %");
        if percent < 100 {
            buffers.push(pool.allocate(512)?);
        }
    }
    Ok(())
}

fn callbacks(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 100_000)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let handle = Arc::new(Mutex::new(Some(pool.clone())));
    let (list, looking) = (heard.clone(), handle.clone());
    pool.on_pressure(move |change| {
        // No lock is held, so the pool can be asked.
        assert!(looking.lock().unwrap().as_ref().unwrap().limit() == 100_000);
        list.lock().unwrap().push(change.to);
    });
    let half = pool.allocate(50_000)?;
    let most = pool.allocate(46_000)?;
    assert_eq!(pool.pressure_level(), MemoryPressure::Critical);
    drop(most);
    drop(half);
    assert_eq!(
        *heard.lock().unwrap(),
        [
            MemoryPressure::Medium,
            MemoryPressure::Critical,
            MemoryPressure::Medium,
            MemoryPressure::Low
        ]
    );
    *handle.lock().unwrap() = None;
    Ok(())
}

fn metrics(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 30)?;
    let one = pool.allocate(1_000_000)?;
    drop(pool.allocate(3_000)?);
    drop(pool.allocate(3_001)?);
    assert!(pool.allocate(2 << 30).is_err());
    let metrics = pool.metrics();
    assert_eq!((metrics.allocations, metrics.deallocations), (3, 2));
    assert_eq!((metrics.cache_hits, metrics.failures), (1, 1));
    assert_eq!(
        (metrics.used, metrics.high_water_mark),
        (1_000_000, 1_003_001)
    );
    assert_eq!(metrics.misses.count(), 2);
    // All of the driver's memory is somewhere, and rounding takes no more than an eighth.
    let in_use = metrics.from_driver - metrics.cached - metrics.free_from_driver - metrics.pending;
    assert!((1_000_000..1_125_000).contains(&in_use), "{metrics}");
    let json = serde_json::to_value(metrics).unwrap();
    assert_eq!(json["used"], 1_000_000);
    let timed = json["misses"].as_array().unwrap();
    assert_eq!(
        timed
            .iter()
            .map(|pair| pair[1].as_u64().unwrap())
            .sum::<u64>(),
        2
    );
    assert!(metrics.to_string().contains("high water mark"));
    drop(one);
    Ok(())
}

/// What another pool takes shows in the device's pressure, once the last answer is old.
fn device_pressure(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    let before = pool.device_pressure(Duration::ZERO)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    pool.on_device_pressure(move |change| list.lock().unwrap().push((change.from, change.to)))?;
    let other = GpuMemoryPool::on(&device, u64::MAX)?;
    // To more than 80 % of the device, however full it is.
    let total = device.total_memory();
    let used = total - device.free_memory()?;
    let wanted = (total / 100 * 85).saturating_sub(used);
    let taken = other.allocate(wanted.max(1) as usize)?;
    assert_eq!(pool.device_pressure(Duration::from_secs(3600))?, before);
    assert!(heard.lock().unwrap().is_empty(), "nobody has asked");
    // Taking memory from the driver is a moment to ask.
    drop(pool.allocate(1000)?);
    let high = pool.device_pressure(Duration::from_secs(3600))?;
    assert_eq!(*heard.lock().unwrap(), [(before, high)]);
    assert!(pool.device_pressure(Duration::ZERO)? >= MemoryPressure::High);
    drop(taken);
    other.trim()?;
    assert_eq!(pool.device_pressure(Duration::ZERO)?, before);
    assert_eq!(*heard.lock().unwrap(), [(before, high), (high, before)]);
    assert_eq!(pool.pressure_level(), MemoryPressure::Low);
    Ok(())
}

fn timed(driver: &Driver) -> Result<()> {
    // No hit among them, so none is timed as one.
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    let held = (0..64 * 5)
        .map(|_| pool.allocate(3_000))
        .collect::<Result<Vec<_>>>()?;
    let metrics = pool.metrics();
    assert_eq!((metrics.misses.count(), metrics.hits.count()), (64 * 5, 0));
    drop(held);
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    for _ in 0..64 * 20 {
        drop(pool.allocate(3_000)?);
    }
    let metrics = pool.metrics();
    assert_eq!(
        (metrics.misses.count(), metrics.cache_hits),
        (1, 64 * 20 - 1)
    );
    assert!((19..=20).contains(&metrics.hits.count()), "{metrics}");
    assert_eq!(metrics.frees.count(), 20);
    Ok(())
}
