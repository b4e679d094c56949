//! Pools of device memory with exact limits.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    GpuBuffer, MemoryBudget, MemoryPressure, PinnedBuffer, PoolMetrics, PressureChange,
    alloc::{
        allocation::Allocation,
        arena::Arena,
        pool_shard::PoolShard,
        pool_state::PoolState,
        thread_cache::ThreadCache,
        thread_index::{self, CurrentThread},
    },
    budget::account::Limit,
    memory_budget::check_limit,
};
use crate::{
    device::CudaDevice,
    driver::Driver,
    error::{Error, Result},
    stream::Stream,
};

/// A pool of device memory with a limit in bytes. Cheap to clone; all clones are the same pool.
///
/// The pool counts the bytes that were asked for, exactly: an allocation that fits the limit is granted (if the device
/// has the memory), one that does not is refused, from any number of threads. Limits can stand within others:
/// [`GpuMemoryPool::within`], [`GpuMemoryPool::child`], [`GpuMemoryPool::reserve`].
///
/// Memory comes from the driver's stream-ordered pool if there is one (from CUDA 11.2 on, if the device supports it),
/// else from plain allocation. It comes in slabs and stays with the pool until [`GpuMemoryPool::trim`] or the pool's
/// end. Freed memory is reused for the next allocation of about its size without a call to the driver. Rounding takes
/// at most an eighth of a buffer (256 bytes of a small one). Before the pool takes more than an eighth above its limit
/// from the driver, it gives back what is idle. See [`GpuMemoryPool::metrics`] for the resulting overhead.
///
/// # When memory is reused
/// A buffer's memory is not reused while a stream may still use it, as far as the pool knows:
/// - It knows all work that this crate's own functions put into streams.
/// - A kernel must have ended before its buffers are dropped ([`Stream::launch`] is unsafe because of that), unless the
///   buffer was fenced on the stream after the launch, with [`GpuBuffer::fence_on`] or with [`GpuBuffer::free_on`],
///   which also frees it. Neither waits.
///
/// Memory that a stream still uses can be had by the next allocation in that stream ([`GpuMemoryPool::allocate_on`]),
/// and by all others once the stream is done with it.
///
/// Buffers keep their pool alive and may outlive every context.
#[derive(Clone)]
pub struct GpuMemoryPool {
    shard: Arc<PoolShard>,
    /// All shards; a buffer's pool has only the shard that the buffer was allocated from.
    all: Option<Arc<[Arc<PoolShard>]>>,
}

impl GpuMemoryPool {
    /// Creates a pool on a device of the process's driver.
    ///
    /// # Errors
    /// Those of [`CudaDevice::init`] and [`GpuMemoryPool::on`].
    pub fn new(device_id: u32, limit_bytes: u64) -> Result<Self> {
        Self::on(&CudaDevice::init(device_id)?, limit_bytes)
    }

    /// Creates a pool on a device. `u64::MAX` is no limit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of 0; [`Error::Driver`].
    pub fn on(device: &CudaDevice, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let arena = Arc::new(Arena::new(device, limit_bytes)?);
        Ok(Self::create(arena, &Limit::new(limit_bytes), None))
    }

    /// Creates a pool on a device with a limit within a budget, for example a context's within the device's.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::on`].
    pub fn within(device: &CudaDevice, budget: &MemoryBudget, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let tightest = limit_bytes.min(budget.limit());
        let arena = Arc::new(Arena::new(device, tightest)?);
        Ok(Self::create(arena, &budget.0.child(limit_bytes), None))
    }

    /// Creates a pool with a limit within this one's and from the same memory, for example a model's within a
    /// context's. The limits of children may add up to more than their parent's; bytes that a child uses count as used
    /// by its parent.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of 0.
    pub fn child(&self, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let state = &self.shard.state;
        let limit = state.account.limit().child(limit_bytes);
        Ok(Self::create(state.arena.clone(), &limit, Some(state)))
    }

