//! A queue on one device.

use std::{fmt, mem::ManuallyDrop, ops::Deref, sync::Arc};

use cuda_green::{CudaDevice, Kernel, KernelArg, LaunchConfig, Stream};

use crate::{
    builder::TaskQueueBuilder,
    device_side::DeviceSide,
    error::{Error, Result},
    events::{self, QueueEvent},
    layout::DeviceQueue,
    numa::Placement,
    pool::Pool,
    stats::{DeviceStats, QueueStats},
    submitter::Submitter,
    workers::{Workers, is_own_thread},
};

// SAFETY: it is plain data in the layout of C, as `cuda_green::Queue` in the header is; a probe compares the two.
unsafe impl KernelArg for DeviceQueue {}

/// A queue of tasks from the kernels of one device to handlers on the CPU. CPU code submits tasks by the same handlers:
/// a queue dereferences to a [`Submitter`].
///
/// All memory for tasks of kernels is allocated when the queue is made. A task of CPU code is one allocation.
///
/// # Its end
/// - [`close`](Self::close) takes no more tasks; those that were accepted are run.
/// - [`shutdown`](Self::shutdown) also waits for the end of kernels that use the queue, and of the tasks.
/// - Dropped, the queue answers the tasks that wait as closed, and waits for the end of kernels and of running handlers.
///
/// Kernels that wait for an answer get one in each case, so they end. The memory is freed after all work on which the
/// queue was fenced: by [`launch`](Self::launch), or by [`fence_on`](Self::fence_on) after a launch by other means.
///
/// A queue in a `static` is never dropped. When the process exits, its threads stop wherever they are: tasks that wait are
/// not run, and kernels that wait for them get no answer. Shut it down before `main` returns.
///
/// # Forks
/// A child that is forked from the process has none of the queue's threads, and no use of the GPU. There, submit nothing
/// and drop no queue: what waits for a thread waits for ever. End the child by `exec` or `_exit`, or start it by
/// `std::process::Command`, which does so.
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// use cuda_green::Driver;
/// use cuda_green_queue::{Task, TaskQueue};
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// struct Square(u64);
///
/// impl Task for Square {
///     const METHOD: u16 = 1;
///     type Output = u64;
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let queue = TaskQueue::builder()
///     .handler(|Square(n)| Ok(n * n))
///     .build(&device)?;
/// let _argument = queue.device_queue(); // of a kernel that submits `Square`
/// assert_eq!(queue.submit(Square(5))?.wait()?, 25); // or from here
/// queue.shutdown()?;
/// # Ok(())
/// # }
/// ```
pub struct TaskQueue {
    /// Taken out once, at the end.
    parts: ManuallyDrop<Parts>,
    submitter: Submitter,
    /// Whether the pool is this queue's alone.
    owns_pool: bool,
}

/// What has an end, in its order.
struct Parts {
    device: DeviceSide,
    workers: Arc<Workers>,
    /// Whether the tasks that wait are answered as closed at the end.
    discards: bool,
}

impl Parts {
    fn end(&mut self) -> Result<()> {
        self.device.end(self.discards)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("a queue ended without waiting for its kernels: {error}");
        }
    }
}

impl TaskQueue {
    /// Returns a builder with the numbers that most queues have.
    pub fn builder() -> TaskQueueBuilder {
        TaskQueueBuilder::default()
    }

    pub(crate) fn new(device: DeviceSide, workers: Arc<Workers>, owns_pool: bool) -> Self {
        Self {
            submitter: Submitter::new(workers.pool()),
            parts: ManuallyDrop::new(Parts {
                device,
                workers,
                discards: true,
            }),
            owns_pool,
        }
    }

    fn pool(&self) -> &Arc<Pool> {
        self.parts.workers.pool()
    }

    /// Returns the queue as an argument of kernels on its device. It may be used by kernels that end before the queue,
    /// or on whose streams the queue is fenced.
    pub fn device_queue(&self) -> DeviceQueue {
        self.parts.device.segment().queue()
    }

    /// Returns the queue's device.
    pub fn device(&self) -> &CudaDevice {
        self.parts.device.segment().device()
    }

    /// Returns the NUMA nodes of the GPU and of the queue's memory.
    pub fn placement(&self) -> &Placement {
        self.parts.device.segment().placement()
    }

    /// Returns the way in for tasks of CPU code, for threads that do not have the queue.
    pub fn submitter(&self) -> &Submitter {
        &self.submitter
    }

