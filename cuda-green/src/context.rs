//! The methods of green contexts that programs use: creating and activating contexts, streams, memory, closing.

mod close;
mod from_resources;
mod memory;

use std::sync::Arc;

pub use close::CloseError;
use memory::ContextMemory;

use crate::{
    device::{ContextPriority, CudaDevice, Lease},
    error::Result,
    guard::ContextGuard,
    partition::{ContextPolicy, ContextSms, GreenContext, Workqueues, balanced},
    resource::SmResource,
    stream::{Stream, StreamOptions},
};

impl GreenContext {
    /// Returns the primary context as a `GreenContext`: it has all SMs of the device, shared with all other work in the
    /// primary context. Its work runs on the SMs of every partition too.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a policy that can never work;
    /// [`Error::Driver`](crate::Error::Driver).
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
        let coscheduled = facts.capabilities.granularity.coscheduled;
        let sms = ContextSms {
            requested_sms,
            sm_count: facts.sm_count,
            coscheduled,
            max_cluster: facts.max_cluster(coscheduled),
        };
        Ok(Self::from_parts(
            device,
            policy,
            sms,
            None,
            Workqueues::shared("it is the context of the whole device"),
            ContextMemory::slot(),
        ))
    }

    /// Creates a context over resources of one split, with balanced workqueues if the driver has them. If it replaces
    /// another context, it takes over that one's memory. The context and everything made in it hold the leases.
    pub(crate) fn create(
        device: &CudaDevice,
        policy: ContextPolicy,
        sms: ContextSms,
        resources: &[SmResource],
        leases: Vec<Arc<Lease>>,
        in_place_of: Option<&Self>,
    ) -> Result<Self> {
        // Creating a green context retains the primary one. Retaining it here first keeps it alive between
        // contexts, so that it is not created and destroyed each time.
        device.raw_primary_context()?;
        let (partition, workqueues) = balanced(device, resources, leases)?;
        let memory =
            in_place_of.map_or_else(ContextMemory::slot, |other| other.inner.memory.clone());
        Ok(Self::from_parts(
            device,
            policy,
            sms,
            Some(partition),
            workqueues,
            memory,
        ))
    }

    /// Creates a non-blocking stream in the context, with the priority of its policy.
    ///
    /// The calling thread's current context does not matter and is not changed.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGreenCtxStreamCreate")]
    pub fn create_stream(&self) -> Result<Stream> {
        self.create_stream_with(&StreamOptions::default())
    }

    /// Creates a non-blocking stream in the context, with this priority.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn create_stream_with_priority(&self, priority: ContextPriority) -> Result<Stream> {
        self.create_stream_with(&StreamOptions::default().priority(priority))
    }

    /// Creates a stream in the context with these options. From CUDA 12.5 on it is created directly from the context;
    /// on 12.4 the context is current to this thread during the call.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a blocking stream, which green contexts do not
    /// have, and for a priority that the device does not offer; [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGreenCtxStreamCreate")]
    pub fn create_stream_with(&self, options: &StreamOptions) -> Result<Stream> {
        Stream::create(self, options)
    }

    /// Makes the context current to the calling thread until the guard is dropped.
    ///
    /// This is for libraries that use the current context. Streams of
    /// [`create_stream`](Self::create_stream) need no current context.
    ///
    /// While a green context is current, the default stream orders nothing: a stream that is made with `cuStreamCreate`
    /// and flags 0 does not wait for the NULL stream, and neither the NULL stream nor a synchronous copy waits for that
    /// stream (measured on an H200, driver 580). Libraries and programs of the CUDA runtime that rely on this order
    /// read stale data here, without an error: see the guide [by current context](crate::guide::foreign_libraries).
    ///
    /// Up to CUDA 13.4 a green context may be current to one thread at a time. So it stays with the first
    /// thread that activates it, and other threads get siblings: further green contexts over the same SMs. Creating a
    /// sibling takes about 1 ms and 5 MiB of device memory, and the driver waits for all work on the device meanwhile
    /// (seen on an H200, driver 580). Siblings are reused: there are at most as many as threads were ever active here at
    /// once. [`provision_threads`](Self::provision_threads) creates them in advance.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuCtxPushCurrent")]
    #[inline]
    pub fn activate(&self) -> Result<ContextGuard<'_>> {
        ContextGuard::borrowed(&self.inner)
    }

    /// Runs a closure with the context current to this thread, and then restores the previous one, also after a panic.
    /// This is [`activate`](Self::activate) with a guard that cannot be forgotten or held across an `await`.
    ///
    /// A future that the closure returns runs later, in the context that is current then.
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
    /// Those of [`activate`](Self::activate), before the closure runs; those of [`ContextGuard::close`] after it, in
    /// which case the closure's result is dropped.
    pub fn with_current<T>(&self, action: impl FnOnce() -> T) -> Result<T> {
        let guard = self.activate()?;
        let done = action();
        guard.close()?;
        Ok(done)
    }
}
