//! Green contexts: a share of the GPU's SMs, with what belongs to it.

mod config;
mod memory;
mod partition;

use std::{fmt, sync::Arc};

use cuda_green_sys::{CUcontext, CUgreenCtx};

pub use config::{ContextPriority, GreenContextConfig};
use memory::Memory;
pub(crate) use partition::{Partition, Seat};

use crate::{
    ContextGuard, CudaDevice, Driver, Error, Event, GpuMemoryPool, LaunchConfig, Result, Stream,
    resource::SmResource,
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
    driver: Driver,
    pub(crate) device: CudaDevice,
    config: GreenContextConfig,
    shape: Shape,
    /// None: the primary context, with all SMs.
    pub(crate) partition: Option<Partition>,
    memory: Arc<Memory>,
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
    /// The primary context in the same clothes: all SMs of the device, shared with everything that is
    /// left in it. What runs here runs on the SMs of every partition too.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a configuration that can never work; [`Error::Driver`].
    pub fn primary(device: &CudaDevice, config: GreenContextConfig) -> Result<Self> {
        config.check()?;
        device.raw_primary_context()?;
        let sm_count = device.properties().multiprocessor_count;
        let coscheduled = device.capabilities().granularity.multiple;
        let shape = Shape {
            requested_sms: config.sm_count,
            sm_count,
            coscheduled,
            max_cluster: if device.properties().compute_capability.0 >= 9 {
                coscheduled
            } else {
                1
            },
        };
        Ok(Self::from_parts(
            device,
            config,
            shape,
            None,
            Arc::default(),
        ))
    }

    /// A context over resources of one split; with the memory of another, if it is to take its place.
    pub(crate) fn create(
        device: &CudaDevice,
        config: GreenContextConfig,
        shape: Shape,
        resources: &[SmResource],
        in_place_of: Option<&Self>,
    ) -> Result<Self> {
        // Creating a green context retains the primary one. Doing that first keeps it alive between
        // contexts, so that it is not made and unmade each time.
        device.raw_primary_context()?;
        let partition = Partition::create(device, resources)?;
        let memory = in_place_of.map_or_else(Arc::default, |other| Arc::clone(&other.inner.memory));
        Ok(Self::from_parts(
            device,
            config,
            shape,
            Some(partition),
            memory,
        ))
    }

    fn from_parts(
        device: &CudaDevice,
        config: GreenContextConfig,
        shape: Shape,
        partition: Option<Partition>,
        memory: Arc<Memory>,
    ) -> Self {
        Self {
            inner: Arc::new(ContextInner {
                driver: device.driver().clone(),
                device: device.clone(),
                config,
                shape,
                partition,
                memory,
            }),
        }
    }

    /// What was asked for.
    pub fn config(&self) -> &GreenContextConfig {
        &self.inner.config
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

    /// Whether it has SMs of its own. If not, it stands for the whole GPU (single-context mode).
    pub fn is_partitioned(&self) -> bool {
        self.inner.partition.is_some()
    }

    /// Its device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// A stream in it, non-blocking, with the priority of its configuration.
    ///
    /// The calling thread's current context plays no part and is left alone.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuGreenCtxStreamCreate")]
    pub fn create_stream(&self) -> Result<Stream> {
        self.create_stream_with_priority(self.config().priority)
    }

    /// The same with a priority of its own.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn create_stream_with_priority(&self, priority: ContextPriority) -> Result<Stream> {
        Stream::create(self, self.device().stream_priority(priority)?)
    }

    /// Makes it the calling thread's current context until the guard is dropped.
    ///
    /// For libraries that work in whatever context is current. With streams of
    /// [`create_stream`](Self::create_stream) nothing needs to be current.
    ///
    /// Up to CUDA 13.4 a green context may be current to one thread at a time. So it stays with the first
    /// thread that activates it, and other threads get siblings: further green contexts over the very
    /// same SMs. Each costs about 1 ms and 5 MiB of device memory, once; there are as many as threads were
    /// ever active here at once.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuCtxPushCurrent")]
    #[inline]
    pub fn activate(&self) -> Result<ContextGuard<'_>> {
        ContextGuard::borrowed(&self.inner)
    }

    /// Captures in the event all work of this context so far.
    ///
    /// # Errors
    /// [`Error::Driver`]; [`Error::NotPartitioned`] in single-context mode, which records streams only.
    #[doc(alias = "cuGreenCtxRecordEvent")]
    pub fn record_event(&self, event: &Event) -> Result<()> {
        let green =
            self.partition_only("an event of all work of a context", "record its streams")?;
        partition::record(self.driver(), green, event)
    }

    /// Makes all later work of this context wait for the event, on the GPU; the host does not wait.
    ///
    /// # Errors
    /// As [`record_event`](Self::record_event).
    #[doc(alias = "cuGreenCtxWaitEvent")]
    pub fn wait_event(&self, event: &Event) -> Result<()> {
        let green = self.partition_only("making a whole context wait", "let its streams wait")?;
        // SAFETY: both are live, as their owners are borrowed.
        let result = unsafe { self.driver().api().cuGreenCtxWaitEvent(green, event.raw()) };
        self.driver().check("cuGreenCtxWaitEvent", result)
    }

    /// The ids of the SMs that its blocks run on, measured: a small kernel of the crate is run in a
    /// stream of its own, and each block notes the SM it finds itself on. Takes about a millisecond on
    /// an idle GPU; waits for what runs there otherwise.
    ///
    /// # Errors
    /// [`Error::Driver`], [`Error::OutOfMemory`].
    pub fn observed_sm_ids(&self) -> Result<Vec<u32>> {
        /// More ids than any device has SMs.
        const IDS: usize = 4096;
        /// Long enough that no SM takes a second block before each has had its first.
        const SPIN_NS: u32 = 50_000;
        let stream = self.create_stream()?;
        let pool = GpuMemoryPool::on(self.device(), (IDS * 4) as u64)?;
        let counts = pool.allocate(IDS * 4)?;
        counts.fill(0)?;
        let kernel = self
            .device()
            .kernels()?
            .function(self.driver(), crate::kernels::SM_IDS)?;
        // Blocks of 1024 threads fit once or twice on an SM, so these are several rounds over all SMs.
        let blocks = self.device().properties().multiprocessor_count * 8;
        let config = LaunchConfig::linear(blocks, 1024);
        // SAFETY: the kernel takes a pointer to `IDS` counters, their number, and a time; the buffer
        // outlives the launch, which is waited for.
        unsafe {
            stream.launch_raw(
                kernel,
                &config,
                &[&counts.address(), &(IDS as u32), &SPIN_NS],
            )?
        };
        stream.synchronize()?;
        let mut bytes = vec![0u8; IDS * 4];
        counts.copy_to(&mut bytes)?;
        let seen = bytes
            .chunks_exact(4)
            .zip(0u32..)
            .filter(|(count, _)| count.iter().any(|byte| *byte != 0));
        Ok(seen.map(|(_, id)| id).collect())
    }

    /// Waits for its work and destroys it.
    ///
    /// # Errors
    /// [`Error::ContextInUse`] with the context where clones, streams or guards still hold it, or the
    /// driver's refusal. The context comes back unless the driver has destroyed it.
    pub fn close(self) -> Result<(), (Option<Self>, Error)> {
        match Arc::try_unwrap(self.inner) {
            Ok(mut inner) => inner.destroy().map_err(|error| (None, error)),
            Err(inner) => {
                let holders = Arc::strong_count(&inner) - 1;
                let error = Error::ContextInUse {
                    id: "to be closed".into(),
                    holders,
                };
                Err((Some(Self { inner }), error))
            }
        }
    }

    /// The raw green context; null in single-context mode. Not to be destroyed by the caller.
    pub fn raw(&self) -> CUgreenCtx {
        self.inner
            .partition
            .as_ref()
            .map_or(std::ptr::null_mut(), |partition| partition.main.green())
    }

    /// The raw context, for libraries that take one: it belongs to this object and must not be destroyed
    /// (`cuCtxDestroy` on it is undefined behaviour). Up to CUDA 13.4 it may be current to one thread at a
    /// time; [`activate`](Self::activate) keeps to that by itself.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn raw_context(&self) -> Result<CUcontext> {
        self.inner.context()
    }

    fn driver(&self) -> &Driver {
        self.inner.driver()
    }

    fn partition_only(&self, what: &'static str, instead: &'static str) -> Result<CUgreenCtx> {
        match &self.inner.partition {
            Some(partition) => Ok(partition.main.green()),
            None => Err(Error::NotPartitioned { what, instead }),
        }
    }

    /// Notes the work so far, for [`wait_for_marked`](Self::wait_for_marked).
    pub(crate) fn mark_work(&self) -> Result<()> {
        self.inner
            .partition
            .as_ref()
            .map_or(Ok(()), |partition| partition.mark_work(self.driver()))
    }

    /// Makes all later work here wait for what `other` had noted.
    pub(crate) fn wait_for_marked(&self, other: &Self) -> Result<()> {
        match (&self.inner.partition, &other.inner.partition) {
            (Some(own), Some(other)) => own.wait_for_marked(self.driver(), other),
            _ => Ok(()),
        }
    }

    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
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
            Some(partition) => Ok(partition.main.context),
            None => self.device.raw_primary_context(),
        }
    }

    /// Waits for the work in it and destroys the driver's objects.
    fn destroy(&mut self) -> Result<()> {
        self.partition
            .take()
            .map_or(Ok(()), |partition| partition.destroy(&self.device))
    }
}

impl Drop for ContextInner {
    fn drop(&mut self) {
        if let Err(error) = self.destroy() {
            log::error!("destroying a green context: {error}");
        }
    }
}

impl fmt::Debug for GreenContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GreenContext")
            .field("config", self.config())
            .field("shape", &self.inner.shape)
            .field("partitioned", &self.is_partitioned())
            .finish()
    }
}
