//! Green contexts as a program uses them: made, entered, given streams and memory, and closed.

mod close;
mod from_resources;
mod memory;

use std::sync::Arc;

pub use close::CloseError;
use memory::Memory;

use crate::{
    device::{ContextPriority, CudaDevice, Lease},
    error::Result,
    guard::ContextGuard,
    partition::{ContextPolicy, GreenContext, Shape, Workqueues, balanced},
    resource::SmResource,
    stream::{Stream, StreamOptions},
};

impl GreenContext {
    /// Returns the primary context as a `GreenContext`: all SMs of the device, shared with everything that is
    /// left in it. Its work runs on the SMs of every partition too.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a policy that can never work; [`Error::Driver`].
    pub fn primary(device: &CudaDevice, policy: ContextPolicy) -> Result<Self> {
        Self::primary_for(device, device.facts().sm_count, policy)
    }

    /// Returns the primary context as one that was requested with fewer SMs than it has (single-context mode).
    pub(crate) fn primary_for(
        device: &CudaDevice,
        requested_sms: u32,
        policy: ContextPolicy,
    ) -> Result<Self> {
        policy.check()?;
        device.raw_primary_context()?;
        let facts = device.facts();
        let coscheduled = facts.capabilities.granularity.multiple;
        let shape = Shape {
            requested_sms,
            sm_count: facts.sm_count,
            coscheduled,
            max_cluster: facts.max_cluster(coscheduled),
        };
        Ok(Self::from_parts(
            device,
            policy,
            shape,
            None,
            Workqueues::shared("it is the context of the whole device"),
            Memory::slot(),
        ))
    }

    /// A context over resources of one split, its workqueues balanced where the driver has that; with the
    /// memory of another, if it is to take its place. What it is and what comes of it holds the leases.
    pub(crate) fn create(
        device: &CudaDevice,
        policy: ContextPolicy,
        shape: Shape,
        resources: &[SmResource],
        leases: Vec<Arc<Lease>>,
        in_place_of: Option<&Self>,
    ) -> Result<Self> {
        // Creating a green context retains the primary one. Doing that first keeps it alive between
        // contexts, so that it is not made and unmade each time.
        device.raw_primary_context()?;
        let (partition, workqueues) = balanced(device, resources, leases)?;
        let memory = in_place_of.map_or_else(Memory::slot, |other| other.inner.memory.clone());
        Ok(Self::from_parts(
            device,
            policy,
            shape,
            Some(partition),
            workqueues,
            memory,
        ))
    }

    /// A stream in it, non-blocking, with the priority of its policy.
    ///
    /// The calling thread's current context plays no part and is left alone.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuGreenCtxStreamCreate")]
    pub fn create_stream(&self) -> Result<Stream> {
        self.create_stream_with(&StreamOptions::default())
    }

    /// The same with a priority of its own.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn create_stream_with_priority(&self, priority: ContextPriority) -> Result<Stream> {
        self.create_stream_with(&StreamOptions::default().priority(priority))
    }

    /// A stream in it, with what is asked for. From CUDA 12.5 on it is made straight from the context; on 12.4
    /// the context is current to this thread for as long as that takes, and then what was before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a stream that is not non-blocking, which green contexts do not have, and
    /// for a priority that the device does not offer; [`Error::Driver`].
    #[doc(alias = "cuGreenCtxStreamCreate")]
    pub fn create_stream_with(&self, options: &StreamOptions) -> Result<Stream> {
        Stream::create(self, options)
    }

    /// Makes it the calling thread's current context until the guard is dropped.
    ///
    /// For libraries that work in whatever context is current. With streams of
    /// [`create_stream`](Self::create_stream) nothing needs to be current.
    ///
    /// Inside, the default stream orders nothing: a stream that is made with `cuStreamCreate` and flags 0 in a
    /// current green context does not wait for the NULL stream, nor does the NULL stream, or a copy that waits, for
    /// it (measured on an H200, driver 580). Libraries and programs of the CUDA runtime that rest on that order
    /// read stale data here, without an error: see the guide [by current context](crate::guide::foreign_libraries).
    ///
    /// Up to CUDA 13.4 a green context may be current to one thread at a time. So it stays with the first
    /// thread that activates it, and other threads get siblings: further green contexts over the very
    /// same SMs. Each costs about 1 ms and 5 MiB of device memory, once, and the driver waits for all work on
    /// the device meanwhile (seen on an H200, driver 580); there are as many as threads were ever active
    /// here at once. [`provision_threads`](Self::provision_threads) makes them ahead.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuCtxPushCurrent")]
    #[inline]
    pub fn activate(&self) -> Result<ContextGuard<'_>> {
        ContextGuard::borrowed(&self.inner)
    }

    /// Runs a closure with it current to this thread; then, in a panic too, what was before is current again. As
    /// [`activate`](Self::activate), with a guard that cannot be forgotten or held across an `await`.
    ///
    /// What a future that comes of the closure does, it does later, in whatever is current then.
    ///
    /// ```
    /// # use cuda_green::{ContextId, Driver, SmPartitionManager};
    /// # fn main() -> cuda_green::Result<()> {
    /// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// # let manager = SmPartitionManager::on(&device)?;
    /// # manager.init_quad_partition()?;
    /// # fn library_call() -> u32 { 7 }
    /// let context = manager.get_context(ContextId::Dream)?;
    /// let answer = context.with_current(|| library_call())?;
    /// # assert_eq!(answer, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`activate`](Self::activate), before the closure runs; those of [`ContextGuard::close`] after it,
    /// and what it gave is dropped then.
    pub fn with_current<T>(&self, action: impl FnOnce() -> T) -> Result<T> {
        let guard = self.activate()?;
        let done = action();
        guard.close()?;
        Ok(done)
    }
}
