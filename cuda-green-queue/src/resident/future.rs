//! Futures of tasks to a resident kernel.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytemuck::Pod;

use super::{rings::InboxRings, watcher::Watcher};
use crate::{
    layout::status,
    protocol::{Answer, Call},
    task::{TaskError, TaskFailure},
};

/// Looks at an answer before a thread that waits yields between two of them: some 20 us.
const SPINS: u32 = 20_000;
/// Looks before it sleeps between two of them.
const YIELDS: u32 = SPINS + 2_000;
const NAP: Duration = Duration::from_micros(50);

/// The output of a task to a resident kernel: a [`Future`] for any runtime, and a value that a thread can wait for.
///
/// The kernel writes its answer into memory, and nothing tells the CPU: [`wait`](Self::wait) looks itself, for the least
/// latency. Awaited, a thread of the queue looks, which begins with the first such future and sleeps while there is none.
///
/// Dropping it is no harm: the task is done all the same.
#[must_use = "drop it on purpose if the output is not needed"]
pub struct ResidentFuture<O> {
    rings: Arc<InboxRings>,
    call: Call,
    state: State,
    output: PhantomData<fn() -> O>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// The watcher looks for the answer.
    Watched,
    /// The result was returned.
    Taken {
        answered: bool,
    },
}

impl<O> ResidentFuture<O> {
    pub(super) fn new(rings: &Arc<InboxRings>, call: Call) -> Self {
        Self {
            rings: rings.clone(),
            call,
            state: State::Waiting,
            output: PhantomData,
        }
    }
}

impl<O: Pod> ResidentFuture<O> {
    /// Returns whether the task has ended.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Taken { .. }) || self.rings.is_over(self.call)
    }

    /// Returns the output if the task has ended.
    ///
    /// # Errors
    /// [`TaskError`]; [`TaskError::Taken`] if it was returned before.
    pub fn try_take(&mut self) -> Option<Result<O, TaskError>> {
        if matches!(self.state, State::Taken { .. }) {
            return Some(Err(TaskError::Taken));
        }
        // Before the look at the answer, which may be the last thing that a kernel wrote.
        let ended = self.rings.has_ended();
        let mut output = O::zeroed();
        let answer = self
            .rings
            .poll(self.call, bytemuck::bytes_of_mut(&mut output));
        let result = match answer {
            Some(answer) => self.result_of(answer, output),
            None if ended => Err(TaskError::Closed),
            None => return None,
        };
        self.stop_watching();
        self.state = State::Taken {
            answered: answer.is_some(),
        };
        Some(result)
    }

    fn result_of(&self, answer: Answer, output: O) -> Result<O, TaskError> {
        match answer.status {
            status::DONE if answer.length as usize == size_of::<O>() => Ok(output),
            status::FAILED => {
                let mut code = [0; 4];
                let _ = self.rings.poll(self.call, &mut code);
                Err(TaskFailure(u32::from_le_bytes(code)).into())
            }
            status::PANICKED => Err(TaskError::Panicked),
            status::UNKNOWN_METHOD => Err(TaskError::UnknownMethod),
            status::BAD_PAYLOAD => Err(TaskError::BadPayload),
            status::CLOSED => Err(TaskError::Closed),
            _ => Err(TaskError::BadOutput),
        }
    }

    /// Waits for the output: as long as no kernel takes the task and the queue lives.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn wait(mut self) -> Result<O, TaskError> {
        loop {
            // Without a deadline there is a result in the end.
            if let Some(result) = self.wait_until(None) {
                return result;
            }
        }
    }

    /// Waits for the output, at most this long; `None` after that.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<O, TaskError>> {
        // A time that the clock cannot have does not come.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<O, TaskError>> {
        let mut looks = 0;
        loop {
            if let Some(result) = self.try_take() {
                return Some(result);
            }
            // The clock is slower than a look.
            if looks % 64 == 0 || looks > SPINS {
                let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
                if left == Some(Duration::ZERO) {
                    return None;
                }
                if looks > YIELDS {
                    thread::sleep(left.map_or(NAP, |left| left.min(NAP)));
                } else if looks > SPINS {
                    thread::yield_now();
                }
            }
            std::hint::spin_loop();
            looks = (looks + 1).min(YIELDS + 1);
        }
    }
}

impl<O> ResidentFuture<O> {
    fn stop_watching(&mut self) {
        if self.state == State::Watched {
            self.rings.watcher().forget(self.call);
            self.state = State::Waiting;
        }
    }
}

impl<O: Pod> Future for ResidentFuture<O> {
    type Output = Result<O, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_take() {
            return Poll::Ready(result);
        }
        if Watcher::watch(&self.rings, self.call, context.waker()) {
            self.state = State::Watched;
            return Poll::Pending;
        }
        // The queue has ended meanwhile, so that there is a result; or there is no thread to look.
        match self.try_take() {
            Some(result) => Poll::Ready(result),
            None => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl<O> Drop for ResidentFuture<O> {
    fn drop(&mut self) {
        self.stop_watching();
        let answered = self.state == State::Taken { answered: true };
        self.rings.give_up(self.call, answered);
    }
}

impl<O> fmt::Debug for ResidentFuture<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResidentFuture")
            .field("call", &self.call)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
