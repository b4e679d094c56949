//! The driver's objects of one partition.

use std::sync::Arc;

use cuda_green_sys::{CUcontext, CUdevResourceDesc, CUgreenCtx, CUgreenCtxCreate_flags};

use super::thread_contexts::{ThreadContext, ThreadContexts};
use crate::{
    device::{CudaDevice, Lease},
    driver::{Driver, log_failure},
    error::{Error, Result},
    event::Event,
    events::{self, PartitionEvent, emit},
};

/// The driver's objects of one context: its main green context and the siblings over the same SMs.
pub(crate) struct GreenHandles {
    descriptor: CUdevResourceDesc,
    /// The main context, and siblings over the same SMs for other threads.
    pub(crate) contexts: ThreadContexts<Handles, Event>,
    /// Whether one context may be current to several threads at once, so that no thread needs a sibling.
    pub(crate) shared: bool,
    /// The leases of its SMs. They are dropped after the contexts were idle and the driver was asked to destroy them, and
    /// never if the contexts are leaked.
    leases: Vec<Arc<Lease>>,
}

/// A further green context over the SMs of a partition, for another thread (the driver's contract up to CUDA 13.4).
pub(crate) type Sibling = ThreadContext<Handles>;

/// The driver's handles of one green context.
pub(crate) struct Handles {
    green: CUgreenCtx,
    pub(crate) context: CUcontext,
    /// Recorded after all work, for hand-offs and before destruction. Created with the context, so that destruction
    /// needs no new event.
    last_work: Arc<Event>,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread;
// `contexts` never lets two threads have one context current, which the driver forbids.
unsafe impl Send for GreenHandles {}
// SAFETY: as above.
unsafe impl Sync for GreenHandles {}
// SAFETY: as above.
unsafe impl Send for Handles {}
// SAFETY: as above.
unsafe impl Sync for Handles {}

impl Handles {
    /// Creates a green context over the described resources.
    fn create(device: &CudaDevice, descriptor: CUdevResourceDesc) -> Result<Self> {
        let driver = device.driver();
        let last_work = Arc::new(Event::new(device)?);
        let mut green = std::ptr::null_mut();
        // The flag is required before 13.3 and allowed after.
        let flags = CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM.0;
        // SAFETY: the output is valid, and the descriptor is the driver's, which lives as long as the
        // process.
        unsafe { driver.cuGreenCtxCreate(&mut green, descriptor, device.raw(), flags) }?;
        let mut handles = Self {
            green,
            context: std::ptr::null_mut(),
            last_work,
        };
        // SAFETY: the green context was made above.
        let asked = unsafe { driver.cuCtxFromGreenCtx(&mut handles.context, green) };
        if let Err(error) = asked {
            log_failure(handles.destroy(driver));
            return Err(error);
        }
        Ok(handles)
    }

    /// Records all its work so far.
    fn mark_work(&self, driver: &Driver) -> Result<()> {
        record(driver, self.green, &self.last_work)
    }

    /// Makes all its later work wait for the event.
    fn wait(&self, driver: &Driver, event: &Event) -> Result<()> {
        wait(driver, self.green, event)
    }

    /// Destroys the green context.
    fn destroy(&self, driver: &Driver) -> Result<()> {
        // SAFETY: called once, by the owner of the handles, when nothing made in the context is left.
        unsafe { driver.cuGreenCtxDestroy(self.green) }
    }
}

impl GreenHandles {
    /// Creates the main green context over the described resources.
    pub(crate) fn create(
        device: &CudaDevice,
        descriptor: CUdevResourceDesc,
        leases: Vec<Arc<Lease>>,
    ) -> Result<Self> {
        Ok(Self {
            descriptor,
            contexts: ThreadContexts::new(Handles::create(device, descriptor)?),
            shared: device.capabilities().shared_current,
            leases,
        })
    }

    /// Returns the leases of its SMs.
    pub(super) fn leases(&self) -> &[Arc<Lease>] {
        &self.leases
    }

    /// Returns the main green context.
    pub(super) fn green(&self) -> CUgreenCtx {
        self.contexts.main.context.green
    }

    /// Returns whether this is one of its green contexts.
    pub(super) fn has(&self, green: CUgreenCtx) -> bool {
        let is_it = |handles: &Handles| handles.green == green;
        self.contexts.map(is_it).contains(&true)
    }

    /// Returns whether this is one of its contexts, by the `CUcontext` handle under which a context is current.
    pub(super) fn has_context(&self, context: CUcontext) -> bool {
        let is_it = |handles: &Handles| handles.context == context;
        self.contexts.map(is_it).contains(&true)
    }

