//! Pools and buffers: limits that hold exactly, and nothing lost.

use cuda_green::{ContextId, Driver, Error, GpuBuffer, GpuMemoryPool, MemoryPressure, Result};

use crate::{
    Case,
    support::{quad, times},
};

pub const CASES: &[Case] = &[
    ("memory/limits_are_exact", limits),
    ("memory/limits_are_exact_from_many_threads", many_threads),
    ("memory/bytes_come_back", round_trip),
    ("memory/pressure_follows_use", pressure),
    ("memory/buffers_outlive_contexts_and_pools", outlive),
    ("memory/a_foreign_buffer_is_refused", foreign),
    ("memory/free_memory_comes_back", comes_back),
    ("memory/the_device_runs_out_clearly", device_full),
];

const MIB: usize = 1 << 20;

fn limits(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1000)?;
    let one = pool.allocate(999)?;
    assert_eq!((pool.used(), pool.available()), (999, 1));
    assert!(matches!(
        pool.allocate(2),
        Err(Error::OutOfMemory {
            asked: 2,
            available: 1,
            limit: 1000
        })
    ));
    let two = pool.allocate(1)?;
    assert_eq!(pool.available(), 0);
    assert_ne!(one.address(), two.address());
    pool.deallocate(one)?;
    drop(two);
    assert_eq!((pool.used(), pool.high_water_mark()), (0, 1000));
    assert!(matches!(
        pool.allocate(usize::MAX),
        Err(Error::OutOfMemory { .. })
    ));
    assert!(matches!(
        pool.allocate(0),
        Err(Error::InvalidArgument { .. })
    ));
    assert_eq!(pool.used(), 0, "what fails takes nothing");
    Ok(())
}

/// Threads race for a pool that holds exactly so many buffers: no more, and no fewer, are ever granted.
fn many_threads(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    for _ in 0..times(driver, 20, 3) {
        let pool = GpuMemoryPool::on(&device, 10 * 4096)?;
        let granted: Vec<GpuBuffer> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let pool = &pool;
                    scope.spawn(move || {
                        (0..50)
                            .filter_map(|_| pool.allocate(4096).ok())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(granted.len(), 10);
        drop(granted);
        assert_eq!(pool.used(), 0);
    }
    Ok(())
}

fn round_trip(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, MIB as u64)?;
    let buffer = pool.allocate(70_000)?;
    assert_eq!(buffer.len(), 70_000);
    assert_eq!(buffer.address() % 256, 0);
    let written: Vec<u8> = (0..70_000u32).map(|i| (i * 7 % 251) as u8).collect();
    buffer.copy_from(&written)?;
    let mut read = vec![0; 70_000];
    buffer.copy_to(&mut read)?;
    assert_eq!(read, written);
    buffer.copy_from(&[1, 2, 3])?;
    buffer.copy_to(&mut read[..4])?;
    assert_eq!(read[..4], [1, 2, 3, written[3]]);
    buffer.fill(0xa5)?;
    buffer.copy_to(&mut read)?;
    assert!(read.iter().all(|byte| *byte == 0xa5));
    assert!(matches!(
        buffer.copy_from(&vec![0; 70_001]),
        Err(Error::LengthMismatch { .. })
    ));
    assert!(matches!(
        buffer.copy_to(&mut vec![0; 70_001]),
        Err(Error::LengthMismatch { .. })
    ));
    Ok(())
}

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

fn outlive(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let context = manager.get_context(ContextId::Embedding)?;
    let buffer = context.memory()?.allocate(MIB)?;
    assert_eq!(context.memory_used(), MIB as u64);
    assert_eq!(
        manager.allocation_status().contexts[0].memory_used_bytes,
        MIB as u64
    );
    assert_eq!(context.memory()?.limit(), 8 << 30);
    drop(context);
    for id in ContextId::ALL {
        manager.destroy_context(id)?;
    }
    drop(manager);
    buffer.copy_from(&vec![7; MIB])?;
    let mut read = vec![0; MIB];
    buffer.copy_to(&mut read)?;
    assert!(read.iter().all(|byte| *byte == 7));
    Ok(())
}

fn foreign(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let (one, two) = (
        GpuMemoryPool::on(&device, 4096)?,
        GpuMemoryPool::on(&device, 4096)?,
    );
    let buffer = one.allocate(4096)?;
    assert!(matches!(two.deallocate(buffer), Err(Error::ForeignBuffer)));
    assert_eq!(
        (one.used(), two.used()),
        (0, 0),
        "it was dropped, so its own pool has it back"
    );
    Ok(())
}

fn comes_back(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    // The first pool of a process may make the driver take memory for itself.
    drop(GpuMemoryPool::on(&device, u64::MAX)?.allocate(MIB)?);
    let before = device.free_memory()?;
    for _ in 0..times(driver, 50, 5) {
        let pool = GpuMemoryPool::on(&device, 512 << 20)?;
        let buffers = (0..4)
            .map(|_| pool.allocate(64 * MIB))
            .collect::<Result<Vec<_>>>()?;
        assert!(device.free_memory()? <= before - (256 << 20));
        drop(buffers);
    }
    assert_eq!(device.free_memory()?, before);
    assert!(before <= device.total_memory());
    Ok(())
}

/// More than the device has, under a limit that would allow it.
fn device_full(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let pool = GpuMemoryPool::on(&device, u64::MAX)?;
    let too_much = device.total_memory() as usize + MIB;
    assert!(matches!(
        pool.allocate(too_much),
        Err(Error::OutOfMemory { .. })
    ));
    assert_eq!(pool.used(), 0);
    pool.allocate(MIB)?.copy_from(&[1]) // and it goes on working
}
