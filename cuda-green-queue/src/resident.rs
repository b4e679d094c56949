//! Tasks from CPU code to a resident kernel.

mod builder;
mod closing;
mod future;
mod memory;
mod rings;
mod stats;
mod submit;
mod watcher;

use std::{fmt, sync::Arc};

use cuda_green::{CudaDevice, Kernel, KernelArg, LaunchConfig, Stream};

pub use builder::InboxBuilder;
pub use future::ResidentFuture;
pub(crate) use memory::{Inbox, Kind};
pub use stats::{ResidentRingStats, ResidentStats};

use crate::{
    error::Result,
    layout::{DeviceInbox, FINISH, LEAVE, Layout},
    numa::Placement,
    task::{SubmitError, Task},
};
use rings::InboxRings;

/// A queue of tasks from CPU code to a *resident* kernel: one that runs on in a partition and takes tasks, so that work
/// begins there without a launch.
///
/// Block `b` of the kernel takes the tasks of lane `b`, so launch as many blocks as there are lanes, and no more than can
/// be resident at once. The kernel gives way when it is told to: by [`leave`](Self::leave) after the tasks that it has
/// taken, or by [`finish`](Self::finish) after all. What it left waits for the next launch, which may be in another
/// partition's stream.
///
/// # Its end
/// - [`shutdown`](Self::shutdown) takes no more tasks, and waits until the kernel has done all tasks and returned.
/// - Dropped, the queue lets the kernel leave, and waits for it.
///
/// A future whose task was not done by then ends with [`TaskError::Closed`](crate::TaskError::Closed), and the number of
/// tasks that no kernel began is logged. The memory lives until the end of the work on which the queue was fenced, and as
/// long as its futures.
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// use cuda_green_queue::{ResidentQueue, Task};
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
/// # let device = cuda_green::Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let queue = ResidentQueue::builder().lanes(8).build(&device)?;
/// let _argument = queue.device_inbox(); // of the resident kernel, for `launch`
/// let future = queue.try_submit(Square(5))?;
/// drop(queue); // no kernel took it
/// assert_eq!(future.wait(), Err(cuda_green_queue::TaskError::Closed));
/// # Ok(())
/// # }
/// ```
pub struct ResidentQueue {
    rings: Arc<InboxRings>,
}

impl ResidentQueue {
    /// Returns a builder with the numbers that most queues have.
    pub fn builder() -> InboxBuilder<Self> {
        InboxBuilder::new(52)
    }

    pub(crate) fn new(device: &CudaDevice, layout: Layout) -> Result<Self> {
        let inbox = Inbox::new(device, layout, Kind::FromCpu)?;
        Ok(Self {
            rings: Arc::new(InboxRings::new(inbox)),
        })
    }

    fn inbox(&self) -> &Inbox {
        self.rings.inbox()
    }

    /// Returns the queue as an argument of the resident kernel.
    pub fn device_inbox(&self) -> DeviceInbox {
        self.inbox().argument()
    }

    /// Returns the queue's device.
    pub fn device(&self) -> &CudaDevice {
        self.inbox().device()
    }

    /// Returns the NUMA nodes of the GPU and of the queue's memory.
    pub fn placement(&self) -> &Placement {
        self.inbox().placement()
    }

    /// Launches the resident kernel, and fences the queue on the stream, so that its memory outlives the kernel. The
    /// kernel goes on where the one before stopped. Does not wait.
    ///
    /// # Errors
    /// [`Error::InvalidLaunch`](crate::Error::InvalidLaunch) with fewer blocks than lanes, or fewer than 32 threads a block;
    /// [`Error::Resident`](crate::Error::Resident) while the kernel of an earlier launch runs;
    /// [`Error::Closed`](crate::Error::Closed); those of [`Stream::launch`] and
    /// [`PinnedBuffer::fence_on`](cuda_green::PinnedBuffer::fence_on). If the last fence fails, the kernel was launched.
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
        // SAFETY: the caller makes the same promise.
        unsafe { self.inbox().launch(stream, kernel, config, args) }
    }

    /// Tells the resident kernel to return before it takes another task. Does not wait.
    pub fn leave(&self) {
        self.inbox().command(LEAVE);
    }

    /// Tells the resident kernel to return as soon as all tasks that were submitted before this call are done and it
    /// finds no others. Waits for nothing but other threads that are in the middle of a submission.
    pub fn finish(&self) {
        self.rings.wait_for_commits();
        self.inbox().command(FINISH);
    }

    /// Waits until the kernel that was launched last has returned. It does so after [`leave`](Self::leave) or
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Error::CudaGreen`](crate::Error::CudaGreen).
    pub fn wait(&self) -> Result<()> {
        self.inbox().wait()
    }

    /// Submits a task to the lanes in turn, with the highest priority.
    ///
    /// # Errors
    /// As [`try_submit_to`](Self::try_submit_to).
    pub fn try_submit<T: Task>(
        &self,
        task: T,
    ) -> Result<ResidentFuture<T::Output>, SubmitError<T>> {
        self.try_submit_to(self.rings.next_lane(), 0, task)
    }

    /// Submits a task to a lane, with a priority from 0, the most urgent. It waits there if no kernel is resident.
    ///
    /// # Errors
    /// [`SubmitError`] with the task: [`Full`](SubmitError::Full) if there is no slot or no entry for the answer,
    /// [`Closed`](SubmitError::Closed), [`NoSuchRing`](SubmitError::NoSuchRing), [`TooLarge`](SubmitError::TooLarge), and
    /// [`ReservedMethod`](SubmitError::ReservedMethod).
    pub fn try_submit_to<T: Task>(
        &self,
        lane: u32,
        priority: u32,
        task: T,
    ) -> Result<ResidentFuture<T::Output>, SubmitError<T>> {
        match InboxRings::submit(&self.rings, lane, priority, &task) {
            Ok(call) => Ok(ResidentFuture::new(&self.rings, call)),
            Err(refusal) => Err(refusal.of(task)),
        }
    }

    /// Takes no more tasks, lets the kernel do those that were accepted, and waits until it has returned. If no kernel
    /// is resident, nobody does them.
    ///
    /// # Errors
    /// [`Error::CudaGreen`](crate::Error::CudaGreen) if the end of the kernel cannot be known, since the device is lost.
    pub fn shutdown(self) -> Result<()> {
        self.rings.end(FINISH)
    }
}

impl Drop for ResidentQueue {
    fn drop(&mut self) {
        if let Err(error) = self.rings.end(LEAVE) {
            log::error!("a queue ended without waiting for its resident kernel: {error}");
        }
    }
}

impl fmt::Debug for ResidentQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResidentQueue")
            .field("device", self.device())
            .field("layout", self.inbox().layout())
            .finish_non_exhaustive()
    }
}
