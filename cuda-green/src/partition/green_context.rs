//! Green contexts: a share of the GPU's SMs, with the driver's objects for it.

use std::{fmt, sync::Arc};

use cuda_green_sys::{CUcontext, CUgreenCtx};

use super::{
    config::ContextPolicy,
    followers::{Follower, Followers, Later},
    handles::{self, Partition},
    live_streams::LiveStreams,
    memory_slot::MemorySlot,
    workqueues::Workqueues,
};
use crate::{
    device::CudaDevice,
    driver::Driver,
    error::{Error, Result},
    event::Event,
    events::{PartitionEvent, emit},
};

/// An isolated share of a GPU's SMs. Cheap to clone; all clones are the same context.
///
/// Work in its streams runs on its SMs only. Streams, guards and clones keep it alive; it is destroyed
/// after the last of them, once its work is done.
///
/// In single-context mode ([`GreenContext::is_partitioned`] is false) it stands for the whole GPU.
#[derive(Clone)]
pub struct GreenContext {
    pub(crate) inner: Arc<ContextInner>,
}

pub(crate) struct ContextInner {
    /// The device's, at hand without a detour for what must be fast.
    pub(super) driver: Driver,
    pub(crate) device: CudaDevice,
    pub(super) policy: ContextPolicy,
    pub(super) shape: Shape,
    /// None: the primary context, with all SMs.
    pub(crate) partition: Option<Partition>,
    pub(super) workqueues: Workqueues,
    pub(crate) memory: MemorySlot,
    followers: Followers,
    pub(crate) streams: LiveStreams,
}

/// What of the GPU a context has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) requested_sms: u32,
    pub(crate) sm_count: u32,
    pub(crate) coscheduled: u32,
    pub(crate) max_cluster: u32,
}

impl GreenContext {
    pub(crate) fn from_parts(
        device: &CudaDevice,
        policy: ContextPolicy,
        shape: Shape,
        partition: Option<Partition>,
        workqueues: Workqueues,
        memory: MemorySlot,
    ) -> Self {
        if partition.is_some() {
            emit(|| PartitionEvent::ContextCreated {
                device: device.ordinal(),
                sms: shape.sm_count,
            });
        }
        Self {
            inner: Arc::new(ContextInner {
                driver: device.driver().clone(),
                device: device.clone(),
                policy,
                shape,
                partition,
                workqueues,
                memory,
                followers: Followers::default(),
                streams: LiveStreams::default(),
            }),
        }
    }

    /// Returns the settings that it was created with, other than its size.
    pub fn policy(&self) -> &ContextPolicy {
        &self.inner.policy
    }

    /// The SMs that it really has.
    pub fn sm_count(&self) -> u32 {
        self.inner.shape.sm_count
    }

    /// The SMs that it was to have: of a quad partition, the device's quarter.
    pub fn requested_sms(&self) -> u32 {
        self.inner.shape.requested_sms
    }

    /// How many of its SMs are co-scheduled together.
    pub fn coscheduled_sms(&self) -> u32 {
        self.inner.shape.coscheduled
    }

    /// The largest thread-block cluster that is sure to run in it, in blocks; 1 before compute
    /// capability 9.0, which has no clusters.
    pub fn max_cluster_size(&self) -> u32 {
        self.inner.shape.max_cluster
    }

    pub(crate) fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// Whether it has SMs of its own. If not, it stands for the whole GPU (single-context mode).
    pub fn is_partitioned(&self) -> bool {
        self.inner.partition.is_some()
    }

    /// Its device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// Makes the siblings that so many threads need to have it current at once, so that no thread's first
    /// [`activate`](Self::activate) has to, which under load waits for the device to be idle.
    ///
    /// Returns how many green contexts it is made of then, each with
    /// [`GREEN_CONTEXT_BYTES`](crate::GREEN_CONTEXT_BYTES) of device memory. There are never fewer later, and
    /// a context that takes its place in a rebalance has as many. The first thread that ever activated it
    /// counts as one of them even where it has ended.
    ///
    /// In single-context mode, and from CUDA 13.5 on, every thread may have the one context, so nothing is made.
    ///
    /// # Errors
    /// [`Error::Driver`], where the driver has no room for more: no number is refused before, and each takes
    /// memory until then. What was made stays until the context ends.
    pub fn provision_threads(&self, threads: usize) -> Result<usize> {
        if let Some(partition) = &self.inner.partition {
            partition.provide_seats(self.device(), threads)?;
        }
        Ok(self.green_contexts())
    }