    /// Creates a child whose bytes are charged to this pool's limit now, so that they are available later. They are
    /// refunded with the child's last handle and buffer. The accounting promises them, not the driver.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::InvalidArgument`] for 0 bytes.
    pub fn reserve(&self, bytes: u64) -> Result<Self> {
        check_limit(bytes)?;
        let state = &self.shard.state;
        let limit = state.account.limit().reserve(bytes)?;
        Ok(Self::create(state.arena.clone(), &limit, Some(state)))
    }

    fn create(
        arena: Arc<Arena>,
        limit: &Limit<ThreadCache>,
        parent: Option<&Arc<PoolState>>,
    ) -> Self {
        let all = PoolShard::all(arena, limit, parent);
        Self {
            shard: all[0].clone(),
            all: Some(all),
        }
    }

    /// Checks whether memory can be allocated at all: a driver loads, and it sees a GPU. Meant for the start of a
    /// program; most of its time is the driver's own `cuInit`.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::NoGpu`], [`Error::Driver`].
    pub fn check_availability() -> Result<()> {
        Driver::load()?.device_count().map(drop)
    }

    /// Allocates memory that any stream may use at once. It is aligned to at least 256 bytes and not initialized.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for 0 bytes; [`Error::OutOfMemory`] over a limit; [`Error::DeviceOutOfMemory`] if the
    /// device has no more; [`Error::Driver`].
    #[doc(alias = "cuMemAllocFromPoolAsync")]
    #[inline]
    pub fn allocate(&self, size: usize) -> Result<GpuBuffer> {
        self.allocate_in(size, None)
    }

    /// Allocates memory for use in one stream. It may be the memory of a buffer that was freed on this stream, even if
    /// the stream has not reached that point yet. Other streams may use it through this crate's functions, which keep
    /// the order; kernels in other streams must wait for this stream first.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::allocate`]; [`Error::ForeignDevice`] and [`Error::ForeignDriver`] for a stream of another
    /// device or driver, [`Error::InvalidArgument`] for one in a capture.
    pub fn allocate_on(&self, stream: &Stream, size: usize) -> Result<GpuBuffer> {
        self.device().check_own("the stream", stream.device())?;
        stream.outside_captures()?;
        self.allocate_in(size, Some(stream))
    }

    /// Allocates pinned host memory for `count` values, all zero, for copies that do not wait. It is memory of the
    /// host, which does not count towards this pool's limit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Driver`].
    pub fn allocate_pinned<T: bytemuck::Pod>(&self, count: usize) -> Result<PinnedBuffer<T>> {
        PinnedBuffer::new(self.device(), count)
    }

    #[inline]
    fn allocate_in(&self, size: usize, stream: Option<&Stream>) -> Result<GpuBuffer> {
        if size == 0 {
            return Err(no_bytes());
        }
        let CurrentThread { shard, timed } = thread_index::current();
        let shard = self.all.as_ref().and_then(|all| all.get(shard));
        let shard = shard.unwrap_or(&self.shard);
        let allocation = shard.allocate(size as u64, stream, timed)?;
        let pool = Self {
            shard: shard.clone(),
            all: None,
        };
        Ok(GpuBuffer::new(pool, allocation, size, timed))
    }

    #[inline]
    pub(super) fn free(&self, allocation: Allocation, size: usize, timed: bool) -> Result<()> {
        self.shard.free(allocation, size as u64, timed)
    }

    /// Frees a buffer, as dropping it does, and returns the error if that fails.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] for another pool's buffer, which is then dropped; [`Error::Driver`].
    #[doc(alias = "cuMemFreeAsync")]
    pub fn deallocate(&self, buffer: GpuBuffer) -> Result<()> {
        if Arc::ptr_eq(&self.shard.state, &buffer.pool().shard.state) {
            buffer.free()
        } else {
            Err(Error::ForeignBuffer)
        }
    }

