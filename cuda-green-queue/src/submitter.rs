//! Submissions by CPU code.

use std::{cell::Cell, fmt, sync::Arc, time::Duration, time::Instant};

use crate::{
    counters::is_timed,
    future::TaskFuture,
    host_rings::Submitted,
    jobs::{CpuTask, PointerJob, Reply},
    pool::Pool,
    stats::QueueStats,
    task::{HostTask, SubmitError, Task},
    workers,
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

    /// Submits a task by moving it, and waits for room if there is none. On the queue's own threads it does not wait: the
    /// task of a handler goes to a list that grows, since a handler that waits for room could wait for itself.
    ///
    /// # Errors
    /// [`SubmitError`] with the task: the queue is closed, or there is no handler.
    pub fn submit_pointer<T: HostTask>(
        &self,
        task: T,
    ) -> Result<TaskFuture<T::Output>, SubmitError<T>> {
        self.with_room(task, |task, room| self.move_in(task, room))
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
        let submitted = self.move_in(task, Room::Bounded);
        if let Err(SubmitError::Full(_)) = submitted {
            self.pool.pointers().refuse();
        }
        submitted
    }

    #[inline]
    fn move_in<T: HostTask>(
        &self,
        task: T,
        room: Room,
    ) -> Result<TaskFuture<T::Output>, SubmitError<T>> {
        let Some(method) = self.pool.registry().find_type::<T>() else {
            return Err(SubmitError::NoHandler(task));
        };
        // In this order: see `Pool::is_idle`.
        self.pool.pointers().count();
        if !self.pool.is_open() {
            self.pool.pointers().uncount();
            return Err(SubmitError::Closed(task));
        }
        let submitted = is_this_timed().then(Instant::now);
        let place = CpuTask::new(task, self.pool.id(), method, submitted);
        let job = PointerJob::new(place.clone());
        let Err(job) = self.pool.push_pointer(self.priority, job) else {
            return Ok(TaskFuture::new(place));
        };
        if let Room::Grows = room {
            self.pool.spill(self.priority, job);
            return Ok(TaskFuture::new(place));
        }
        self.pool.pointers().uncount();
        match place.claim() {
            Some(task) => Err(SubmitError::Full(task)),
            // Nobody else has the place.
            None => Ok(TaskFuture::new(place)),
        }
    }

    /// Submits a task by copying its bytes, and waits for room if there is none. On the queue's own threads it does not
    /// wait, as [`submit_pointer`](Self::submit_pointer) does not; without room, the task moves.
    ///
    /// # Errors
    /// As [`try_submit_copy`](Self::try_submit_copy), but for [`SubmitError::Full`].
    pub fn submit_copy<T: Task>(
        &self,
        task: T,
    ) -> Result<TaskFuture<<T as Task>::Output>, SubmitError<T>> {
        self.with_room(task, |task, room| self.copy_in(task, room))
    }

    /// Submits a task by copying its bytes into a ring, if there is room, as a kernel does. The output is copied, too. A
    /// handler that waits for the task may run it before its copy is found.
    ///
    /// # Errors
    /// As [`try_submit_pointer`](Self::try_submit_pointer); [`SubmitError::OnlyMoves`] for a type whose handler was added
    /// by [`host_handler`](crate::TaskQueueBuilder::host_handler).
    pub fn try_submit_copy<T: Task>(
        &self,
        task: T,
    ) -> Result<TaskFuture<<T as Task>::Output>, SubmitError<T>> {
        let submitted = self.copy_in(task, Room::Bounded);
        if let Err(SubmitError::Full(_)) = submitted {
            self.pool.copies().refuse();
        }
        submitted
    }

    fn copy_in<T: Task>(
        &self,
        task: T,
        room: Room,
    ) -> Result<TaskFuture<<T as Task>::Output>, SubmitError<T>> {
        let Some(method) = self.pool.registry().find_type::<T>() else {
            return Err(SubmitError::NoHandler(task));
        };
        // The number may have a handler of another type.
        if self.pool.registry().find(T::METHOD) != Some(method) {
            return Err(SubmitError::OnlyMoves(task));
        }
        // In this order: see `Pool::is_idle`.
        self.pool.copies().count();
        if !self.pool.is_open() {
            self.pool.copies().uncount();
            return Err(SubmitError::Closed(task));
        }
        let place = CpuTask::new(task, self.pool.id(), method, None);
        let submitted = self.pool.host().submit(
            self.priority,
            T::METHOD,
            bytemuck::bytes_of(&task),
            Reply::host(place.clone()),
        );
        match (submitted, room) {
            (Submitted::Accepted, _) => {
                self.pool.after_submission();
                return Ok(TaskFuture::new(place));
            }
            (Submitted::Full, Room::Grows) => {
                self.pool
                    .spill(self.priority, PointerJob::new(place.clone()));
                return Ok(TaskFuture::new(place));
            }
            (Submitted::Full | Submitted::Closed, _) => self.pool.copies().uncount(),
        }
        Err(match submitted {
            Submitted::Closed => SubmitError::Closed(task),
            _ => SubmitError::Full(task),
        })
    }

    /// Returns the figures of the pool: those of handlers and of CPU code's submissions, without any device.
    pub fn stats(&self) -> QueueStats {
        QueueStats::of_pool(&self.pool)
    }

    /// Tries until there is room.
    fn with_room<T, F>(
        &self,
        mut task: T,
        submit: impl Fn(T, Room) -> Result<F, SubmitError<T>>,
    ) -> Result<F, SubmitError<T>> {
        let mut tries = 0;
        loop {
            task = match submit(task, Room::Bounded) {
                Err(SubmitError::Full(task)) => task,
                result => return result,
            };
            if workers::is_own_thread(&self.pool) {
                return submit(task, Room::Grows);
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

/// How many tasks may wait for a worker.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// As many as the queue was made for.
    Bounded,
    /// Any number: beyond the bound, tasks wait in a list.
    Grows,
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
