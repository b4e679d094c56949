//! A batch of requests on its way, and the ways in which it can end.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use super::request::{Request, Times};
use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    encoder::PendingEmbeddings,
    error::{Error, Result},
};

/// Requests that are encoded together, in the batch's order.
pub(super) struct Batch {
    pub(super) requests: Vec<Arc<Request>>,
    /// The seat that it is submitted to.
    pub(super) seat: usize,
    /// The seats on which it has failed once by the fault of the GPU, each with the error.
    pub(super) failures: Vec<(usize, Arc<Error>)>,
    pub(super) launched: Instant,
}

/// A batch whose vectors are being computed.
pub(super) struct Flying {
    pub(super) batch: Batch,
    pub(super) pending: PendingEmbeddings,
}

/// The way in which an encoder ends a batch other than with vectors.
pub(super) enum Trouble {
    /// One text of the batch is at fault.
    Text(usize, Error),
    /// The batch is at fault, but no text of it is known to be.
    Batch(Error),
    /// The GPU is at fault.
    Gpu(Error),
    /// The encoder panicked.
    Panic(Box<dyn Any + Send>),
}

impl Batch {
    pub(super) fn new(requests: Vec<Arc<Request>>) -> Self {
        Self {
            requests,
            seat: 0,
            failures: Vec::new(),
            launched: Instant::now(),
        }
    }

    pub(super) fn has_failed_on(&self, seat: usize) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == seat)
    }

    pub(super) fn packed(&self) -> PackedBatch {
        self.requests
            .iter()
            .map(|request| &request.tokens)
            .collect()
    }

    pub(super) fn texts(&self) -> usize {
        self.requests.len()
    }

    /// Answers each request with its vector, the oldest first. Returns the time that each took.
    pub(super) fn deliver(self, vectors: &Embeddings) -> Vec<Times> {
        let now = Instant::now();
        let mut all = Vec::with_capacity(self.requests.len());
        let mut order: Vec<_> = self.requests.into_iter().enumerate().collect();
        // The batch has the longest first.
        order.sort_by_key(|(_, request)| request.arrived);
        for (place, request) in order {
            let vector = vectors.get(place).map(<[f32]>::to_vec);
            let times = Times {
                tokenize: request.tokenized_in,
                queue: self.launched.saturating_duration_since(request.arrived),
                inference: now.saturating_duration_since(self.launched),
            };
            all.push(times);
            request.answer(vector.ok_or(Error::EncoderBroken), times);
        }
        all
    }
}

/// Answers requests with an error each.
pub(super) fn refuse(requests: impl IntoIterator<Item = Arc<Request>>, error: impl Fn() -> Error) {
    for request in requests {
        request.answer(Err(error()), Times::default());
    }
}

/// Calls the encoder.
pub(super) fn attempt<T>(call: impl FnOnce() -> Result<T>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(sort(error)),
        Err(panic) => Err(Trouble::Panic(panic)),
    }
}

fn sort(error: Error) -> Trouble {
    match error {
        Error::Gpu(_) | Error::CublasLt { .. } | Error::NoGpuLeft { .. } | Error::EncoderBroken => {
            Trouble::Gpu(error)
        }
        Error::UnknownToken { text, .. }
        | Error::EmptyText { text }
        | Error::Overflow { text, .. } => Trouble::Text(text, error),
        other => Trouble::Batch(other),
    }
}