    /// Returns all idle memory of this pool, and of the pools that share its memory, to the system, after waiting for
    /// streams that still use freed buffers. Returns the number of bytes.
    ///
    /// # Errors
    /// [`Error::MemoryNotBack`] if the driver did not take all of it; [`Error::Driver`].
    #[doc(alias = "cuMemPoolTrimTo")]
    pub fn trim(&self) -> Result<u64> {
        self.arena().trim()
    }

    /// Returns the limit in bytes.
    pub fn limit(&self) -> u64 {
        self.own_limit().figures().limit
    }

    /// Returns the bytes in use, as they were asked for.
    pub fn used(&self) -> u64 {
        self.own_limit().figures().used
    }

    /// Returns the bytes left under this limit and all above it.
    pub fn available(&self) -> u64 {
        self.own_limit().figures().available
    }

    /// Returns the most bytes that were ever in use at once. Exact for one thread; with several it may be too high by
    /// the credit that the others keep, at most a 1024th of the limit each.
    pub fn high_water_mark(&self) -> u64 {
        self.own_limit().figures().high
    }

    /// Returns how full the pool is.
    pub fn pressure_level(&self) -> MemoryPressure {
        let figures = self.own_limit().figures();
        MemoryPressure::of(figures.used, figures.limit)
    }

    /// Returns the pressure on the whole device, including other processes and this pool's idle memory. Asks the driver
    /// if its last answer is older than `max_age`.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemGetInfo")]
    pub fn device_pressure(&self, max_age: Duration) -> Result<MemoryPressure> {
        let (used, total) = self.arena().device_usage.used(self.device(), max_age)?;
        Ok(MemoryPressure::of(used, total))
    }

    /// Registers a callback for changes of the pressure on the whole device, including other processes, by the same
    /// rule as [`GpuMemoryPool::on_pressure`]. The driver is asked by [`device_pressure`], and each time the pool takes
    /// memory from it. Other processes' use is noticed only at those moments; if you rarely allocate, call
    /// [`device_pressure`] regularly.
    ///
    /// [`device_pressure`]: GpuMemoryPool::device_pressure
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn on_device_pressure(
        &self,
        callback: impl Fn(PressureChange) + Send + Sync + 'static,
    ) -> Result<()> {
        self.arena()
            .device_usage
            .watch(self.device(), Arc::new(callback))
    }

    /// Registers a callback for changes of the level of pressure. It is called with no lock held, from the thread whose
    /// allocation or free caused the change or, while another thread is making calls for an earlier change, from that
    /// thread. Changes are reported one after another, in their order. A level is entered at its threshold, and left
    /// when use has fallen 2 % of the limit below it. The credit that threads keep (at most a 1024th of the limit each)
    /// counts as used here.
    ///
    /// A callback that owns the pool, or a buffer of it, would keep the pool alive for ever. A panic in a callback is
    /// caught and logged.
    pub fn on_pressure(&self, callback: impl Fn(PressureChange) + Send + Sync + 'static) {
        self.own_limit().watch(Arc::new(callback));
    }

    /// Returns all figures of the pool.
    pub fn metrics(&self) -> PoolMetrics {
        self.shard.state.metrics()
    }

    /// Returns the pool's device.
    pub fn device(&self) -> &CudaDevice {
        &self.arena().device
    }

    /// Returns the bytes from the driver that no buffer owns, in all pools that share this one's memory. Streams may
    /// still use some of them.
    pub(crate) fn idle_bytes(&self) -> Result<u64> {
        self.arena().idle_bytes()
    }

    fn arena(&self) -> &Arena {
        &self.shard.state.arena
    }

    fn own_limit(&self) -> &Limit<ThreadCache> {
        self.shard.state.account.limit()
    }
}

/// Returns the error of an allocation of 0 bytes.
#[cold]
pub(super) fn no_bytes() -> Error {
    Error::InvalidArgument {
        name: "size",
        value: "0".into(),
        reason: "a buffer has at least one byte",
    }
}

impl fmt::Debug for GpuMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuMemoryPool")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}
