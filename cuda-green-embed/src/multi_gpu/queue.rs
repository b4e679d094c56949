//! The queue that all GPUs take their work from.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
};

use super::call::{Call, Failure};
use crate::{
    batch::PackedBatch,
    error::Error,
    lock::{lock, wait},
};

/// A batch that waits for a GPU or is on one.
pub(super) struct Job {
    pub(super) call: Arc<Call>,
    /// Its index in the call.
    pub(super) index: usize,
    pub(super) batch: PackedBatch,
}

/// Batches in the order of their calls, and the GPUs that take them.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Told when a job comes, and at the end.
    changed: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    /// The number of workers with nothing on their GPU, those included whose threads have not begun yet.
    idle: usize,
    working: usize,
    /// The first error that retired an encoder.
    first_error: Option<Arc<Error>>,
    closed: bool,
}

impl State {
    /// Takes the first job whose call still needs it.
    fn take(&mut self) -> Option<Job> {
        loop {
            let job = self.jobs.pop_front()?;
            if !job.call.has_failed() {
                return Some(job);
            }
        }
    }
}

impl Queue {
    /// Makes an empty one for this number of workers.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                idle: workers,
                working: workers,
                first_error: None,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds batches as one call. If no worker is left, the call fails at once.
    pub(super) fn add(&self, batches: Vec<PackedBatch>) -> Arc<Call> {
        let call = Arc::new(Call::new(batches.len()));
        let jobs = batches.into_iter().enumerate().map(|(index, batch)| Job {
            call: Arc::clone(&call),
            index,
            batch,
        });
        let mut state = lock(&self.state);
        state.jobs.extend(jobs);
        self.fail_if_none_is_left(&mut state);
        drop(state);
        self.changed.notify_all();
        call
    }

    /// Waits for a job, for an idle worker. Returns `None` once the queue is closed and empty.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.take() {
                state.idle -= 1;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = wait(&self.changed, state);
        }
    }

    /// Counts a worker as idle that has computed all that it took.
    pub(super) fn add_idle(&self) {
        lock(&self.state).idle += 1;
    }

    /// Returns a job for a GPU that has one already, if there are more than idle GPUs would take.
    pub(super) fn next_ahead(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        if state.jobs.len() <= state.idle {
            return None;
        }
        state.take()
    }

    /// Ends a worker whose encoder failed, and gives the jobs on its GPU to the others, in front of the rest. If it was
    /// the last one, all calls fail.
    pub(super) fn retire(&self, error: &Arc<Error>, jobs: impl DoubleEndedIterator<Item = Job>) {
        let mut state = lock(&self.state);
        for job in jobs.rev() {
            state.jobs.push_front(job);
        }
        state.working -= 1;
        state.first_error.get_or_insert_with(|| Arc::clone(error));
        self.fail_if_none_is_left(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    fn fail_if_none_is_left(&self, state: &mut State) {
        let Some(first) = state.first_error.as_ref().filter(|_| state.working == 0) else {
            return;
        };
        for job in state.jobs.drain(..) {
            let first = Arc::clone(first);
            let error = Error::NoGpuLeft { first };
            job.call.fail(Failure::Error(job.index, error));
        }
    }

    /// Lets the workers end when the queue is empty.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
