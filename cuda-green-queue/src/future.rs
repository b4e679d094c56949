//! Futures of tasks that CPU code submits.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    completion::{Completion, Waiter},
    jobs::Run,
    task::TaskError,
    workers::{self, Help},
};

/// Looks at a result before a thread that waits for it goes to sleep: some microseconds.
const LOOKS: u32 = 2_000;
/// How long a worker that waits sleeps before it looks for other tasks again.
const WORKERS_NAP: Duration = Duration::from_micros(200);

/// The object that holds a future's result.
pub(crate) trait Place<O>: Send + Sync {
    fn completion(&self) -> &Completion<O>;

    /// Returns the task, if this thread may run it and nobody has begun to.
    fn runnable(&self) -> Option<&dyn Run> {
        None
    }

    /// Returns whether the task lies in a ring, where others are before it.
    fn is_copied(&self) -> bool {
        false
    }
}

/// The output of a task that was submitted: a [`Future`] for any runtime, and a value that a thread can wait for.
///
/// Dropping it is no harm: the task is run all the same.
#[must_use = "drop it on purpose if the output is not needed"]
pub struct TaskFuture<O> {
    place: Arc<dyn Place<O>>,
}

impl<O> TaskFuture<O> {
    /// Makes the only future of a place.
    pub(crate) fn new(place: Arc<dyn Place<O>>) -> Self {
        Self { place }
    }

    /// Returns whether the task has ended.
    pub fn is_done(&self) -> bool {
        self.place.completion().is_done()
    }

    /// Returns the output if the task has ended.
    ///
    /// # Errors
    /// [`TaskError`]; [`TaskError::Taken`] if it was returned before.
    pub fn try_take(&mut self) -> Option<Result<O, TaskError>> {
        // SAFETY: a place has one future, which is borrowed mutably here.
        unsafe { self.place.completion().take() }
    }

    /// Waits for the output. Called by a handler on a worker, it runs the task itself if no other worker has begun it,
    /// and other tasks while it waits, so that handlers can wait for tasks that they submit, whatever the number of
    /// workers.
    ///
    /// # Errors
    /// [`TaskError`]; [`TaskError::TooDeep`] where 32 handlers wait like that on one thread, each for the sake of the one
    /// before. The task is run all the same.
    pub fn wait(mut self) -> Result<O, TaskError> {
        match self.wait_until(None) {
            Some(result) => result,
            None => Err(TaskError::TooDeep),
        }
    }

    /// Waits for the output, at most this long; `None` after that. A handler on a worker runs other tasks meanwhile, and
    /// may wait for the end of one of them.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<O, TaskError>> {
        // A time that the clock cannot have does not come.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Returns `None` if the deadline passed, or if this thread waits in too many handlers already and there is none.
    fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<O, TaskError>> {
        // On a worker, the shortest way is to run the task.
        if let Some(task) = self.place.runnable() {
            workers::run_here(task);
        }
        for _ in 0..LOOKS {
            if let Some(result) = self.try_take() {
                return Some(result);
            }
            std::hint::spin_loop();
        }
        loop {
            if let Some(result) = self.try_take() {
                return Some(result);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            let short = Some(left.unwrap_or(WORKERS_NAP).min(WORKERS_NAP));
            let nap = match workers::help(self.place.is_copied()) {
                Help::Ran => continue,
                Help::Nothing => short,
                Help::NotAWorker => left,
                // A task that moves and that has been begun runs on some thread, which gets on by itself.
                Help::TooDeep if !self.place.is_copied() && self.place.runnable().is_none() => {
                    short
                }
                Help::TooDeep if deadline.is_none() => return None,
                Help::TooDeep => short,
            };
            let waiter = Waiter::Thread(std::thread::current());
            if self.place.completion().wake_later(waiter) {
                match nap {
                    Some(nap) => std::thread::park_timeout(nap),
                    None => std::thread::park(),
                }
            }
        }
    }
}

impl<O> Future for TaskFuture<O> {
    type Output = Result<O, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_take() {
            return Poll::Ready(result);
        }
        let waiter = Waiter::Task(context.waker().clone());
        if self.place.completion().wake_later(waiter) {
            return Poll::Pending;
        }
        match self.try_take() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

impl<O> fmt::Debug for TaskFuture<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFuture")
            .field("is_done", &self.is_done())
            .finish_non_exhaustive()
    }
}
