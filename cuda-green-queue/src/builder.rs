//! The builder of queues: their handlers and their numbers.

use std::sync::Arc;

use cuda_green::{CudaDevice, Driver};

use crate::{
    device_side::DeviceSide,
    error::{Error, Result},
    idle::IdlePolicy,
    layout::{Layout, LayoutRequest, within},
    pool::{Pool, PoolNumbers},
    queue::TaskQueue,
    queues::TaskQueues,
    registry::Registry,
    task::{HostTask, Task, TaskFailure},
    workers::Workers,
};

/// More threads than that are a mistake in units.
const MAX_WORKERS: u32 = 1024;

/// The handlers and numbers of a queue. What cannot be is an error of `build`.
#[derive(Debug)]
#[must_use]
pub struct TaskQueueBuilder {
    registry: Registry,
    /// The first handler that could not be added.
    refused: Option<Error>,
    request: LayoutRequest,
    workers: usize,
    polling_threads: u32,
    job_capacity: u32,
    cpu_depth: u32,
    idle: IdlePolicy,
}

impl Default for TaskQueueBuilder {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            registry: Registry::new(),
            refused: None,
            request: LayoutRequest::default(),
            workers: (cores / 2).clamp(1, 4),
            polling_threads: 1,
            job_capacity: 4096,
            cpu_depth: 1024,
            idle: IdlePolicy::default(),
        }
    }
}

impl TaskQueueBuilder {
    /// Adds a handler, which runs on the workers. A slow one delays no submission, and as many run at once as there are
    /// workers. It may block, submit, and wait for tasks that it submits, which run on its thread then if no worker has
    /// begun them. One that panics fails its task alone.
    pub fn handler<T: Task>(
        mut self,
        handler: impl Fn(T) -> Result<T::Output, TaskFailure> + Send + Sync + 'static,
    ) -> Self {
        let added = self.registry.add(false, handler);
        self.note(added)
    }

    /// Adds a handler for tasks that are answered in well under a microsecond: for kernels' tasks it runs on the polling
    /// thread, which saves the way to a worker. While it runs, no other task of the device is taken.
    pub fn inline_handler<T: Task>(
        mut self,
        handler: impl Fn(T) -> Result<T::Output, TaskFailure> + Send + Sync + 'static,
    ) -> Self {
        let added = self.registry.add(true, handler);
        self.note(added)
    }

    /// Adds a handler for tasks that only CPU code submits. They need not be plain data.
    pub fn host_handler<T: HostTask>(
        mut self,
        handler: impl Fn(T) -> Result<T::Output, TaskFailure> + Send + Sync + 'static,
    ) -> Self {
        let added = self.registry.add_host(handler);
        self.note(added)
    }

    fn note(mut self, added: Result<()>) -> Self {
        if let Err(error) = added {
            self.refused.get_or_insert(error);
        }
        self
    }

