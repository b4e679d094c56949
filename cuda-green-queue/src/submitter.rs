//! Submissions by CPU code.

use std::{cell::Cell, fmt, sync::Arc, time::Duration, time::Instant};

use crate::{
    counters::is_timed,
    future::{Place, TaskFuture},
    host_rings::Submitted,
    jobs::{CopyPlace, Decode, PointerJob, Reply},
    pool::Pool,
    stats::QueueStats,
    task::{HostTask, SubmitError, Task},
    workers::{self, Help},
};

/// Tries before a thread that waits for room sleeps between two of them.
const TRIES: u32 = 200;
/// How long it sleeps.
const NAP: Duration = Duration::from_micros(20);

/// The way in for tasks of CPU code. Cheap to clone; it may outlive its queue, which is closed then.
///
/// There are two ways, with the same handlers: a task *moves* ([`submit_pointer`](Self::submit_pointer)), or its bytes
/// are *copied* into a ring by the protocol of the kernels ([`submit_copy`](Self::submit_copy)).
/// [`submit`](Self::submit) picks: since this process shares its memory with the workers, it moves the task.
///
/// Handlers submit, too: a thread of the pool finds its own by [`Submitter::current`].
#[derive(Clone)]
pub struct Submitter {
    pool: Arc<Pool>,
    priority: u32,
}

impl Submitter {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self {
            pool: pool.clone(),
            priority: 0,
        }
    }

    /// Returns that of the pool whose worker this thread is, for a handler that submits.
    pub fn current() -> Option<Self> {
        workers::current_pool().map(|pool| Self { pool, priority: 0 })
    }

    /// Returns one for tasks of another priority, from 0, the most urgent; the least urgent one if there are not as
    /// many.
    #[must_use]
    pub fn with_priority(&self, priority: u32) -> Self {
        Self {
            pool: self.pool.clone(),
            priority: priority.min(self.pool.priorities().saturating_sub(1)),
        }
    }

    /// Submits a task, and waits for room if there is none.
    ///
    /// # Errors
    /// As [`submit_pointer`](Self::submit_pointer).
    pub fn submit<T: HostTask>(&self, task: T) -> Result<TaskFuture<T::Output>, SubmitError<T>> {
        self.submit_pointer(task)
    }

    /// Submits a task if there is room.
    ///
    /// # Errors
    /// As [`try_submit_pointer`](Self::try_submit_pointer).
    pub fn try_submit<T: HostTask>(
        &self,
        task: T,
    ) -> Result<TaskFuture<T::Output>, SubmitError<T>> {
        self.try_submit_pointer(task)
    }

    /// Submits a task by moving it, and waits for room if there is none. A handler on a worker runs other tasks
    /// meanwhile.
    ///
    /// # Errors
    /// [`SubmitError`] with the task: the queue is closed, or there is no handler; full only within handlers that wait
    /// for each other too deeply.
    pub fn submit_pointer<T: HostTask>(
        &self,
        task: T,
    ) -> Result<TaskFuture<T::Output>, SubmitError<T>> {
        self.with_room(task, |task| self.try_submit_pointer(task))
    }

    /// Submits a task by moving it, if there is room. One allocation holds the task and its output.
    ///
    /// # Errors
    /// [`SubmitError`] with the task: there is no room, the queue is closed, or there is no handler.
    #[inline]
    pub fn try_submit_pointer<T: HostTask>(
        &self,
        task: T,
    ) -> Result<TaskFuture<T::Output>, SubmitError<T>> {
        let Some(method) = self.pool.registry().find_type::<T>() else {
            return Err(SubmitError::NoHandler(task));
        };
        if !self.pool.is_open() {
            return Err(SubmitError::Closed(task));
        }
        let submitted = is_this_timed().then(Instant::now);
        let (job, place) = PointerJob::new(task, self.pool.id(), method, submitted);
        if let Err(job) = self.pool.push_pointer(self.priority, job) {
            let task = PointerJob::take_back(&place);
            drop(job);
            if let Some(task) = task {
                return Err(SubmitError::Full(task));
            }
        }
        Ok(TaskFuture::new(place))
    }

    /// Submits a task by copying its bytes, and waits for room if there is none. A handler on a worker runs other tasks
    /// meanwhile.
    ///
    /// # Errors
    /// As [`submit_pointer`](Self::submit_pointer).
    pub fn submit_copy<T: Task>(
        &self,
        task: T,
    ) -> Result<TaskFuture<<T as Task>::Output>, SubmitError<T>> {
        self.with_room(task, |task| self.try_submit_copy(task))
    }

    /// Submits a task by copying its bytes into a ring, if there is room, as a kernel does. The output is copied, too.
    ///
    /// # Errors
    /// As [`try_submit_pointer`](Self::try_submit_pointer).
    pub fn try_submit_copy<T: Task>(
        &self,
        task: T,
    ) -> Result<TaskFuture<<T as Task>::Output>, SubmitError<T>> {
        if self.pool.registry().find_type::<T>().is_none() {
            return Err(SubmitError::NoHandler(task));
        }
        if !self.pool.is_open() {
            return Err(SubmitError::Closed(task));
        }
        let place = Arc::new(CopyPlace::default());
        let reply = Reply::host(place.clone() as Arc<dyn Decode>);
        let submitted = self.pool.host().submit(
            self.priority,
            T::METHOD,
            bytemuck::bytes_of(&task),
            Some(reply),
        );
        match submitted {
            Submitted::Accepted => {
                self.pool.after_submission();
                Ok(TaskFuture::new(place as Arc<dyn Place<_>>))
            }
            Submitted::Full => Err(SubmitError::Full(task)),
            Submitted::Closed => Err(SubmitError::Closed(task)),
        }
    }

    /// Returns the figures of the pool: those of handlers and of CPU code's submissions, without any device.
    pub fn stats(&self) -> QueueStats {
        QueueStats::of_pool(&self.pool)
    }

    /// Tries until there is room.
    fn with_room<T, F>(
        &self,
        mut task: T,
        submit: impl Fn(T) -> Result<F, SubmitError<T>>,
    ) -> Result<F, SubmitError<T>> {
        let mut tries = 0;
        loop {
            task = match submit(task) {
                Err(SubmitError::Full(task)) => task,
                result => return result,
            };
            match workers::help(false) {
                Help::Ran => continue,
                Help::TooDeep => return Err(SubmitError::Full(task)),
                Help::Nothing | Help::NotAWorker => {}
            }
            tries += 1;
            if tries < TRIES {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(NAP);
            }
        }
    }
}

/// Returns whether the times of the next task that this thread submits are measured.
#[inline]
fn is_this_timed() -> bool {
    thread_local! {
        static SUBMITTED: Cell<u64> = const { Cell::new(0) };
    }
    SUBMITTED
        .try_with(|submitted| {
            let before = submitted.get();
            submitted.set(before.wrapping_add(1));
            is_timed(before)
        })
        .unwrap_or(false)
}

impl fmt::Debug for Submitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter")
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}
