//! Pools of device memory with limits that hold exactly.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cuda_green_sys::{CUdeviceptr, CUresult};

use super::{
    GpuBuffer, MemoryBudget, MemoryPressure, PinnedBuffer, PoolMetrics, PressureChange,
    TypedBuffer,
    budget::{Account, Budget},
    cache::{Cache, Home, Pending},
    core::{Core, wait_for},
    fence::Fence,
    metrics::Counts,
    sync::MutexGuard,
    tree::{Purse, Refused},
};
use crate::{CudaDevice, Driver, Error, Result, Stream};

/// Threads share these; more would cost memory, fewer would make threads wait for each other.
const PURSES: usize = 16;

/// What a thread's purse keeps in free blocks: this part of the limit, within these bounds.
const CACHE_SHARE: u64 = 128;
const CACHE_BOUNDS: (u64, u64) = (64 << 10, 32 << 20);

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
    /// One seat for each purse; buffers have only the one that they are of.
    all: Option<Arc<[Arc<Seat>]>>,
}

/// A way to the pool with a reference count of its own, on cache lines of its own: if all threads counted
/// their buffers in one place, that would be the slowest part of an allocation.
#[repr(align(128))]
struct Seat {
    inner: Arc<Inner>,
    number: usize,
}

pub(crate) struct Inner {
    core: Arc<Core>,
    account: Account<Cache>,
}

impl Inner {
    /// Puts the threads' free blocks into the heap, and what streams have ended with.
    pub(crate) fn empty_caches(&self, wait: bool) {
        for number in 0..self.account.len() {
            let (spill, pending) = {
                let cache = &mut self.account.purse(number).kept;
                let pending = if wait {
                    cache.take_pending()
                } else {
                    cache.settle()
                };
                (cache.drain(), pending)
            };
            self.core.take_back(spill);
            for pending in pending {
                if wait {
                    wait_for(&pending);
                }
                self.take_home(&pending);
            }
        }
    }