    /// Returns the main green context's `CUcontext` handle.
    #[inline]
    pub(crate) fn context(&self) -> CUcontext {
        self.contexts.main.context.context
    }

    /// Acquires a sibling for this thread: its own, an idle one, or a new one over the same SMs.
    #[cold]
    pub(crate) fn sibling(&self, device: &CudaDevice, thread: usize) -> Result<Arc<Sibling>> {
        let _events = events::defer(); // emitted after the lock of `contexts` is released
        let make = |awaited: &[_]| self.make_sibling(device, awaited);
        self.contexts.acquire_sibling(thread, make)
    }

    /// Creates siblings until `threads` threads can have the partition current at once.
    pub(super) fn provision_threads(&self, device: &CudaDevice, threads: usize) -> Result<()> {
        if self.shared {
            return Ok(());
        }
        let _events = events::defer(); // as above
        let make = |awaited: &[_]| self.make_sibling(device, awaited);
        self.contexts.provision(threads, make)
    }

    /// Creates a further green context over the same SMs, whose work waits for the same events as that of the others.
    fn make_sibling(&self, device: &CudaDevice, awaited: &[Arc<Event>]) -> Result<Handles> {
        let (driver, handles) = (device.driver(), Handles::create(device, self.descriptor)?);
        let waits = awaited
            .iter()
            .try_for_each(|event| handles.wait(driver, event));
        if let Err(error) = waits {
            log_failure(handles.destroy(driver));
            return Err(error);
        }
        emit(|| PartitionEvent::SiblingCreated {
            device: device.ordinal(),
        });
        Ok(handles)
    }

    /// Records the work so far of all its contexts and returns the events.
    pub(super) fn mark_work(&self, driver: &Driver) -> Result<Vec<Arc<Event>>> {
        let marks = self.contexts.map(|handles| {
            handles.mark_work(driver)?;
            Ok(Arc::clone(&handles.last_work))
        });
        marks.into_iter().collect()
    }

    /// Returns whether work of any of its contexts may still run. Nothing is recorded while what was recorded before is
    /// under way, so that asking again and again fills no queue.
    pub(super) fn is_working(&self, driver: &Driver) -> Result<bool> {
        let _allowed = driver.beside_captures();
        let is_done = |events: &[Arc<Event>]| {
            let mut events = events.iter();
            events.try_fold(true, |done, event| Ok::<_, Error>(done && event.is_done()?))
        };
        let last = self.contexts.map(|handles| Arc::clone(&handles.last_work));
        Ok(!is_done(&last)? || !is_done(&self.mark_work(driver)?)?)
    }

    /// Makes all later work of all its contexts, future siblings included, wait for these events.
    pub(super) fn wait_for(&self, driver: &Driver, marks: &[Arc<Event>]) -> Result<()> {
        self.contexts
            .hand_off(marks, |handles, event| handles.wait(driver, event))
    }

    /// Waits for the work in all its contexts.
    pub(super) fn synchronize(&self, driver: &Driver) -> Result<()> {
        let _allowed = driver.beside_captures();
        let marks = self.mark_work(driver)?;
        marks.iter().try_for_each(|event| event.synchronize())
    }

    /// Destroys the driver's objects, in which nothing runs any more.
    pub(super) fn destroy(self, driver: &Driver) -> Result<()> {
        let destroyed = self.contexts.map(|handles| handles.destroy(driver));
        destroyed.into_iter().fold(Ok(()), Result::and)
    }

    /// Leaks the contexts, with their SMs and their device, until the process ends. A thread may have one of them
    /// current, in which case destroying it would leave a dangling handle, or work may still run there. Leaking is
    /// safe.
    pub(super) fn leak(self) {
        std::mem::forget(self); // also the events of its contexts, which hold the device
    }
}

/// Records an event after all work of a green context so far.
pub(super) fn record(driver: &Driver, green: CUgreenCtx, event: &Event) -> Result<()> {
    let event = event.raw_for(driver)?;
    // SAFETY: the callers hold the green context, and the event is borrowed; both are of this driver.
    unsafe { driver.cuGreenCtxRecordEvent(green, event) }
}

/// Makes all later work of a green context wait for an event.
pub(super) fn wait(driver: &Driver, green: CUgreenCtx, event: &Event) -> Result<()> {
    let event = event.raw_for(driver)?;
    // SAFETY: the callers hold the green context, and the event is borrowed; both are of this driver.
    unsafe { driver.cuGreenCtxWaitEvent(green, event) }
}
