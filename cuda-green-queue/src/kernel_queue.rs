//! Tasks from kernels to a resident kernel, through device memory.

use std::fmt;

use cuda_green::{CudaDevice, Kernel, KernelArg, LaunchConfig, Stream};

use crate::{
    error::Result,
    layout::{CLOSE, DeviceInbox, DeviceQueue, FINISH, LEAVE, Layout},
    resident::{Inbox, InboxBuilder, Kind},
};

/// A queue of tasks from kernels of one partition to a *resident* kernel of another on the same device. Tasks and answers
/// go through device memory, and the CPU has no part in it but to say when the resident kernel ends.
///
/// Kernels submit through [`device_queue`](Self::device_queue), as they do to a [`TaskQueue`](crate::TaskQueue). Block
/// `b` of the resident kernel takes the tasks of lane `b` through [`device_inbox`](Self::device_inbox), as from a
/// [`ResidentQueue`](crate::ResidentQueue). It gives way when it is told to, by [`leave`](Self::leave) or
/// [`finish`](Self::finish); the next launch goes on where it stopped, and may be in another partition's stream.
///
/// While no kernel is resident, tasks wait, and rings fill up; calls that wait for an answer end by their deadlines.
///
/// # Its end
/// - [`shutdown`](Self::shutdown) lets the resident kernel close the rings, and waits until it has done what is in them and
///   has returned.
/// - Dropped, the queue lets the resident kernel leave before it takes another task.
///
/// Either way kernels' submissions get `Closed` from then on, but for at most as many as a ring has slots, which were
/// granted before. Calls for which no task was begun are answered as `Closed`, so that whoever waits comes back, within
/// about a millisecond; how many tasks were never begun is logged. The queue waits for all work on whose streams it was
/// fenced: by [`launch`](Self::launch), or by [`fence_on`](Self::fence_on) after the launch of a kernel that submits.
///
/// ```
/// use cuda_green_queue::KernelQueue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let device = cuda_green::Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let queue = KernelQueue::builder().lanes(16).build(&device)?;
/// let _of_the_resident_kernel = queue.device_inbox();
/// let _of_others = queue.device_queue();
/// queue.shutdown()?;
/// # Ok(())
/// # }
/// ```
pub struct KernelQueue {
    inbox: Inbox,
}

impl KernelQueue {
    /// Returns a builder with the numbers that most queues have.
    pub fn builder() -> InboxBuilder<Self> {
        InboxBuilder::new(112)
    }

    pub(crate) fn new(device: &CudaDevice, layout: Layout) -> Result<Self> {
        Ok(Self {
            inbox: Inbox::new(device, layout, Kind::FromKernels)?,
        })
    }

    /// Returns the queue as an argument of kernels that submit. Fence it on their streams.
    pub fn device_queue(&self) -> DeviceQueue {
        self.inbox.queue()
    }

    /// Returns the queue as an argument of the resident kernel.
    pub fn device_inbox(&self) -> DeviceInbox {
        self.inbox.argument()
    }

    /// Returns the queue's device.
    pub fn device(&self) -> &CudaDevice {
        self.inbox.device()
    }

    /// Launches the resident kernel, and fences the queue on the stream, so that its memory outlives the kernel. The
    /// kernel goes on where the one before stopped. Does not wait.
    ///
    /// # Errors
    /// As [`ResidentQueue::launch`](crate::ResidentQueue::launch).
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
        unsafe { self.inbox.launch(stream, kernel, config, args) }
    }

    /// Fences the queue on a stream: its memory outlives the work that is in the stream now, such as kernels that
    /// submit. Does not wait.
    ///
    /// # Errors
    /// [`Error::CudaGreen`](crate::Error::CudaGreen): as
    /// [`PinnedBuffer::fence_on`](cuda_green::PinnedBuffer::fence_on).
    pub fn fence_on(&self, stream: &Stream) -> Result<()> {
        self.inbox.fence_on(stream)
    }

    /// Tells the resident kernel to return before it takes another task. Does not wait.
    pub fn leave(&self) {
        self.inbox.command(LEAVE);
    }

    /// Tells the resident kernel to return as soon as it finds no task. Does not wait.
    pub fn finish(&self) {
        self.inbox.command(FINISH);
    }

    /// Waits until the kernel that was launched last has returned. It does so after [`leave`](Self::leave) or
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Error::CudaGreen`](crate::Error::CudaGreen).
    pub fn wait(&self) -> Result<()> {
        self.inbox.wait()
    }

    /// Closes the queue, lets the resident kernel do the tasks that it finds, and waits until it has returned, and for the
    /// work on which the queue was fenced. What kernels submit after that, nobody does: it is answered as closed.
    ///
    /// # Errors
    /// [`Error::CudaGreen`](crate::Error::CudaGreen) if the end of the kernels cannot be known, since the device is lost.
    pub fn shutdown(self) -> Result<()> {
        self.inbox.end(CLOSE)
    }
}

impl Drop for KernelQueue {
    fn drop(&mut self) {
        if !self.inbox.is_open() {
            return;
        }
        if let Err(error) = self.inbox.end(LEAVE) {
            log::error!("a queue ended without waiting for its kernels: {error}");
        }
    }
}

impl fmt::Debug for KernelQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelQueue")
            .field("device", self.device())
            .field("layout", self.inbox.layout())
            .finish_non_exhaustive()
    }
}
