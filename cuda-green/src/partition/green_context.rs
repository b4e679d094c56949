//! Green contexts: shares of a GPU's SMs, with the driver's objects for them.

use std::{fmt, sync::Arc};

use cuda_green_sys::{CUcontext, CUgreenCtx};

use super::{
    config::ContextPolicy,
    followers::{DropLater, Follower, Followers},
    handles::{self, GreenHandles},
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
/// Work in its streams runs on its SMs only. Streams, guards and clones keep it alive; it is destroyed once the last of
/// them is dropped and its work is done.
///
/// In single-context mode ([`GreenContext::is_partitioned`] is false) it stands for the whole GPU.
#[derive(Clone)]
pub struct GreenContext {
    pub(crate) inner: Arc<ContextInner>,
}

/// The shared state of all clones of a [`GreenContext`].
pub(crate) struct ContextInner {
    /// The device's driver, copied here to save an indirection in guards.
    pub(super) driver: Driver,
    pub(crate) device: CudaDevice,
    pub(super) policy: ContextPolicy,
    pub(super) sms: ContextSms,
    /// The driver's objects; `None` for the primary context, which has all SMs.
    pub(crate) partition: Option<GreenHandles>,
    pub(super) workqueues: Workqueues,
    pub(crate) memory: MemorySlot,
    followers: Followers<GreenContext>,
    pub(crate) streams: LiveStreams,
}

/// The SMs of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextSms {
    /// The SMs that were requested.
    pub(crate) requested_sms: u32,
    /// The SMs that it has.
    pub(crate) sm_count: u32,
    /// How many of its SMs are co-scheduled together.
    pub(crate) coscheduled: u32,
    /// Blocks of the largest cluster that is sure to run.
    pub(crate) max_cluster: u32,
}

impl GreenContext {
    /// Makes a context of its parts.
    pub(crate) fn from_parts(
        device: &CudaDevice,
        policy: ContextPolicy,
        sms: ContextSms,
        partition: Option<GreenHandles>,
        workqueues: Workqueues,
        memory: MemorySlot,
    ) -> Self {
        if partition.is_some() {
            emit(|| PartitionEvent::ContextCreated {
                device: device.ordinal(),
                sms: sms.sm_count,
            });
        }
        Self {
            inner: Arc::new(ContextInner {
                driver: device.driver().clone(),
                device: device.clone(),
                policy,
                sms,
                partition,
                workqueues,
                memory,
                followers: Followers::default(),
                streams: LiveStreams::default(),
            }),
        }
    }

    /// Returns the settings that the context was created with, other than its size.
    pub fn policy(&self) -> &ContextPolicy {
        &self.inner.policy
    }

    /// Returns the number of SMs that the context has.
    pub fn sm_count(&self) -> u32 {
        self.inner.sms.sm_count
    }

    /// Returns the number of SMs that were requested; for a quad partition, a quarter of the device's.
    pub fn requested_sms(&self) -> u32 {
        self.inner.sms.requested_sms
    }

    /// Returns how many of its SMs are co-scheduled together.
    pub fn coscheduled_sms(&self) -> u32 {
        self.inner.sms.coscheduled
    }

    /// Returns the size, in blocks, of the largest thread-block cluster that is sure to run in the context; 1 before
    /// compute capability 9.0, which has no clusters.
    pub fn max_cluster_size(&self) -> u32 {
        self.inner.sms.max_cluster
    }

    /// Returns the SMs of the context.
    pub(crate) fn sms(&self) -> ContextSms {
        self.inner.sms
    }

    /// Returns whether the context has a partition. If not, it stands for the whole GPU (single-context mode).
    pub fn is_partitioned(&self) -> bool {
        self.inner.partition.is_some()
    }

    /// Returns the context's device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// Creates the siblings that `threads` threads need to have the context current at once. Otherwise a thread's first
    /// [`activate`](Self::activate) creates its sibling, and under load waits for the device to be idle.
    ///
    /// Returns the number of green contexts that the context then consists of, each of which takes
    /// [`GREEN_CONTEXT_BYTES`](crate::GREEN_CONTEXT_BYTES) of device memory. This number never decreases, and
    /// a context that replaces this one in a rebalance has as many. The first thread that ever activated the context
    /// counts as one of the threads even after it has ended.
    ///
    /// In single-context mode, and from CUDA 13.5 on, every thread may have the same context current, so nothing is
    /// created.
    ///
    /// # Errors
    /// [`Error::Driver`] if the driver has no room for more. There is no limit before that, and each sibling takes
    /// memory. Siblings that were created stay until the context ends.
    pub fn provision_threads(&self, threads: usize) -> Result<usize> {
        if let Some(partition) = &self.inner.partition {
            partition.provision_threads(self.device(), threads)?;
        }
        Ok(self.green_contexts())
    }

    /// Records the event after all work of this context so far.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::NotPartitioned`] in single-context mode, in which only streams can be recorded;
    /// [`Error::ContextInCapture`] if one of its streams is in a capture, because the driver would refuse the call and
    /// invalidate the capture (measured on an H200, driver 580). A captured stream that only foreign code knows is not
    /// detected, and its capture is lost. [`Error::ForeignDriver`] for an event of another driver.
    #[doc(alias = "cuGreenCtxRecordEvent")]
    pub fn record_event(&self, event: &Event) -> Result<()> {
        self.device().check_own("the event", event.device())?;
        let green = self.partition_only(
            "recording an event for a whole context",
            "record its streams",
        )?;
        self.outside_captures(|| handles::record(self.driver(), green, event))
    }