    /// Captures in the event all work of this context so far.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::NotPartitioned`] in single-context mode, which records streams only;
    /// [`Error::ContextInCapture`] where one of its streams is in a capture: the driver refuses that, and the
    /// capture would be lost (measured on an H200, driver 580), as it is where only foreign code knows the stream;
    /// [`Error::ForeignDriver`] for an event of another driver.
    #[doc(alias = "cuGreenCtxRecordEvent")]
    pub fn record_event(&self, event: &Event) -> Result<()> {
        self.device().check_own("the event", event.device())?;
        let green =
            self.partition_only("an event of all work of a context", "record its streams")?;
        self.outside_captures(|| handles::record(self.driver(), green, event))
    }

    /// Makes all later work of this context wait for the event, on the GPU; the host does not wait.
    ///
    /// # Errors
    /// As [`record_event`](Self::record_event).
    #[doc(alias = "cuGreenCtxWaitEvent")]
    pub fn wait_event(&self, event: &Event) -> Result<()> {
        let green = self.partition_only("making a whole context wait", "let its streams wait")?;
        self.outside_captures(|| handles::wait(self.driver(), green, event))
    }

    /// The raw green context; null in single-context mode. Not to be destroyed by the caller.
    pub fn raw(&self) -> CUgreenCtx {
        self.inner
            .partition
            .as_ref()
            .map_or(std::ptr::null_mut(), Partition::green)
    }

    /// The raw context, for [libraries that take one](crate::guide::foreign_libraries): it belongs to this
    /// object and must not be destroyed (`cuCtxDestroy` on it is undefined behaviour). Up to CUDA 13.4 it may
    /// be current to one thread at a time; [`activate`](Self::activate) keeps to that by itself.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn raw_context(&self) -> Result<CUcontext> {
        self.inner.context()
    }

    pub(super) fn driver(&self) -> &Driver {
        self.inner.driver()
    }

    fn partition_only(&self, what: &'static str, instead: &'static str) -> Result<CUgreenCtx> {
        match &self.inner.partition {
            Some(partition) => Ok(partition.green()),
            None => Err(Error::NotPartitioned { what, instead }),
        }
    }

    /// Notes the work so far, and gives what marks it; nothing in single-context mode.
    pub(crate) fn mark_work(&self) -> Result<Vec<Arc<Event>>> {
        match &self.inner.partition {
            None => Ok(Vec::new()),
            Some(partition) => self.outside_captures(|| partition.mark_work(self.driver())),
        }
    }

    /// Makes all later work here wait for what another noted.
    pub(crate) fn wait_for_marked(&self, marks: &[Arc<Event>]) -> Result<()> {
        match &self.inner.partition {
            None => Ok(()),
            Some(partition) => self.outside_captures(|| partition.wait_for(self.driver(), marks)),
        }
    }

    fn outside_captures<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        self.inner.streams.outside_captures(self.driver(), action)
    }

    /// Asks this, too, for what it keeps here when the context is to end.
    pub(crate) fn follow(&self, follower: std::sync::Weak<dyn Follower>) {
        self.inner.followers.add(follower);
    }

    /// Lets all that keep something here give it up; whether there was anything. See [`Followers::give_up`].
    pub(crate) fn give_up(&self, later: &mut Later) -> Result<bool> {
        self.inner.followers.give_up(self, later)
    }

    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    /// How many green contexts it is made of: itself, and siblings; none in single-context mode.
    pub(crate) fn green_contexts(&self) -> usize {
        let partition = self.inner.partition.as_ref();
        partition.map_or(0, |partition| partition.seats.count())
    }

    /// Whether this green context is its own or a sibling's.
    pub(crate) fn is_made_of(&self, green: CUgreenCtx) -> bool {
        let partition = self.inner.partition.as_ref();
        partition.is_some_and(|partition| partition.has(green))
    }

    /// How often it is current to some thread, through guards that were forgotten too.
    pub(crate) fn taken(&self) -> usize {
        self.inner.taken()
    }

    /// Whether it is current to this thread, by whoever's doing.
    pub(crate) fn is_current(&self) -> Result<bool> {
        self.inner.is_current()
    }
}

impl ContextInner {
    #[inline]
    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The context of the main seat, or the primary one.
    pub(crate) fn context(&self) -> Result<CUcontext> {
        match &self.partition {
            Some(partition) => Ok(partition.context()),
            None => self.device.raw_primary_context(),
        }
    }

    pub(crate) fn taken(&self) -> usize {
        let partition = self.partition.as_ref();
        partition.map_or(0, |partition| partition.seats.taken())
    }
}

impl fmt::Debug for GreenContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GreenContext")
            .field("policy", self.policy())
            .field("shape", &self.inner.shape)
            .field("partitioned", &self.is_partitioned())
            .finish()
    }
}
