//! Containment: which streams are in a partition, and how foreign code is kept in one.

use cuda_green::{
    ContextId, Driver, Error, GpuMemoryPool, GreenContext, GreenContextConfig, RebalanceHint,
    Result, SmSplit, StreamHome, kernels, sys,
};

use crate::{
    Case,
    support::{is_partitioned, kernel, quad, sm_ids},
};

pub const CASES: &[Case] = &[
    ("containment/streams_are_told_apart", told_apart),
    (
        "containment/default_streams_follow_what_is_current",
        default_streams,
    ),
];

/// A stream as foreign code makes one: in whatever is current.
fn foreign_stream(driver: &Driver) -> sys::CUstream {
    let mut stream = std::ptr::null_mut();
    let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING.0;
    // SAFETY: the pointer is valid for the one handle that is written.
    let made = unsafe {
        driver
            .api()
            .cuStreamCreateWithPriority(&mut stream, flags, 0)
    };
    made.unwrap().ok().unwrap();
    stream
}

fn end(driver: &Driver, stream: sys::CUstream) {
    // SAFETY: the stream is live, and this is its end.
    unsafe { driver.api().cuStreamDestroy_v2(stream) }
        .unwrap()
        .ok()
        .unwrap();
}

fn told_apart(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    // SAFETY: the streams that are asked for below are live, or null.
    let home = |stream| unsafe { manager.stream_home(stream) };
    let embedding = manager.get_context(ContextId::Embedding)?;
    let own = embedding.create_stream()?;
    let by_name = manager.create_stream(ContextId::Dream)?;
    let primary = device.raw_primary_context()?;
    // SAFETY: the device holds the primary context, which is current until the end.
    unsafe { driver.api().cuCtxSetCurrent(primary) }
        .unwrap()
        .ok()
        .unwrap();
    let plain = foreign_stream(driver);
    let within = {
        let _current = manager.activate(ContextId::Training)?;
        foreign_stream(driver)
    };
    if is_partitioned(driver) {
        use StreamHome::{ForeignPartition, Partition, Retired, WholeDevice};
        assert_eq!(home(own.raw())?, Partition(ContextId::Embedding));
        let dream = by_name.with(|stream| home(stream.raw()))?;
        assert_eq!(dream, Partition(ContextId::Dream));
        assert_eq!(home(within)?, Partition(ContextId::Training));
        assert_eq!(home(plain)?, WholeDevice);
        assert_eq!(home(std::ptr::null_mut())?, WholeDevice);
        // A sibling's stream is the partition's as well.
        let guard = embedding.activate()?;
        let beside = || -> Result<_> {
            let guard = embedding.activate()?;
            let stream = foreign_stream(driver);
            let home = home(stream);
            end(driver, stream);
            guard.close()?;
            home
        };
        let beside = std::thread::scope(|scope| scope.spawn(beside).join().unwrap())?;
        assert_eq!(beside, Partition(ContextId::Embedding));
        assert_eq!(home(std::ptr::null_mut())?, Partition(ContextId::Embedding));
        guard.close()?;
        // Whoever splits a device by hand has to see to it that nothing overlaps.
        let groups = device.sm_resource()?.split(&SmSplit::equal(1, 8))?.groups;
        let foreign = GreenContext::from_resources(&groups, None, GreenContextConfig::default())?
            .create_stream()?;
        assert_eq!(home(foreign.raw())?, ForeignPartition);
        let streams = [
            ("encoder", own.raw()),
            ("decoder", plain),
            ("other", foreign.raw()),
        ];
        // SAFETY: all of them are live.
        let checked = unsafe { manager.check_streams(&streams) };
        let Err(Error::OutsidePartitions { streams }) = &checked else {
            panic!("{checked:?}")
        };
        assert_eq!(
            streams,
            &["decoder (on all SMs)", "other (a foreign partition)"]
        );
        // SAFETY: as above.
        unsafe { manager.check_streams(&[("encoder", own.raw()), ("within", within)])? };
        if device.capabilities().merge {
            manager.rebalance(RebalanceHint::EmbeddingHeavy)?;
            assert_eq!(home(own.raw())?, Retired(ContextId::Embedding));
            let dream = by_name.with(|stream| Ok(stream.raw()))?;
            assert_eq!(home(dream)?, Partition(ContextId::Dream));
        }
    } else {
        assert_eq!(home(own.raw())?, StreamHome::WholeDevice);
    }
    end(driver, within);
    end(driver, plain);
    // SAFETY: null is allowed.
    unsafe { driver.api().cuCtxSetCurrent(std::ptr::null_mut()) }
        .unwrap()
        .ok()
        .unwrap();
    Ok(())
}

/// A library that knows only default streams runs in the partition that was made current on its thread.
fn default_streams(driver: &Driver) -> Result<()> {
    let (device, manager) = quad(driver)?;
    let reserved = sm_ids(&manager.get_context(ContextId::Reserved)?)?;
    let kernel = kernel(&device, kernels::SM_IDS)?;
    let counts = GpuMemoryPool::on(&device, u64::MAX)?.allocate(4096)?;
    counts.fill(0)?;
    manager.set_current(ContextId::Reserved)?;
    let (mut address, mut ids, mut spin) = (counts.address(), 1024u32, 50_000u32);
    let mut args = [
        std::ptr::from_mut(&mut address).cast(),
        std::ptr::from_mut(&mut ids).cast(),
        std::ptr::from_mut(&mut spin).cast(),
    ];
    let blocks = device.properties().multiprocessor_count * 8;
    let (stream, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the kernel takes so many counters, their number and a time; the buffer outlives the wait.
    unsafe {
        let (api, args) = (driver.api(), args.as_mut_ptr());
        let launched = api.cuLaunchKernel(
            kernel.raw(),
            blocks,
            1,
            1,
            1024,
            1,
            1,
            0,
            stream,
            args,
            extra,
        );
        launched.unwrap().ok().unwrap();
        api.cuStreamSynchronize(stream).unwrap().ok().unwrap();
    }
    let mut bytes = [0; 4096];
    counts.copy_to(&mut bytes)?;
    let seen = bytes.chunks_exact(4).zip(0u32..);
    let seen = seen.filter(|(count, _)| count.iter().any(|byte| *byte != 0));
    assert_eq!(
        seen.map(|(_, id)| id).collect::<Vec<_>>(),
        Vec::from_iter(reserved)
    );
    manager.unset_current()
}