    fn take_home(&self, pending: &Pending) {
        if let Err(error) = self.core.take_home(pending.address, pending.home) {
            log::error!("freeing a buffer that a stream had used: {error}");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.empty_caches(true);
    }
}

/// The number of this thread's purse.
#[inline]
fn purse_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed) % PURSES);
        }
        number.get()
    })
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
        Ok(Self::make(core, Budget::new(limit_bytes)))
    }

    /// A pool on a device with a limit within a budget: a context's within the device's.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::on`].
    pub fn within(device: &CudaDevice, budget: &MemoryBudget, limit_bytes: u64) -> Result<Self> {
        check_limit(limit_bytes)?;
        let tightest = limit_bytes.min(budget.limit());
        let core = Arc::new(Core::new(device, tightest)?);
        Ok(Self::make(core, budget.0.child(limit_bytes)))
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
            inner.account.budget().child(limit_bytes),
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
        Ok(Self::make(inner.core.clone(), budget))
    }

    fn make(core: Arc<Core>, budget: Budget<Cache>) -> Self {
        let most = (budget.figures().limit / CACHE_SHARE).clamp(CACHE_BOUNDS.0, CACHE_BOUNDS.1);
        let account = Account::new(&budget, (0..PURSES).map(|_| Cache::new(most)));
        let inner = Arc::new(Inner { core, account });
        inner.core.join(&inner);
        let all: Arc<[Arc<Seat>]> = (0..PURSES)
            .map(|number| {
                Arc::new(Seat {
                    inner: inner.clone(),
                    number,
                })
            })
            .collect();
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
    /// As [`GpuMemoryPool::allocate`].
    pub fn allocate_on(&self, stream: &Stream, size: usize) -> Result<GpuBuffer> {
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
        let seat = self.seat_here();
        let inner = &*seat.inner;
        inner.core.device.driver().check_fault()?;
        let home = inner.core.home(size as u64);
        let mut purse = match inner.account.take(seat.number, size as u64) {
            Ok(purse) => purse,
            Err(refused) => {
                inner.account.purse(seat.number).kept.counts.failures += 1;
                return Err(refused.into());
            }
        };
        let cache = &mut purse.kept;
        if stream.is_none()
            && let Home::Block { class } = home
            && let Some(address) = cache.pop(class)
        {
            cache.counts.allocations += 1;
            cache.counts.hits += 1;
            drop(purse);
            return Ok(Self::buffer(seat, address, size, home, Vec::new()));
        }
        Self::take_elsewhere(seat, purse, size, home, stream)
    }

    /// What the thread does not have at hand.
    #[cold]
    fn take_elsewhere(
        seat: &Arc<Seat>,
        mut purse: MutexGuard<'_, Purse<Cache>>,
        size: usize,
        home: Home,
        stream: Option<&Stream>,
    ) -> Result<GpuBuffer> {
        let inner = &*seat.inner;
        let start = Instant::now();
        let cache = &mut purse.kept;
        if let Some(stream) = stream
            && let Some(pending) = cache.pop_for(home, stream)
        {
            cache.counts.allocations += 1;
            cache.counts.hits += 1;
            drop(purse);
            // The fences go along: whoever does not work in that stream waits for them.
            return Ok(Self::buffer(
                seat,
                pending.address,
                size,
                home,
                pending.fences,
            ));
        }
        let settled = cache.settle();
        if let Home::Block { class } = home
            && let Some(address) = cache.pop(class)
        {
            cache.counts.allocations += 1;
            cache.counts.hits += 1;
            drop(purse);
            for pending in &settled {
                inner.take_home(pending);
            }
            return Ok(Self::buffer(seat, address, size, home, Vec::new()));
        }
        drop(purse);
        for pending in &settled {
            inner.take_home(pending);
        }
        match inner.core.supply(size as u64, home) {
            Ok((address, home)) => {
                let counts = &mut inner.account.purse(seat.number).kept.counts;
                counts.allocations += 1;
                counts.misses.note(start.elapsed());
                Ok(Self::buffer(seat, address, size, home, Vec::new()))
            }
            Err(error) => {
                inner.account.give(seat.number, size as u64, |cache| {
                    cache.counts.failures += 1;
                });
                let figures = inner.account.budget().figures();
                Err(match error {
                    Error::Driver {
                        code: CUresult::CUDA_ERROR_OUT_OF_MEMORY,
                        ..
                    } => Error::OutOfMemory {
                        asked: size as u64,
                        available: figures.available,
                        limit: figures.limit,
                    },
                    error => error,
                })
            }
        }
    }

    #[inline]
    fn buffer(
        seat: &Arc<Seat>,
        address: CUdeviceptr,
        size: usize,
        home: Home,
        fences: Vec<Fence>,
    ) -> GpuBuffer {
        let pool = Self {
            seat: seat.clone(),
            all: None,
        };
        GpuBuffer::new(pool, address, size, home, fences)
    }

    #[inline]
    fn seat_here(&self) -> &Arc<Seat> {
        match &self.all {
            Some(all) => &all[purse_number()],
            None => &self.seat,
        }
    }

    /// Frees what a buffer of this pool had, once the fences are done.
    #[inline]
    pub(super) fn free(
        &self,
        address: CUdeviceptr,
        size: usize,
        home: Home,
        fences: Vec<Fence>,
    ) -> Result<()> {
        let (inner, number) = (&*self.seat.inner, self.seat.number);
        if !fences.is_empty() {
            let pending = Pending {
                address,
                home,
                fences,
            };
            let settled = inner.account.give(number, size as u64, |cache| {
                cache.counts.deallocations += 1;
                cache.defer(pending);
                if cache.is_impatient() {
                    cache.settle()
                } else {
                    Vec::new()
                }
            });
            for pending in &settled {
                inner.take_home(pending);
            }
            return Ok(());
        }
        if let Home::Block { class } = home {
            let spill = inner.account.give(number, size as u64, |cache| {
                cache.counts.deallocations += 1;
                cache.push(class, address)
            });
            if let Some(spill) = spill {
                inner.core.take_back(spill);
            }
            return Ok(());
        }
        let freed = inner.core.take_home(address, home);
        inner.account.give(number, size as u64, |cache| {
            cache.counts.deallocations += 1;
        });
        freed
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
        self.seat.inner.core.trim()
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
    /// asked when its last answer is older than `max_age`, and never by an allocation.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemGetInfo")]
    pub fn device_pressure(&self, max_age: Duration) -> Result<MemoryPressure> {
        let total = self.device().total_memory();
        let free = self.seat.inner.core.device_free(max_age)?;
        Ok(MemoryPressure::of(total.saturating_sub(free), total))
    }

    /// Calls back when the level of pressure changes, from the thread whose allocation or free did it, with
    /// no lock held. A level is entered at its threshold, and left when use has fallen 2 % of the limit below
    /// it; bytes that threads have at hand (at most a 1024th of the limit each) count as used here.
    ///
    /// A callback that owns the pool, or a buffer of it, would keep it for ever.
    pub fn on_pressure(&self, callback: impl Fn(PressureChange) + Send + Sync + 'static) {
        self.budget().watch(Arc::new(callback));
    }

    /// All figures of the pool at once.
    pub fn metrics(&self) -> PoolMetrics {
        let inner = &*self.seat.inner;
        let figures = self.budget().figures();
        let mut counts = Counts::default();
        let (mut cached, mut pending) = (0, 0);
        for number in 0..inner.account.len() {
            let cache = &inner.account.purse(number).kept;
            counts.add(&cache.counts);
            let (more, later) = cache.bytes();
            cached += more;
            pending += later;
        }
        let heap = inner.core.heap();
        let (free, largest_free) = heap.free();
        PoolMetrics {
            limit: figures.limit,
            used: figures.used,
            available: figures.available,
            reserved: figures.reserved,
            high_water_mark: figures.high,
            from_driver: heap.from_driver,
            from_driver_high: heap.from_driver_high,
            cached,
            free_from_driver: free + heap.large_free(),
            largest_free,
            pending,
            allocations: counts.allocations,
            deallocations: counts.deallocations,
            cache_hits: counts.hits,
            failures: counts.failures,
            spills: counts.spills,
            misses: counts.misses,
        }
    }

    /// The pool's device.
    pub fn device(&self) -> &CudaDevice {
        &self.seat.inner.core.device
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

impl From<Refused> for Error {
    #[cold]
    fn from(refused: Refused) -> Self {
        Self::OutOfMemory {
            asked: refused.asked,
            available: refused.available,
            limit: refused.limit,
        }
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
