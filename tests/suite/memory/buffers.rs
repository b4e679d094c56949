//! Buffers: their bytes, how long they live, and what comes back of them.

use std::sync::Mutex;

use cuda_green::{ContextId, Driver, Error, GpuBuffer, GpuMemoryPool, Result};

use super::MIB;
use crate::{
    Case,
    support::{quad, times},
};

pub const CASES: &[Case] = &[
    ("memory/bytes_come_back", round_trip),
    ("memory/typed_buffers", typed),
    ("memory/buffers_outlive_contexts_and_pools", outlive),
    ("memory/a_foreign_buffer_is_refused", foreign),
    ("memory/free_memory_comes_back", comes_back),
    ("memory/threads_share_a_pool", stress),
    ("memory/a_thread_dies_holding_buffers", dying_thread),
];

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

fn typed(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    let values: Vec<f64> = (0..777).map(f64::from).collect();
    let buffer = pool.allocate_typed::<f64>(777)?;
    assert_eq!((buffer.len(), pool.used()), (777, 777 * 8));
    buffer.copy_from(&values)?;
    let mut back = vec![0.0; 777];
    buffer.copy_to(&mut back)?;
    assert_eq!(back, values);
    assert!(buffer.copy_from(&[0.0; 778]).is_err());
    // Bytes that do not fill a value are left over.
    let bytes = pool.allocate(15)?.typed::<u64>()?;
    assert_eq!((bytes.len(), bytes.bytes().len()), (1, 15));
    assert!(matches!(
        pool.allocate(15)?.typed::<()>(),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(pool.allocate_typed::<u64>(usize::MAX / 4).is_err());
    drop((buffer, bytes));
    assert_eq!(pool.used(), 0);
    Ok(())
}

/// Threads allocate, write, look and free, also each other's buffers: nobody ever sees another's bytes.
fn stress(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 256 << 20)?;
    let shelf: Mutex<Vec<(GpuBuffer, u8)>> = Mutex::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let (pool, shelf) = (&pool, &shelf);
                scope.spawn(move || -> Result<()> {
                    let mut state = thread + 99;
                    for round in 0..times(driver, 400, 2_000) {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let size = 1 + (state >> 33) as usize % (1 << (8 + state % 14));
                        let mark = (state >> 20) as u8;
                        let buffer = pool.allocate(size)?;
                        let ends = [mark; 16];
                        buffer.copy_from(&ends[..size.min(16)])?;
                        let taken = {
                            let mut shelf = shelf.lock().unwrap();
                            shelf.push((buffer, mark));
                            let at = round * 7 % shelf.len();
                            (shelf.len() > 40).then(|| shelf.swap_remove(at))
                        };
                        if let Some((buffer, mark)) = taken {
                            let mut seen = [0; 16];
                            let len = buffer.len().min(16);
                            buffer.copy_to(&mut seen[..len])?;
                            assert_eq!(seen[..len], [mark; 16][..len]);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })?;
    drop(shelf);
    assert_eq!(pool.used(), 0);
    let metrics = pool.metrics();
    assert_eq!(metrics.allocations, metrics.deallocations);
    pool.trim()?;
    assert_eq!(pool.metrics().from_driver, 0);
    Ok(())
}

fn dying_thread(driver: &Driver) -> Result<()> {
    let pool = GpuMemoryPool::on(&driver.device(0)?, 1 << 20)?;
    let thread = {
        let pool = pool.clone();
        std::thread::spawn(move || {
            let _buffers: Vec<_> = (1..20).map(|i| pool.allocate(i * 100).unwrap()).collect();
            std::panic::resume_unwind(Box::new("on purpose"));
        })
    };
    assert!(thread.join().is_err());
    assert_eq!(pool.used(), 0);
    drop(pool.allocate(1 << 20)?);
    Ok(())
}