    /// Sets the number of lanes, 4 by default. Submissions of different lanes do not meet.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.request.lanes = lanes;
        self
    }

    /// Sets the number of priorities, 2 by default. Each lane has a ring for each. The most urgent, 0, gets up to 64
    /// tasks in a round, the next 32, and so on, and each at least one, so that none is starved.
    pub fn priorities(mut self, priorities: u32) -> Self {
        self.request.priorities = priorities;
        self
    }

    /// Sets the number of slots of each ring, 1,024 by default; rounded up to a power of two, 8 at least.
    pub fn depth(mut self, depth: u32) -> Self {
        self.request.depth = depth;
        self
    }

    /// Sets the length of the longest task of a kernel in bytes, 112 by default.
    pub fn payload_bytes(mut self, bytes: u32) -> Self {
        self.request.payload_bytes = bytes;
        self
    }

    /// Sets the length of the longest output for a kernel in bytes, 56 by default.
    pub fn output_bytes(mut self, bytes: u32) -> Self {
        self.request.output_bytes = bytes;
        self
    }

    /// Sets the number of answers that kernels can wait for at once, 16,384 by default; rounded up to a power of two.
    pub fn futures(mut self, futures: u32) -> Self {
        self.request.futures = futures;
        self
    }

    /// Sets the size of each GPU's pinned memory, 64 MiB by default.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.request.segment_bytes = bytes;
        self
    }

    /// Sets the number of workers, from 1 to 1,024; half of the cores by default, but at most 4.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the number of polling threads for each GPU, 1 by default. Each has lanes of its own, so that no more than
    /// there are lanes are started.
    pub fn polling_threads(mut self, threads: u32) -> Self {
        self.polling_threads = threads;
        self
    }

    /// Sets how many tasks of kernels can be with the workers at once, 4,096 by default. Beyond that, rings fill up, and
    /// priorities get jobs that become free by their weights.
    pub fn job_capacity(mut self, jobs: u32) -> Self {
        self.job_capacity = jobs;
        self
    }

    /// Sets how many tasks of CPU code can wait for a worker, for each priority and for each way, moving and copying:
    /// 1,024 by default, and 8 at least; for those that are copied, rounded up to a power of two.
    pub fn cpu_depth(mut self, depth: u32) -> Self {
        self.cpu_depth = depth;
        self
    }

    /// Sets how polling threads wait for tasks.
    pub fn idle(mut self, policy: IdlePolicy) -> Self {
        self.idle = policy;
        self
    }

    /// Makes a queue on a device.
    ///
    /// # Errors
    /// [`Error::InvalidHandler`] for two handlers of one method or type, and for tasks and outputs that do not fit;
    /// [`Error::InvalidLayout`] and [`Error::SegmentTooSmall`] for numbers that cannot be; [`Error::CudaGreen`] without
    /// memory; [`Error::Thread`].
    pub fn build(self, device: &CudaDevice) -> Result<TaskQueue> {
        let queue = self.start(std::slice::from_ref(device))?;
        let Started {
            workers,
            mut devices,
        } = queue;
        match devices.pop() {
            Some(device) => Ok(TaskQueue::new(device, workers, true)),
            None => Err(Error::Closed),
        }
    }

    /// Makes queues on these devices, with one pool of workers. No device is no error: tasks of CPU code are run.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_for(self, devices: &[CudaDevice]) -> Result<TaskQueues> {
        self.build_set(devices, "no device was given".to_owned())
    }

    /// Makes queues on all devices of a driver. None is no error.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_on(self, driver: &Driver) -> Result<TaskQueues> {
        let (devices, empty) = match all_devices(driver) {
            Ok(devices) => (devices, String::new()),
            Err(error @ cuda_green::Error::NoGpu { .. }) => (Vec::new(), error.to_string()),
            Err(error) => return Err(error.into()),
        };
        self.build_set(&devices, empty)
    }

    /// Makes queues on all devices of the process's driver. Neither a missing driver nor a missing GPU is an error; the
    /// set says so.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_visible(self) -> Result<TaskQueues> {
        match Driver::load() {
            Ok(driver) => self.build_on(&driver),
            Err(error @ (cuda_green::Error::Load { .. } | cuda_green::Error::NoGpu { .. })) => {
                self.build_set(&[], error.to_string())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn build_set(self, devices: &[CudaDevice], empty: String) -> Result<TaskQueues> {
        let Started { workers, devices } = self.start(devices)?;
        let queues = devices.into_iter();
        let queues = queues.map(|device| TaskQueue::new(device, workers.clone(), false));
        Ok(TaskQueues::new(queues.collect(), workers, empty))
    }

    fn start(self, devices: &[CudaDevice]) -> Result<Started> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let layout = Layout::new(&self.request)?;
        within("polling_threads", self.polling_threads, 1, u32::MAX)?;
        let workers = u32::try_from(self.workers).unwrap_or(u32::MAX);
        within("workers", workers, 1, MAX_WORKERS)?;
        self.registry
            .check(layout.payload_bytes(), layout.output_bytes())?;
        let pool = Arc::new(Pool::new(
            self.registry,
            PoolNumbers {
                priorities: layout.priorities,
                job_capacity: self.job_capacity,
                cpu_depth: self.cpu_depth,
            },
        )?);
        let workers = Arc::new(Workers::start(&pool, workers)?);
        let start = |device| {
            DeviceSide::start(
                &pool,
                device,
                layout,
                self.request.segment_bytes,
                self.polling_threads,
                self.idle,
            )
        };
        // After an error, those that were started end before the workers.
        let devices = devices.iter().map(start).collect::<Result<_>>()?;
        Ok(Started { devices, workers })
    }
}

/// The parts of a queue, in the order of their end.
struct Started {
    devices: Vec<DeviceSide>,
    workers: Arc<Workers>,
}

fn all_devices(driver: &Driver) -> cuda_green::Result<Vec<CudaDevice>> {
    (0..driver.device_count()?)
        .map(|ordinal| driver.device(ordinal))
        .collect()
}
