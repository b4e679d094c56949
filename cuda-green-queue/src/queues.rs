//! Queues on any number of devices, none included.

use std::{fmt, mem::ManuallyDrop, ops::Deref, sync::Arc};

use cuda_green::CudaDevice;

use crate::{
    error::Result,
    queue::{TaskQueue, end},
    stats::QueueStats,
    submitter::Submitter,
    workers::{Workers, is_own_thread},
};

/// Queues on any number of devices, with the same handlers and workers. It dereferences to a [`Submitter`], which works
/// without any GPU too.
///
/// ```
/// use cuda_green_queue::{HostTask, TaskQueues};
///
/// struct Greet(String);
///
/// impl HostTask for Greet {
///     type Output = String;
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queues = TaskQueues::builder()
///     .host_handler(|Greet(name)| Ok(format!("Hello, {name}")))
///     .build_for(&[])?;
/// assert!(queues.is_empty());
/// assert_eq!(queues.to_string(), "no queue for a GPU: no device was given");
/// assert_eq!(queues.submit(Greet("GPU".into()))?.wait()?, "Hello, GPU");
/// # Ok(())
/// # }
/// ```
pub struct TaskQueues {
    parts: ManuallyDrop<Parts>,
    submitter: Submitter,
    /// The reason why there is no queue, if there is none.
    empty: String,
}

struct Parts {
    queues: Vec<TaskQueue>,
    workers: Arc<Workers>,
    /// Whether the tasks that wait are answered as closed at the end.
    discards: bool,
}

impl TaskQueues {
    /// Returns a builder, as [`TaskQueue::builder`] does.
    pub fn builder() -> crate::TaskQueueBuilder {
        crate::TaskQueueBuilder::default()
    }

    pub(crate) fn new(queues: Vec<TaskQueue>, workers: Arc<Workers>, empty: String) -> Self {
        Self {
            submitter: Submitter::new(workers.pool()),
            parts: ManuallyDrop::new(Parts {
                queues,
                workers,
                discards: true,
            }),
            empty,
        }
    }

    /// Returns the queues, in the order of the devices.
    pub fn queues(&self) -> &[TaskQueue] {
        &self.parts.queues
    }

    /// Returns the number of queues.
    pub fn len(&self) -> usize {
        self.queues().len()
    }

    /// Returns whether there is no queue for a GPU. Tasks of CPU code are run all the same.
    pub fn is_empty(&self) -> bool {
        self.queues().is_empty()
    }

    /// Returns the reason why there is no queue for a GPU, if there is none.
    pub fn why_empty(&self) -> Option<&str> {
        self.is_empty().then_some(self.empty.as_str())
    }

    /// Returns the queue of a device, if it has one.
    pub fn queue_of(&self, device: &CudaDevice) -> Option<&TaskQueue> {
        self.queues().iter().find(|queue| queue.device() == device)
    }

    /// Returns the way in for tasks of CPU code, for threads that do not have the queues.
    pub fn submitter(&self) -> &Submitter {
        &self.submitter
    }

    /// Closes all queues, and takes no more tasks of CPU code. All that is accepted is run. Does not wait.
    pub fn close(&self) {
        for queue in self.queues() {
            queue.close();
        }
        self.parts.workers.pool().close();
    }

    /// Closes the queues, and waits for the end of the kernels that they were fenced on, and of all tasks. Returns the
    /// last figures.
    ///
    /// Called by a handler of the queues, it cannot wait, and lets another thread do so; the figures are those of now.
    ///
    /// # Errors
    /// As [`TaskQueue::shutdown`]; the first of several. The other queues end all the same.
    pub fn shutdown(mut self) -> Result<QueueStats> {
        self.close();
        self.parts.discards = false;
        self.parts.queues.iter_mut().for_each(TaskQueue::keep_tasks);
        if is_own_thread(self.parts.workers.pool()) {
            return Ok(self.stats());
        }
        let mut devices: Result<Vec<_>> = Ok(Vec::new());
        for queue in self.parts.queues.drain(..) {
            let ended = queue.shutdown();
            devices = devices.and_then(|mut devices| {
                devices.extend(ended?.devices);
                Ok(devices)
            });
        }
        // The workers run the rest; each queue held them, too.
        self.parts.workers.join();
        let devices = devices?;
        Ok(QueueStats {
            devices,
            ..QueueStats::of_pool(self.parts.workers.pool())
        })
    }

    /// Returns the figures of all queues.
    pub fn stats(&self) -> QueueStats {
        // Ends before beginnings: no snapshot has more of those.
        let pool = QueueStats::of_pool(self.parts.workers.pool());
        let queues = self.queues().iter();
        QueueStats {
            devices: queues.map(TaskQueue::device_stats).collect(),
            ..pool
        }
    }
}

impl Deref for TaskQueues {
    type Target = Submitter;

    fn deref(&self) -> &Submitter {
        &self.submitter
    }
}

impl Drop for TaskQueues {
    fn drop(&mut self) {
        let pool = self.parts.workers.pool();
        if self.parts.discards {
            pool.discard();
        }
        // All of them, before any is waited for: a kernel of one may wait for a kernel of another.
        for queue in &self.parts.queues {
            queue.begin_end(self.parts.discards);
        }
        let own = is_own_thread(pool);
        // SAFETY: this is the only place where they are taken out, and nothing uses them after it.
        let parts = unsafe { ManuallyDrop::take(&mut self.parts) };
        end(parts, own);
    }
}

impl fmt::Display for TaskQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = self.why_empty() {
            return write!(f, "no queue for a GPU: {reason}");
        }
        f.write_str("queues on")?;
        for (number, queue) in self.queues().iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            let device = queue.device();
            write!(f, "{comma} GPU {} ({})", device.ordinal(), device.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for TaskQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.queues()).finish()
    }
}
