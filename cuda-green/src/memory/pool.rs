//! Pools of device memory with limits that hold exactly.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    GpuBuffer, MemoryBudget, MemoryPressure, PinnedBuffer, PoolMetrics, PressureChange,
    TypedBuffer,
    alloc::{
        arena::Core,
        pool_shard::{Seat, Taken},
        pool_state::Inner,
        thread_cache::Cache,
        thread_index::{self, Here},
    },
    budget::account::Budget,
};
use crate::{
    device::CudaDevice,
    driver::Driver,
    error::{Error, Result},
    stream::Stream,
};

/// A pool of device memory with a limit in bytes. Cheap to clone; all clones are the same pool.
///
/// The limit is kept in this crate's own accounting, to the byte of what was asked for: what fits is granted
/// (as far as the device has memory), what does not is refused, from any number of threads. Limits can stand
/// within others: [`GpuMemoryPool::within`], [`GpuMemoryPool::child`], [`GpuMemoryPool::reserve`].
///
/// Memory comes from the driver's stream-ordered pool where there is one (CUDA 11.2 and the device
/// permitting), from plain allocation otherwise, in slabs, and stays with the pool until
/// [`GpuMemoryPool::trim`] or its end. What is freed is at hand for the next allocation of about its size
/// without a call to the driver. Rounding takes at most an eighth of a buffer (256 bytes of a small one);
/// before the pool takes more than an eighth above its limit, it gives back what is idle.
/// [`GpuMemoryPool::metrics`] tells what all that comes to.
///
/// # When memory is used again
/// A buffer's memory is never handed out while a stream may still use it, as far as the pool knows of it:
/// - What this crate's own functions put into streams, it knows.
/// - A kernel must have ended before its buffers are dropped ([`Stream::launch`] is unsafe for that), unless
///   the buffer was told of the stream after the launch: [`GpuBuffer::fence_on`], or
///   [`GpuBuffer::free_on`], which frees it in the same breath. Neither waits.
///
/// Memory that a stream still uses is given to the next allocation in that stream
/// ([`GpuMemoryPool::allocate_on`]), and to all others once it is done.
///
/// Buffers keep their pool alive and may outlive every context.
#[derive(Clone)]
pub struct GpuMemoryPool {
    seat: Arc<Seat>,
    /// One seat for each shard; buffers have only the one that they are of.
    all: Option<Arc<[Arc<Seat>]>>,
}

impl GpuMemoryPool {
    /// A pool on a device of the process's driver.
    ///
    /// # Errors
    /// Those of [`CudaDevice::init`] and [`GpuMemoryPool::on`].
    pub fn new(device_id: u32, limit_bytes: u64) -> Result<Self> {
        Self::on(&CudaDevice::init(device_id)?, limit_bytes)
    }

    /// A pool on a device. `u64::MAX` is no limit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of 0; [`Error::Driver`].
    pub fn on(device: &CudaDevice, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let core = Arc::new(Core::new(device, limit_bytes)?);
        Ok(Self::make(core, &Budget::new(limit_bytes), None))
    }

    /// A pool on a device with a limit within a budget: a context's within the device's.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::on`].
    pub fn within(device: &CudaDevice, budget: &MemoryBudget, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let tightest = limit_bytes.min(budget.limit());
        let core = Arc::new(Core::new(device, tightest)?);
        Ok(Self::make(core, &budget.0.child(limit_bytes), None))
    }

    /// A pool with a limit within this one's, and from the same memory: a model's within a context's. Limits
    /// of children may add up to more than their parent's; what a child uses, its parent uses.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of 0.
    pub fn child(&self, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let inner = &self.seat.inner;
        Ok(Self::make(
            inner.core.clone(),
            &inner.account.budget().child(limit_bytes),
            Some(inner),
        ))
    }

    /// A child whose bytes are taken from this pool's limit now, so that they are there later; they go back
    /// with the child's last handle and buffer. The accounting promises them, not the driver.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::InvalidArgument`] for 0 bytes.
    pub fn reserve(&self, bytes: u64) -> Result<Self> {
        check_limit(bytes)?;
        let inner = &self.seat.inner;
        let budget = inner.account.budget().reserve(bytes)?;
        Ok(Self::make(inner.core.clone(), &budget, Some(inner)))
    }

    fn make(core: Arc<Core>, budget: &Budget<Cache>, parent: Option<&Arc<Inner>>) -> Self {
        let all = Seat::all(core, budget, parent);
        Self {
            seat: all[0].clone(),
            all: Some(all),
        }
    }

    /// Whether memory can be had at all: a driver loads, and it sees a GPU. Meant for the start of a
    /// program; most of its time is the driver's own `cuInit`.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::NoGpu`], [`Error::Driver`].
    pub fn check_availability() -> Result<()> {
        Driver::load()?.device_count().map(drop)
    }

    /// Allocates memory that any stream may use at once. Aligned to at least 256 bytes; the contents are
    /// whatever was there before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for 0 bytes; [`Error::OutOfMemory`] over the limit, or where the device
    /// has no more; [`Error::Driver`].
    #[doc(alias = "cuMemAllocFromPoolAsync")]
    #[inline]
    pub fn allocate(&self, size: usize) -> Result<GpuBuffer> {
        self.take(size, None)
    }

    /// Allocates memory for use in one stream, which may be what a buffer that was freed on this stream
    /// had, although the stream has not come to that yet. Other streams may use it through this crate's
    /// functions, which see to the order; kernels in other streams must wait for this one first.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::allocate`]; [`Error::ForeignDevice`] and [`Error::ForeignDriver`] for a stream of elsewhere,
    /// [`Error::InvalidArgument`] for one in a capture.
    pub fn allocate_on(&self, stream: &Stream, size: usize) -> Result<GpuBuffer> {
        self.device().check_own("the stream", stream.device())?;
        stream.outside_captures()?;
        self.take(size, Some(stream))
    }

