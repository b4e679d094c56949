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
    workers::run_here,
};

/// Looks at a result before a thread that waits for it goes to sleep: some microseconds.
const LOOKS: u32 = 2_000;

/// The object that holds a future's result.
pub(crate) trait Place<O>: Send + Sync {
    fn completion(&self) -> &Completion<O>;

    /// Returns the task, if this thread may run it and nobody has begun to.
    fn runnable(&self) -> Option<&dyn Run> {
        None
    }
}

/// The output of a task that was submitted: a [`Future`] for any runtime, and a value that a thread can wait for.
///
/// Dropping it is no harm: the task is run all the same. A handler on a worker takes the output by [`wait`](Self::wait),
/// which runs the task if need be; to await it there by a runtime's `block_on` needs another worker.
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

    /// Waits for the output. Called by a handler on a worker, it runs the task itself if no other worker has begun it, so
    /// that handlers can wait for tasks that they submit, whatever the number of workers. It runs no other task meanwhile.
    ///
    /// A handler that holds a lock which the awaited task takes waits for itself, as with any function that it calls.
    /// Handlers of two queues that wait for each other need more workers than handlers that wait.
    ///
    /// # Errors
    /// [`TaskError`]; [`TaskError::TooDeep`] where 32 handlers wait like that on one thread, each for the task that is the
    /// next. The task is run all the same.
    pub fn wait(mut self) -> Result<O, TaskError> {
        self.wait_without_end()
    }

    fn wait_without_end(&mut self) -> Result<O, TaskError> {
        self.wait_until(None).unwrap_or(Err(TaskError::TooDeep))
    }

    /// Waits for the output, at most this long; `None` after that. A handler on a worker runs the task itself, as by
    /// [`wait`](Self::wait), and that may take longer.
    ///
    /// # Errors
    /// [`TaskError`]; [`TaskError::TooDeep`] as [`wait`](Self::wait), where the clock has no such time.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<O, TaskError>> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.wait_until(Some(deadline)),
            // A time that the clock cannot have does not come.
            None => Some(self.wait_without_end()),
        }
    }

    /// Returns `None` if the deadline passed, or if there is none and this thread waits in too many handlers already.
    fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<O, TaskError>> {
        // On a worker, the shortest way is to run the task.
        let may_wait = self.place.runnable().is_none_or(run_here) || deadline.is_some();
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
            if !may_wait && self.place.runnable().is_some() {
                return None;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            let waiter = Waiter::Thread(std::thread::current());
            if self.place.completion().wake_later(waiter) {
                match left {
                    Some(left) => std::thread::park_timeout(left),
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
