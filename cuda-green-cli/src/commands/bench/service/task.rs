//! A request as a task of a runtime with one worker: one thread sends it, and another, which sleeps until it is woken,
//! takes its answer.
//!
//! So a latency holds all that an awaited request costs its caller, the hand-off at its end included.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use cuda_green_embed::{EmbedFuture, Error, Result};

use super::outcome::{Outcome, record};

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request that was sent and has no answer yet.
pub struct Task {
    due: Instant,
    future: Mutex<Option<EmbedFuture>>,
    /// Takes it once its answer is there.
    woken: Sender<Arc<Self>>,
}

impl Task {
    /// Starts a request that was due at a moment. Notes its answer if it is there at once, as a refusal is; otherwise the
    /// task is sent to `woken` when it is there.
    pub fn start(
        due: Instant,
        future: EmbedFuture,
        woken: &Sender<Arc<Self>>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let task = Arc::new(Self {
            due,
            future: Mutex::new(Some(future)),
            woken: woken.clone(),
        });
        task.poll(outcome)
    }

    /// Notes the answer if it is there.
    pub fn poll(self: &Arc<Self>, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mut slot = self.lock();
        let Some(future) = slot.as_mut() else {
            return Ok(());
        };
        let waker = Waker::from(Arc::clone(self));
        let polled = Pin::new(future).poll(&mut Context::from_waker(&waker));
        let Poll::Ready(answer) = polled else {
            return Ok(());
        };
        let done = slot.take();
        drop((slot, done));
        note(self.due, answer, outcome)
    }

    fn lock(&self) -> MutexGuard<'_, Option<EmbedFuture>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let woken = self.woken.clone();
        // If nobody receives any more, the run has failed, and nobody wants the answer.
        let _ = woken.send(self);
    }
}

/// Returns the next task whose answer is there; none once there are neither senders nor tasks.
pub fn next(woken: &Receiver<Arc<Task>>) -> anyhow::Result<Option<Arc<Task>>> {
    use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
    match woken.recv_timeout(PATIENCE) {
        Ok(task) => Ok(Some(task)),
        Err(Disconnected) => Ok(None),
        Err(Timeout) => anyhow::bail!("a request had no answer for {} s", PATIENCE.as_secs()),
    }
}

/// Notes the answer to a request. One that was refused since too many wait counts; any other error ends the run.
pub fn note(due: Instant, answer: Result<Vec<f32>>, outcome: &mut Outcome) -> anyhow::Result<()> {
    match answer {
        Ok(_) => record(&mut outcome.answered, due.elapsed()),
        Err(Error::Overloaded { .. }) => outcome.refused += 1,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