    /// Launches a kernel that uses the queue, and fences the queue on the stream, so that its memory outlives the
    /// kernel. Does not wait.
    ///
    /// # Errors
    /// [`Error::Closed`]; those of [`Stream::launch`] and [`fence_on`](Self::fence_on). If the last fence fails, the
    /// kernel was launched.
    ///
    /// # Safety
    /// As [`Stream::launch`]; but this queue may be dropped before the kernel has ended.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        if !self.parts.device.control().is_open() {
            return Err(Error::Closed);
        }
        // A stream that cannot be fenced, since it is in a capture, is refused before the launch. The polling threads
        // wake up meanwhile.
        self.fence_on(stream)?;
        #[cfg(feature = "test-utils")]
        crate::simulated::warn_without_body(stream.device().driver(), kernel);
        // SAFETY: the caller makes the same promise, but for the queue's memory, which the fence below keeps.
        unsafe { stream.launch(kernel, config, args) }?;
        self.fence_on(stream)?;
        // Some drivers start work only when they are asked something; this thread may only wait for tasks from now on.
        let _ = stream.is_done();
        Ok(())
    }

    /// Fences the queue on a stream: its memory outlives the work that is in the stream now, and the polling threads do
    /// not rest until it is over. Does not wait.
    ///
    /// # Errors
    /// [`Error::CudaGreen`]: [`ForeignDevice`](cuda_green::Error::ForeignDevice) for a stream of another device; as
    /// [`PinnedBuffer::fence_on`](cuda_green::PinnedBuffer::fence_on).
    pub fn fence_on(&self, stream: &Stream) -> Result<()> {
        self.check_own(stream)?;
        let device = &self.parts.device;
        let fenced = device.segment().fence_on(stream);
        // After the fence, which is asked for the end of the work.
        device.announce();
        fenced
    }

    /// Ensures that a stream is of the queue's device: kernels of another one could not access the queue's memory.
    fn check_own(&self, stream: &Stream) -> Result<()> {
        let (expected, device) = (self.device().ordinal(), stream.device().ordinal());
        if device == expected {
            return Ok(()); // or of another driver, which fences refuse
        }
        let what = "the stream";
        Err(cuda_green::Error::ForeignDevice {
            what,
            device,
            expected,
        }
        .into())
    }

    /// Takes no more tasks: kernels' submissions are answered as closed, but for at most as many as a ring has slots,
    /// which were granted before. All that is accepted is run. Does not wait.
    ///
    /// A queue of a set closes for its device alone.
    pub fn close(&self) {
        self.parts.device.control().close();
        let device = self.device().ordinal();
        events::emit(QueueEvent::Closed { device });
        if self.owns_pool {
            self.pool().close();
        }
    }

    /// Closes the queue, and waits for the end of the kernels that it was fenced on and of all tasks. A queue of a set
    /// waits for its tasks only until they are with the workers. Returns the last figures.
    ///
    /// Called by a handler of the queue, it cannot wait, and lets another thread do so; the figures are those of now.
    ///
    /// # Errors
    /// [`Error::CudaGreen`] if the end of the kernels cannot be known, since the device is lost.
    pub fn shutdown(mut self) -> Result<QueueStats> {
        self.close();
        self.keep_tasks();
        if is_own_thread(self.pool()) {
            return Ok(self.stats());
        }
        let ended = self.parts.end();
        if self.owns_pool {
            self.parts.workers.join();
        }
        ended.map(|()| self.stats())
    }

    /// Begins the end of the device's side. Does not wait.
    pub(crate) fn begin_end(&self, discards: bool) {
        self.parts.device.begin_end(discards);
    }

    /// Lets the tasks that wait be run at the end.
    pub(crate) fn keep_tasks(&mut self) {
        self.parts.discards = false;
    }

    /// Returns the figures of the queue. Those of the rings in device memory are copied from there; that does not wait
    /// for kernels.
    pub fn stats(&self) -> QueueStats {
        // Ends before beginnings: no snapshot has more of those.
        let pool = QueueStats::of_pool(self.pool());
        QueueStats {
            devices: vec![self.device_stats()],
            ..pool
        }
    }

    pub(crate) fn device_stats(&self) -> DeviceStats {
        let device = &self.parts.device;
        let (rings, unreadable) = device.ring_stats();
        DeviceStats {
            device: self.device().ordinal(),
            placement: self.placement().clone(),
            rings,
            pollers: device.poller_stats(),
            invalid_answers: device.segment().invalid_answers(),
            unreadable,
        }
    }
}

impl Deref for TaskQueue {
    type Target = Submitter;

    fn deref(&self) -> &Submitter {
        &self.submitter
    }
}

impl Drop for TaskQueue {
    fn drop(&mut self) {
        if self.owns_pool && self.parts.discards {
            self.pool().discard();
        }
        let own = is_own_thread(self.pool());
        // SAFETY: this is the only place where they are taken out, and nothing uses them after it.
        let parts = unsafe { ManuallyDrop::take(&mut self.parts) };
        end(parts, own);
    }
}

/// Drops parts of a queue; on another thread if this is one of the queue's own, which cannot wait for itself.
pub(crate) fn end(parts: impl Send + 'static, own: bool) {
    if !own {
        return drop(parts);
    }
    let ending = std::thread::Builder::new().name("queue-end".to_owned());
    // Without such a thread they are kept: dropped here, they would wait for this one.
    let parts = ManuallyDrop::new(parts);
    if let Err(error) = ending.spawn(move || drop(ManuallyDrop::into_inner(parts))) {
        log::error!("a queue is kept, as there is no thread to wait for its end: {error}");
    }
}

impl fmt::Debug for TaskQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskQueue")
            .field("device", self.device())
            .field("layout", self.parts.device.segment().layout())
            .field("handlers", self.pool().registry())
            .finish_non_exhaustive()
    }
}
