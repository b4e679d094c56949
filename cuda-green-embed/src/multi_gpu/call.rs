//! The batches of one call, and whoever waits for their vectors.

use std::{
    any::Any,
    panic::resume_unwind,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    embeddings::Embeddings,
    error::{Error, Result},
    lock::{lock, wait},
};

/// The end of a batch that has no vectors.
pub(super) enum Failure {
    /// An error, and the index of the batch in its call.
    Error(usize, Error),
    /// A panic of the encoder.
    Panic(Box<dyn Any + Send>),
}

/// The batches of one call and their vectors.
pub(super) struct Call {
    state: Mutex<State>,
    ended: Condvar,
    /// Whether it has failed, readable without the lock.
    failed: AtomicBool,
}

struct State {
    vectors: Vec<Option<Embeddings>>,
    missing: usize,
    failure: Option<Failure>,
}

impl Call {
    /// Makes a call of so many batches.
    pub(super) fn new(batches: usize) -> Self {
        Self {
            state: Mutex::new(State {
                vectors: vec![None; batches],
                missing: batches,
                failure: None,
            }),
            ended: Condvar::new(),
            failed: AtomicBool::new(false),
        }
    }

    /// Returns whether it has failed, so that the rest of its batches need not be computed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Keeps the vectors of a batch.
    pub(super) fn complete(&self, index: usize, vectors: Embeddings) {
        let mut state = lock(&self.state);
        if let Some(place @ None) = state.vectors.get_mut(index) {
            *place = Some(vectors);
            state.missing -= 1;
            if state.missing == 0 {
                self.ended.notify_all();
            }
        }
    }

    /// Ends it without vectors. The first failure counts.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = lock(&self.state);
        if !self.failed.swap(true, Ordering::Relaxed) {
            state.failure = Some(failure);
            self.ended.notify_all();
        }
    }

    /// Waits for the vectors of all batches, and returns them in order; or else the error, and its batch.
    pub(super) fn wait(&self) -> Result<Vec<Embeddings>, (usize, Error)> {
        let mut state = lock(&self.state);
        loop {
            match state.failure.take() {
                Some(Failure::Error(batch, error)) => return Err((batch, error)),
                Some(Failure::Panic(panic)) => {
                    drop(state);
                    resume_unwind(panic);
                }
                None if state.missing == 0 => {
                    let vectors = std::mem::take(&mut state.vectors);
                    return Ok(vectors.into_iter().flatten().collect());
                }
                None => state = wait(&self.ended, state),
            }
        }
    }
}
