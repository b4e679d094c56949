//! The driver's objects behind one partition, and which thread may have which of them current.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use cuda_green_sys::{CUcontext, CUdevResourceDesc, CUgreenCtx, CUgreenCtxCreate_flags};

use crate::{CudaDevice, Driver, Event, Result};

/// The driver's objects for one partition.
pub(crate) struct Partition {
    descriptor: CUdevResourceDesc,
    /// The context itself. Its seat stays with the first thread that activates it, so that this thread
    /// needs no atomic exchange to take and leave it.
    pub(crate) main: Seat,
    /// Further contexts over the same SMs, for other threads. They live as long as this, since foreign
    /// code may have made streams in them.
    siblings: Mutex<Vec<Arc<Seat>>>,
    /// Whether one context may be current to several threads, so that nobody needs a sibling.
    pub(crate) shared: bool,
}

/// A green context that one thread at a time may have current (the contract up to CUDA 13.4).
pub(crate) struct Seat {
    green: CUgreenCtx,
    pub(crate) context: CUcontext,
    /// The token of the thread that may make it current, or 0.
    owner: AtomicUsize,
    /// How often that thread has it; written by that thread only. From 13.5 on several threads may have
    /// it at once: then there is no owner, and this counts them all.
    depth: AtomicU32,
    /// Marks its work, for a hand-off and for its end. Made at the beginning: destroying should fail for
    /// nothing, and be quick.
    last_work: Event,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread; what it does not
// accept, one context current on two threads, is kept by the owner field.
unsafe impl Send for Partition {}
// SAFETY: as above.
unsafe impl Sync for Partition {}
// SAFETY: as above.
unsafe impl Send for Seat {}
// SAFETY: as above.
unsafe impl Sync for Seat {}

impl Seat {
    fn create(device: &CudaDevice, descriptor: CUdevResourceDesc) -> Result<Self> {
        let driver = device.driver();
        let last_work = Event::new(device)?;
        let mut green = std::ptr::null_mut();
        // The flag is required before 13.3 and allowed after.
        let flags = CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM.0;
        // SAFETY: the output is valid, and the descriptor is a driver's own, which lives as long as the
        // process.
        let result = unsafe {
            driver
                .api()
                .cuGreenCtxCreate(&mut green, descriptor, device.raw(), flags)
        };
        driver.check("cuGreenCtxCreate", result)?;
        let mut seat = Self {
            green,
            context: std::ptr::null_mut(),
            owner: AtomicUsize::new(0),
            depth: AtomicU32::new(0),
            last_work,
        };
        // SAFETY: the green context was made above.
        let result = unsafe { driver.api().cuCtxFromGreenCtx(&mut seat.context, green) };
        if let Err(error) = driver.check("cuCtxFromGreenCtx", result) {
            driver.check_in_drop("cuGreenCtxDestroy", seat.destroy(driver));
            return Err(error);
        }
        Ok(seat)
    }

    /// Makes it the calling thread's, if it is no other's.
    #[inline]
    pub(crate) fn take(&self, thread: usize) -> bool {
        if self.owner.load(Ordering::Relaxed) != thread
            && self
                .owner
                .compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        // Only the owner writes the depth, so this needs no atomic addition.
        self.depth
            .store(self.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// Undoes one `take` of the calling thread, which keeps the seat for the next time.
    #[inline]
    pub(crate) fn leave_biased(&self) -> u32 {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Release);
        depth
    }

    /// Undoes one `take` of the calling thread; after the last, any thread may have the seat.
    pub(crate) fn leave(&self) {
        if self.leave_biased() == 0 {
            self.owner.store(0, Ordering::Release);
        }
    }

    /// Counts a thread that has it current, where several may.
    pub(crate) fn take_shared(&self) {
        self.depth.fetch_add(1, Ordering::Relaxed);
    }

    /// Undoes one `take_shared`.
    pub(crate) fn leave_shared(&self) {
        self.depth.fetch_sub(1, Ordering::Release);
    }

    pub(super) fn green(&self) -> CUgreenCtx {
        self.green
    }

    fn mark_work(&self, driver: &Driver) -> Result<()> {
        record(driver, self.green, &self.last_work)
    }

    fn is_taken(&self) -> bool {
        self.depth.load(Ordering::Acquire) != 0
    }

    fn destroy(
        &self,
        driver: &Driver,
    ) -> Result<cuda_green_sys::CUresult, cuda_green_sys::MissingEntryPoint> {
        // SAFETY: called once, by whoever owns the seat, when nothing made in it is left.
        unsafe { driver.api().cuGreenCtxDestroy(self.green) }
    }
}

impl Partition {
    pub(super) fn create(device: &CudaDevice, descriptor: CUdevResourceDesc) -> Result<Self> {
        Ok(Self {
            descriptor,
            main: Seat::create(device, descriptor)?,
            siblings: Mutex::new(Vec::new()),
            shared: device.capabilities().shared_current,
        })
    }

