//! Memory in the order of streams: what one still uses is given to nobody else.

use std::time::Duration;

use cuda_green::{
    ContextPolicy, CudaDevice, Driver, Error, GpuMemoryPool, GreenContext, LaunchConfig, Result,
    Stream, kernels,
};

use super::MIB;
use crate::{Case, support::kernel};

pub const CASES: &[Case] = &[
    ("memory/what_a_stream_uses_is_not_handed_out", stream_order),
    ("memory/copies_in_streams", pinned_copies),
    ("memory/kernels_write_pinned_memory", pinned_access),
];

/// A stream in single-context clothes, and a kernel that keeps it busy for a while.
fn busy_stream(device: &CudaDevice) -> Result<(Stream, impl Fn(&Stream) -> Result<()>)> {
    let context = GreenContext::primary(device, ContextPolicy::default())?;
    let kernel = kernel(device, kernels::BURN)?;
    if let Some(simulator) = device.driver().simulator() {
        simulator.register_kernel_cost(kernels::BURN, |_| {
            cuda_green::sim::BlockCost::busy(Duration::from_millis(50))
        });
    }
    let stream = context.create_stream()?;
    Ok((stream, move |stream: &Stream| {
        // About 50 ms on an H200.
        // SAFETY: the kernel takes an address, to which it never comes to write, and a number of rounds.
        unsafe {
            stream.launch(
                &kernel,
                &LaunchConfig::linear(1, 32),
                &[&0u64, &20_000_000u32],
            )
        }
    }))
}

fn stream_order(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let (stream, burn) = busy_stream(&device)?;
    let other = stream.context().create_stream()?;
    for size in [5_000, 20 * MIB] {
        let pool = GpuMemoryPool::on(&device, 64 << 20)?;
        let buffer = pool.allocate(size)?;
        let address = buffer.address();
        burn(&stream)?;
        buffer.free_on(&stream)?;
        assert!(!stream.is_done()?, "the kernel is too short for this test");
        assert_eq!(pool.used(), 0, "the accounting has it back at once");
        // Others get other memory; the same stream gets the same.
        let elsewhere = pool.allocate(size)?;
        assert_ne!(elsewhere.address(), address);
        assert_ne!(pool.allocate_on(&other, size)?.address(), address);
        let again = pool.allocate_on(&stream, size)?;
        assert_eq!(again.address(), address);
        assert!(!stream.is_done()?, "nothing so far waited");
        // Dropped without a word, it is still not anyone else's.
        drop(again);
        assert_ne!(pool.allocate(size)?.address(), address);
        // What waits for the host waits for the stream first.
        let again = pool.allocate_on(&stream, size)?;
        assert_eq!(again.address(), address);
        again.copy_from(&[1, 2, 3])?;
        assert!(stream.is_done()?);
        drop((again, elsewhere));
        let mut seen = Vec::new();
        while pool.used() + size as u64 <= pool.limit() && seen.len() < 3 {
            seen.push(pool.allocate(size)?);
        }
        assert!(seen.iter().any(|buffer| buffer.address() == address));
    }
    // A pool that has nothing else waits for what streams still use rather than refuse what fits.
    let pool = GpuMemoryPool::on(&device, 64 << 20)?;
    let buffer = pool.allocate(64 * MIB)?;
    burn(&stream)?;
    buffer.free_on(&stream)?;
    drop(pool.allocate(64 * MIB)?);
    // And a pool that ends waits, too.
    let buffer = pool.allocate(MIB)?;
    burn(&stream)?;
    buffer.fence_on(&stream)?;
    drop((buffer, pool));
    assert!(stream.is_done()?);
    Ok(())
}

fn pinned_copies(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let (stream, burn) = busy_stream(&device)?;
    let other = stream.context().create_stream()?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    let mut source = pool.allocate_pinned::<u32>(1000)?;
    assert!(source.as_slice()?.iter().all(|value| *value == 0));
    for (value, i) in source.as_mut_slice()?.iter_mut().zip(0..) {
        *value = i * i;
    }
    let mut buffer = pool.allocate(4000)?;
    let mut back = pool.allocate_pinned::<u32>(1000)?;
    burn(&stream)?;
    buffer.copy_from_pinned(&source, &stream)?;
    // In another stream, and ordered after the first without a word.
    buffer.copy_to_pinned(&mut back, &other)?;
    assert!(!other.is_done()?, "it waits for the first stream");
    assert_eq!(back.as_slice()?, source.as_slice()?);
    assert!(stream.is_done()?, "looking at the values has waited");
    buffer.fill_on(0xff, &stream)?;
    drop(buffer); // with the fill on its way
    // Dropped with copies on their way, the source waits for them.
    let mut buffer = pool.allocate(4000)?;
    burn(&stream)?;
    buffer.copy_from_pinned(&source, &stream)?;
    drop(source);
    assert!(stream.is_done()?);
    let mut long = pool.allocate_pinned::<u8>(4001)?;
    assert!(matches!(
        buffer.copy_to_pinned(&mut long, &stream),
        Err(Error::LengthMismatch { .. })
    ));
    assert!(matches!(
        pool.allocate_pinned::<u8>(0),
        Err(Error::InvalidArgument { .. })
    ));
    Ok(())
}

/// A kernel writes to pinned memory over the bus, and looking at it waits for the kernel.
fn pinned_access(driver: &Driver) -> Result<()> {
    const SMS: u32 = 1024;
    let device = driver.device(0)?;
    let (stream, burn) = busy_stream(&device)?;
    let count = kernel(&device, kernels::SM_IDS)?;
    let mut counts = GpuMemoryPool::on(&device, 1)?.allocate_pinned::<u32>(SMS as usize)?;
    let address = counts.device_address()?;
    burn(&stream)?;
    // SAFETY: the kernel takes an address, the number of counters there, and a time.
    unsafe {
        stream.launch(
            &count,
            &LaunchConfig::linear(1, 1),
            &[&address, &SMS, &0u32],
        )?
    };
    counts.fence_on(&stream)?;
    assert!(!stream.is_done()?, "a fence does not wait");
    assert_eq!(counts.as_slice()?.iter().sum::<u32>(), 1);
    assert!(stream.is_done()?, "looking at the values has waited");
    counts.as_mut_slice()?.fill(7);
    burn(&stream)?;
    counts.fence_on(&stream)?;
    drop(counts);
    assert!(stream.is_done()?, "its end waits, too");
    Ok(())
}
