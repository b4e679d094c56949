//! The driver's objects behind one partition.

use std::sync::Arc;

use cuda_green_sys::{CUcontext, CUdevResourceDesc, CUgreenCtx, CUgreenCtxCreate_flags};

use super::thread_seats::{self, Seats};
use crate::{
    device::{CudaDevice, Lease},
    driver::{Driver, log_failure},
    error::Result,
    event::Event,
    events::{self, PartitionEvent, emit},
};

/// The driver's objects for one partition.
pub(crate) struct Partition {
    descriptor: CUdevResourceDesc,
    /// The context itself, and further ones over the same SMs for other threads.
    pub(crate) seats: Seats<Handles, Event>,
    /// Whether one context may be current to several threads, so that nobody needs a sibling.
    pub(crate) shared: bool,
    /// What keeps its SMs from being given to others. Dropped when the contexts are destroyed, and never if they
    /// are not.
    leases: Vec<Arc<Lease>>,
}

/// One of its contexts, which one thread at a time may have current (the contract up to CUDA 13.4).
pub(crate) type Seat = thread_seats::Seat<Handles>;

/// A green context as the driver knows it.
pub(crate) struct Handles {
    green: CUgreenCtx,
    pub(crate) context: CUcontext,
    /// Marks its work, for a hand-off and for its end. Made at the beginning: destroying should fail for
    /// nothing, and be quick.
    last_work: Arc<Event>,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread; what it does not
// accept, one context current on two threads, is kept by the seats.
unsafe impl Send for Partition {}
// SAFETY: as above.
unsafe impl Sync for Partition {}
// SAFETY: as above.
unsafe impl Send for Handles {}
// SAFETY: as above.
unsafe impl Sync for Handles {}

impl Handles {
    fn create(device: &CudaDevice, descriptor: CUdevResourceDesc) -> Result<Self> {
        let driver = device.driver();
        let last_work = Arc::new(Event::new(device)?);
        let mut green = std::ptr::null_mut();
        // The flag is required before 13.3 and allowed after.
        let flags = CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM.0;
        // SAFETY: the output is valid, and the descriptor is a driver's own, which lives as long as the
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

    /// Captures all its work so far.
    fn mark_work(&self, driver: &Driver) -> Result<()> {
        record(driver, self.green, &self.last_work)
    }

    /// Makes all its later work wait for the event.
    fn wait(&self, driver: &Driver, event: &Event) -> Result<()> {
        wait(driver, self.green, event)
    }

    fn destroy(&self, driver: &Driver) -> Result<()> {
        // SAFETY: called once, by whoever owns the handles, when nothing made in the context is left.
        unsafe { driver.cuGreenCtxDestroy(self.green) }
    }
}

impl Partition {
    pub(crate) fn create(
        device: &CudaDevice,
        descriptor: CUdevResourceDesc,
        leases: Vec<Arc<Lease>>,
    ) -> Result<Self> {
        Ok(Self {
            descriptor,
            seats: Seats::new(Handles::create(device, descriptor)?),
            shared: device.capabilities().shared_current,
            leases,
        })
    }

    /// What keeps its SMs from being given to others.
    pub(super) fn leases(&self) -> &[Arc<Lease>] {
        &self.leases
    }

    /// The green context itself.
    pub(super) fn green(&self) -> CUgreenCtx {
        self.seats.main.context.green
    }

    /// Whether this is one of its contexts.
    pub(super) fn has(&self, green: CUgreenCtx) -> bool {
        let is_it = |handles: &Handles| handles.green == green;
        self.seats.map(is_it).contains(&true)
    }

    /// Whether this is one of its contexts, by the handle under which it is current.
    pub(super) fn has_context(&self, context: CUcontext) -> bool {
        let is_it = |handles: &Handles| handles.context == context;
        self.seats.map(is_it).contains(&true)
    }

    /// The same as a context.
    #[inline]
    pub(crate) fn context(&self) -> CUcontext {
        self.seats.main.context.context
    }

    /// A sibling for this thread: an idle one, or a new one over the same SMs.
    #[cold]
    pub(crate) fn sibling(&self, device: &CudaDevice, thread: usize) -> Result<Arc<Seat>> {
        let _events = events::defer(); // until the seats can be looked at again
        let make = |awaited: &[_]| self.make_sibling(device, awaited);
        self.seats.sibling(thread, make)
    }

    /// Makes siblings until so many threads can have it current at once.
    pub(super) fn provide_seats(&self, device: &CudaDevice, threads: usize) -> Result<()> {
        if self.shared {
            return Ok(());
        }
        let _events = events::defer(); // as above
        let make = |awaited: &[_]| self.make_sibling(device, awaited);
        self.seats.provide(threads, make)
    }

    /// A further context over the same SMs, whose work waits for what that of the others does.
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

    /// Notes the work so far of all its contexts, and gives what marks it.
    pub(super) fn mark_work(&self, driver: &Driver) -> Result<Vec<Arc<Event>>> {
        let marks = self.seats.map(|handles| {
            handles.mark_work(driver)?;
            Ok(Arc::clone(&handles.last_work))
        });
        marks.into_iter().collect()
    }

    /// Makes all later work of all its contexts, those to come too, wait for these.
    pub(super) fn wait_for(&self, driver: &Driver, marks: &[Arc<Event>]) -> Result<()> {
        self.seats
            .hand_off(marks, |handles, event| handles.wait(driver, event))
    }

    /// Waits for the work in all its contexts.
    pub(super) fn synchronize(&self, driver: &Driver) -> Result<()> {
        let _allowed = driver.beside_captures();
        let marks = self.mark_work(driver)?;
        marks.iter().try_for_each(|event| event.synchronize())
    }

    /// Destroys the driver's objects; nothing runs in them any more.
    pub(super) fn destroy(self, driver: &Driver) -> Result<()> {
        let destroyed = self.seats.map(|handles| handles.destroy(driver));
        destroyed.into_iter().fold(Ok(()), Result::and)
    }

    /// Leaves the contexts to the end of the process, with their SMs and their device: a thread may have one
    /// current, to which destroying it would leave a dangling handle, or work may run there still. Leaking harms
    /// nobody.
    pub(super) fn leak(self) {
        std::mem::forget(self); // with the events of its contexts, which hold the device
    }
}

/// Captures in an event all work of a green context so far.
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