    /// A sibling for this thread: an idle one, or a new one over the same SMs.
    #[cold]
    pub(crate) fn sibling(&self, device: &CudaDevice, thread: usize) -> Result<Arc<Seat>> {
        let mut siblings = self.siblings.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that this thread has already, or else any that is idle.
        let own = siblings
            .iter()
            .find(|seat| seat.owner.load(Ordering::Relaxed) == thread);
        if let Some(seat) = own
            .into_iter()
            .chain(&*siblings)
            .find(|seat| seat.take(thread))
        {
            return Ok(Arc::clone(seat));
        }
        let seat = Arc::new(Seat::create(device, self.descriptor)?);
        seat.take(thread);
        siblings.push(Arc::clone(&seat));
        Ok(seat)
    }

    /// Whether one of its contexts is this one.
    pub(super) fn has(&self, context: CUcontext) -> bool {
        self.main.context == context || self.siblings().iter().any(|seat| seat.context == context)
    }

    /// Whether some thread has one of its contexts current, by a guard or `set_current`.
    pub(super) fn is_taken(&self) -> bool {
        self.main.is_taken() || self.siblings().iter().any(|seat| seat.is_taken())
    }

    /// Notes the work so far of all its contexts.
    pub(super) fn mark_work(&self, driver: &Driver) -> Result<()> {
        self.main.mark_work(driver)?;
        self.siblings()
            .iter()
            .try_for_each(|seat| seat.mark_work(driver))
    }

    /// Makes all later work of all its contexts wait for what the other noted.
    pub(super) fn wait_for_marked(&self, driver: &Driver, other: &Self) -> Result<()> {
        let (others, own) = (other.siblings(), self.siblings());
        for marked in std::iter::once(&other.main).chain(others.iter().map(|seat| &**seat)) {
            for seat in std::iter::once(&self.main).chain(own.iter().map(|seat| &**seat)) {
                let event = marked.last_work.raw();
                // SAFETY: both are live: each belongs to a seat of a partition that is borrowed.
                let result = unsafe { driver.api().cuGreenCtxWaitEvent(seat.green, event) };
                driver.check("cuGreenCtxWaitEvent", result)?;
            }
        }
        Ok(())
    }

    fn siblings(&self) -> Vec<Arc<Seat>> {
        self.siblings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for the work in it and destroys the driver's objects.
    pub(super) fn destroy(self, device: &CudaDevice) -> Result<()> {
        let driver = device.driver();
        let siblings = self
            .siblings
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let seats = || std::iter::once(&self.main).chain(siblings.iter().map(|seat| &**seat));
        if seats().any(Seat::is_taken) {
            // A guard was forgotten, so some thread still has it current. Destroying it would leave that
            // thread with a dangling handle; leaking it harms nobody.
            log::warn!("a context guard was forgotten: its green context is never destroyed");
            std::mem::forget(device.clone());
            return Ok(());
        }
        // Their SMs must be idle when others get them.
        let mut result = seats().try_for_each(|seat| {
            seat.mark_work(driver)?;
            seat.last_work.synchronize()
        });
        for seat in seats() {
            result = result.and(driver.check("cuGreenCtxDestroy", seat.destroy(driver)));
        }
        result
    }
}

/// Captures in an event all work of a green context so far.
pub(super) fn record(driver: &Driver, green: CUgreenCtx, event: &Event) -> Result<()> {
    // SAFETY: the callers hold the green context, and the event is borrowed.
    let result = unsafe { driver.api().cuGreenCtxRecordEvent(green, event.raw()) };
    driver.check("cuGreenCtxRecordEvent", result)
}
