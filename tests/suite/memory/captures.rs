//! Copies that wait, and what pools do on their own account beside captures.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use cuda_green::{
    CaptureMode, ContextPolicy, Driver, Error, Event, GpuMemoryPool, GreenContext, Result, Stream,
};

use super::MIB;
use crate::{Case, support::times};

pub const CASES: &[Case] = &[
    ("memory/a_copy_does_not_reach_the_next_owner", next_owner),
    ("memory/a_copy_is_there_for_every_stream", every_stream),
    ("memory/pools_spoil_no_capture", captures),
    (
        "memory/pools_spoil_no_capture_of_another_thread",
        other_threads,
    ),
    ("memory/a_refused_free_gives_the_buffer_back", refused_free),
    ("memory/a_stream_that_joined_a_capture_is_known", joined),
];

fn streams(driver: &Driver) -> Result<(GpuMemoryPool, [Stream; 2])> {
    let device = driver.device(0)?;
    let context = GreenContext::primary(&device, ContextPolicy::default())?;
    let pool = GpuMemoryPool::on(&device, 1 << 30)?;
    Ok((pool, [context.create_stream()?, context.create_stream()?]))
}

/// A buffer is copied to and dropped; whoever has its memory next fills it in a stream. With a copy that returned
/// before its end, 9 of 40 next owners were overwritten on an H200.
fn next_owner(driver: &Driver) -> Result<()> {
    let (pool, [stream, _]) = streams(driver)?;
    let mut found = vec![0; MIB];
    for round in 0..times(driver, 3, 40) {
        let buffer = pool.allocate(MIB)?;
        let address = buffer.address();
        buffer.copy_from(&vec![1; MIB])?;
        drop(buffer);
        let mut next = pool.allocate(MIB)?;
        assert_eq!(next.address(), address, "the test needs the same memory");
        next.fill_on(2, &stream)?;
        stream.synchronize()?;
        next.copy_to(&mut found)?;
        assert!(found.iter().all(|byte| *byte == 2), "round {round}");
    }
    Ok(())
}

/// What was copied is read in another stream at once, beside copies in others.
fn every_stream(driver: &Driver) -> Result<()> {
    let (pool, [stream, other]) = streams(driver)?;
    for len in [64 << 10, MIB] {
        let buffer = pool.allocate(len)?;
        let mut beside = pool.allocate(8 * MIB)?;
        let pinned = pool.allocate_pinned::<u8>(8 * MIB)?;
        let mut seen = pool.allocate_pinned::<u8>(len)?;
        for round in 0..times(driver, 3, 20) {
            let byte = round as u8 + 1;
            beside.copy_from_pinned(&pinned, &other)?;
            buffer.copy_from(&vec![byte; len])?;
            buffer.copy_to_pinned(&mut seen, &stream)?;
            let seen = seen.as_slice()?;
            assert!(
                seen.iter().all(|one| *one == byte),
                "{len} bytes, round {round}"
            );
        }
    }
    Ok(())
}

/// What a pool does beside a capture, its end included.
fn use_pools(pool: &GpuMemoryPool, worker: &Stream) -> Result<()> {
    let mut buffers: Vec<_> = (0..40)
        .map(|_| pool.allocate(4096))
        .collect::<Result<_>>()?;
    for buffer in &mut buffers {
        buffer.fill_on(1, worker)?;
    }
    drop(buffers);
    let child = pool.child(64 << 20)?;
    let mut large = child.allocate(16 * MIB)?;
    let mut pinned = pool.allocate_pinned::<u8>(MIB)?;
    large.copy_from_pinned(&pinned, worker)?;
    large.copy_to_pinned(&mut pinned, worker)?;
    drop((large, child, pinned));
    pool.trim()?;
    let fresh = GpuMemoryPool::on(pool.device(), 64 << 20)?;
    let buffer = fresh.allocate(32 * MIB)?;
    buffer.copy_from(&[1; 100_000])?;
    buffer.copy_to(&mut [0; 100])?;
    buffer.fill(3)?;
    let (graph, event) = (
        worker.capture(CaptureMode::Relaxed, |_| Ok(()))?,
        Event::new(pool.device())?,
    );
    let exec = graph.instantiate()?;
    // SAFETY: the graph is empty.
    unsafe { exec.launch(worker)? };
    drop((exec, event));
    Ok(())
}

/// What else waits or asks on its own account.
fn look_at_contexts(worker: &Stream) -> Result<()> {
    worker.context().observed_sm_ids()?;
    worker.context().probe()?;
    let graph = worker.capture(CaptureMode::Relaxed, |_| Ok(()))?;
    let exec = graph.instantiate()?;
    // SAFETY: the graph is empty.
    unsafe { exec.launch(worker)? };
    while !exec.is_done()? {
        std::thread::yield_now();
    }
    Ok(())
}

const MODES: [CaptureMode; 3] = [
    CaptureMode::Global,
    CaptureMode::ThreadLocal,
    CaptureMode::Relaxed,
];

fn captures(driver: &Driver) -> Result<()> {
    let (pool, [stream, worker]) = streams(driver)?;
    for mode in MODES {
        stream.capture(mode, |_| use_pools(&pool, &worker))?;
    }
    Ok(())
}

fn other_threads(driver: &Driver) -> Result<()> {
    let (pool, [stream, worker]) = streams(driver)?;
    let (begun, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let beside = || {
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let used = use_pools(&pool, &worker).and_then(|()| look_at_contexts(&worker));
        done.store(true, Ordering::Release);
        used
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(beside);
        let captured = stream.capture(CaptureMode::Global, |_| {
            begun.store(true, Ordering::Release);
            while !done.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            Ok(())
        });
        other.join().unwrap()?;
        captured.map(drop)
    })
}

fn refused_free(driver: &Driver) -> Result<()> {
    let (pool, [stream, _]) = streams(driver)?;
    let buffer = pool.allocate(MIB)?;
    let address = buffer.address();
    let mut kept = None;
    stream.capture(CaptureMode::default(), |capture| {
        let refused = buffer.free_on(capture.stream()).unwrap_err();
        assert!(matches!(
            refused.error(),
            Error::InvalidArgument { name: "stream", .. }
        ));
        kept = refused.into_parts().0;
        Ok(())
    })?;
    assert_ne!(pool.allocate(MIB)?.address(), address);
    assert_eq!(kept.unwrap().address(), address);
    Ok(())
}

fn joined(driver: &Driver) -> Result<()> {
    let (pool, [stream, other]) = streams(driver)?;
    let mut buffer = pool.allocate(MIB)?;
    let (there, back) = (Event::new(pool.device())?, Event::new(pool.device())?);
    stream.capture(CaptureMode::default(), |capture| {
        capture.stream().record(&there)?;
        other.wait(&there)?;
        let refused = buffer.fill_on(1, &other);
        assert!(
            matches!(refused, Err(Error::InvalidArgument { name: "stream", .. })),
            "{refused:?}"
        );
        other.record(&back)?;
        capture.stream().wait(&back)
    })?;
    buffer.fill_on(1, &other)?;
    let mut found = [0; 16];
    buffer.copy_to(&mut found)?;
    assert_eq!(found, [1; 16]);
    Ok(())
}