    /// Makes all later work of this context wait for the event on the GPU; the host does not wait.
    ///
    /// # Errors
    /// As [`record_event`](Self::record_event).
    #[doc(alias = "cuGreenCtxWaitEvent")]
    pub fn wait_event(&self, event: &Event) -> Result<()> {
        let green = self.partition_only("making a whole context wait", "let its streams wait")?;
        self.outside_captures(|| handles::wait(self.driver(), green, event))
    }

    /// Returns the raw green context; null in single-context mode. The caller must not destroy it.
    pub fn raw(&self) -> CUgreenCtx {
        self.inner
            .partition
            .as_ref()
            .map_or(std::ptr::null_mut(), GreenHandles::green)
    }

    /// Returns the raw context, for [libraries that take one](crate::guide::foreign_libraries). It belongs to this
    /// object and must not be destroyed (`cuCtxDestroy` on it is undefined behaviour). Up to CUDA 13.4 it may
    /// be current to one thread at a time; [`activate`](Self::activate) ensures that.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn raw_context(&self) -> Result<CUcontext> {
        self.inner.context()
    }

    pub(super) fn driver(&self) -> &Driver {
        self.inner.driver()
    }

    /// Returns the raw green context, or [`Error::NotPartitioned`] in single-context mode.
    fn partition_only(&self, what: &'static str, instead: &'static str) -> Result<CUgreenCtx> {
        match &self.inner.partition {
            Some(partition) => Ok(partition.green()),
            None => Err(Error::NotPartitioned { what, instead }),
        }
    }

    /// Records the work so far of all its green contexts and returns the events; none in single-context mode.
    pub(crate) fn mark_work(&self) -> Result<Vec<Arc<Event>>> {
        match &self.inner.partition {
            None => Ok(Vec::new()),
            Some(partition) => self.outside_captures(|| partition.mark_work(self.driver())),
        }
    }

    /// Returns whether its work so far may still run, in any of its green contexts; false in single-context mode.
    pub(crate) fn is_working(&self) -> Result<bool> {
        match &self.inner.partition {
            None => Ok(false),
            Some(partition) => self.outside_captures(|| partition.is_working(self.driver())),
        }
    }

    /// Makes all later work of this context wait for the marks of another.
    pub(crate) fn wait_for_marked(&self, marks: &[Arc<Event>]) -> Result<()> {
        match &self.inner.partition {
            None => Ok(()),
            Some(partition) => self.outside_captures(|| partition.wait_for(self.driver(), marks)),
        }
    }

    /// Runs an action that must not happen while one of its streams is in a capture.
    fn outside_captures<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        self.inner.streams.outside_captures(self.driver(), action)
    }

    /// Adds a follower, which is to release what it keeps here when the context is to end.
    pub(crate) fn follow(&self, follower: std::sync::Weak<dyn Follower<Self>>) {
        self.inner.followers.add(follower);
    }

    /// Makes all followers release what they keep here. Returns whether there was anything. See
    /// [`Followers::release_all`].
    pub(crate) fn release_followers(&self, later: &mut DropLater) -> Result<bool> {
        self.inner.followers.release_all(self, later)
    }

    /// Returns the number of handles of the context: clones, streams and guards.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    /// Returns how many green contexts it consists of: the main one and its siblings; 0 in single-context mode.
    pub(crate) fn green_contexts(&self) -> usize {
        let partition = self.inner.partition.as_ref();
        partition.map_or(0, |partition| partition.contexts.count())
    }

    /// Returns whether this raw green context is its main one or a sibling.
    pub(crate) fn is_made_of(&self, green: CUgreenCtx) -> bool {
        let partition = self.inner.partition.as_ref();
        partition.is_some_and(|partition| partition.has(green))
    }

    /// Returns how often it is current to any thread, forgotten guards included.
    pub(crate) fn use_count(&self) -> usize {
        self.inner.use_count()
    }

    /// Returns whether it is current to this thread, also if foreign code made it current.
    pub(crate) fn is_current(&self) -> Result<bool> {
        self.inner.is_current()
    }
}

impl ContextInner {
    /// Returns the device's driver.
    #[inline]
    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Returns the main context, or the primary context in single-context mode.
    pub(crate) fn context(&self) -> Result<CUcontext> {
        match &self.partition {
            Some(partition) => Ok(partition.context()),
            None => self.device.raw_primary_context(),
        }
    }

    /// Returns how often it is current to any thread, forgotten guards included.
    pub(crate) fn use_count(&self) -> usize {
        let partition = self.partition.as_ref();
        partition.map_or(0, |partition| partition.contexts.use_count())
    }
}

impl fmt::Debug for GreenContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GreenContext")
            .field("policy", self.policy())
            .field("sms", &self.inner.sms)
            .field("partitioned", &self.is_partitioned())
            .finish()
    }
}