    /// Allocates room for so many values.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::allocate`]; also [`Error::InvalidArgument`] for a type without a size or aligned
    /// to more than 256 bytes.
    pub fn allocate_typed<T: bytemuck::Pod>(&self, count: usize) -> Result<TypedBuffer<T>> {
        let bytes = count.saturating_mul(size_of::<T>());
        self.allocate(bytes)?.typed()
    }

    /// Pinned host memory for so many values, all zero, for copies that do not wait. It is the host's memory:
    /// this pool's limit has no part in it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], [`Error::Driver`].
    pub fn allocate_pinned<T: bytemuck::Pod>(&self, count: usize) -> Result<PinnedBuffer<T>> {
        PinnedBuffer::new(self.device(), count)
    }

    #[inline]
    fn take(&self, size: usize, stream: Option<&Stream>) -> Result<GpuBuffer> {
        if size == 0 {
            return Err(no_bytes());
        }
        let Here { shard, timed } = thread_index::here();
        let seat = self.all.as_ref().and_then(|all| all.get(shard));
        let seat = seat.unwrap_or(&self.seat);
        let taken = seat.take(size as u64, stream, timed)?;
        let pool = Self {
            seat: seat.clone(),
            all: None,
        };
        Ok(GpuBuffer::new(pool, taken, size, timed))
    }

    #[inline]
    pub(super) fn free(&self, taken: Taken, size: usize, timed: bool) -> Result<()> {
        self.seat.free(taken, size as u64, timed)
    }

    /// Gives a buffer back, as dropping it does, and says whether that went well.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] for another pool's buffer, which is then dropped; [`Error::Driver`].
    #[doc(alias = "cuMemFreeAsync")]
    pub fn deallocate(&self, buffer: GpuBuffer) -> Result<()> {
        if Arc::ptr_eq(&self.seat.inner, &buffer.pool().seat.inner) {
            buffer.free()
        } else {
            Err(Error::ForeignBuffer)
        }
    }

    /// Gives the system all memory that no buffer has, of this pool and of those that share its memory, and
    /// waits for streams that still use some of it. Tells how many bytes that were.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemPoolTrimTo")]
    pub fn trim(&self) -> Result<u64> {
        self.core().trim()
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.budget().figures().limit
    }

    /// Bytes in use, as they were asked for.
    pub fn used(&self) -> u64 {
        self.budget().figures().used
    }

    /// Bytes left under this limit and all above it.
    pub fn available(&self) -> u64 {
        self.budget().figures().available
    }

    /// The most bytes that were ever in use at once. Exact for one thread; with several it may be too high
    /// by what others had at hand, at most a 1024th of the limit for each.
    pub fn high_water_mark(&self) -> u64 {
        self.budget().figures().high
    }

    /// How full the pool is.
    pub fn pressure_level(&self) -> MemoryPressure {
        let figures = self.budget().figures();
        MemoryPressure::of(figures.used, figures.limit)
    }

    /// How full the whole device is, other processes and what this pool has idle counted in. The driver is
    /// asked when its last answer is older than `max_age`.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemGetInfo")]
    pub fn device_pressure(&self, max_age: Duration) -> Result<MemoryPressure> {
        let (used, total) = self.core().whole_device.used(self.device(), max_age)?;
        Ok(MemoryPressure::of(used, total))
    }

    /// Calls back when the level of the whole device's pressure changes, other processes counted in, by the
    /// same rule as [`GpuMemoryPool::on_pressure`]. The driver is asked when [`device_pressure`] asks it, and
    /// each time that the pool takes memory from it; so what others do is heard of then, and a program that
    /// allocates from what it has calls [`device_pressure`] now and then.
    ///
    /// [`device_pressure`]: GpuMemoryPool::device_pressure
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn on_device_pressure(
        &self,
        callback: impl Fn(PressureChange) + Send + Sync + 'static,
    ) -> Result<()> {
        self.core()
            .whole_device
            .watch(self.device(), Arc::new(callback))
    }

    /// Calls back when the level of pressure changes, with no lock held: from the thread whose allocation or free did it,
    /// or, where another thread is telling of an earlier change, from that one. Changes are told one after another, in
    /// their order. A level is entered at its threshold, and left when use has fallen 2 % of the limit below
    /// it; bytes that threads have at hand (at most a 1024th of the limit each) count as used here.
    ///
    /// A callback that owns the pool, or a buffer of it, would keep it for ever. A panic of it is caught and
    /// logged.
    pub fn on_pressure(&self, callback: impl Fn(PressureChange) + Send + Sync + 'static) {
        self.budget().watch(Arc::new(callback));
    }

    /// All figures of the pool at once.
    pub fn metrics(&self) -> PoolMetrics {
        self.seat.inner.metrics()
    }

    /// The pool's device.
    pub fn device(&self) -> &CudaDevice {
        &self.core().device
    }

    /// Bytes from the driver that no buffer has, in all pools that share this one's memory. Streams may still use
    /// some.
    pub(crate) fn idle(&self) -> Result<u64> {
        self.core().idle()
    }

    fn core(&self) -> &Core {
        &self.seat.inner.core
    }

    fn budget(&self) -> &Budget<Cache> {
        self.seat.inner.account.budget()
    }
}

fn check_limit(limit_bytes: u64) -> Result<()> {
    if limit_bytes > 0 {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        name: "limit_bytes",
        value: "0".into(),
        reason: "no buffer would fit; u64::MAX is no limit",
    })
}

#[cold]
fn no_bytes() -> Error {
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
