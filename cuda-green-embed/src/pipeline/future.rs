//! The futures of a pipeline's requests. One that is dropped is a request that is given up.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::call::Call;
use crate::error::{Error, Result};

/// The vector of one text, to be awaited on any runtime or waited for by [`wait`](Self::wait). What was not submitted to
/// the GPU when this is dropped never is.
#[must_use = "the request is cancelled if this is dropped"]
pub struct PipelineFuture(PipelineBatchFuture);

/// The vectors of a list of texts, to be awaited on any runtime or waited for by [`wait`](Self::wait). Each text has a
/// result of its own, in the order of the list. What was not submitted to the GPU when this is dropped never is.
#[must_use = "the requests are cancelled if this is dropped"]
pub struct PipelineBatchFuture {
    /// None once the vectors were returned.
    call: Option<Result<Call>>,
}

impl PipelineBatchFuture {
    pub(super) fn new(call: Result<Call>) -> Self {
        Self { call: Some(call) }
    }

    /// Waits for the vectors. On a runtime's thread, await it instead.
    ///
    /// # Errors
    /// As [`PipelineLane::embed_batch`](crate::PipelineLane::embed_batch).
    pub fn wait(mut self) -> Result<Vec<Result<Vec<f32>>>> {
        let mut call = self.call.take().unwrap_or(Err(Error::AlreadyTaken))?;
        call.wait_for_models()?;
        Ok(call.end())
    }
}

impl Future for PipelineBatchFuture {
    type Output = Result<Vec<Result<Vec<f32>>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut self.call {
            Some(Ok(call)) => ready!(call.poll_models(context)),
            Some(Err(_)) | None => Ok(()),
        };
        let call = self.call.take().unwrap_or(Err(Error::AlreadyTaken));
        Poll::Ready(polled.and(call).map(|mut call| call.end()))
    }
}

impl PipelineFuture {
    pub(super) fn new(one: PipelineBatchFuture) -> Self {
        Self(one)
    }

    /// Waits for the vector. On a runtime's thread, await it instead.
    ///
    /// # Errors
    /// As [`PipelineLane::embed`](crate::PipelineLane::embed).
    pub fn wait(self) -> Result<Vec<f32>> {
        only(self.0.wait())
    }
}

impl Future for PipelineFuture {
    type Output = Result<Vec<f32>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(only)
    }
}

/// Returns the result of a list of one.
fn only(results: Result<Vec<Result<Vec<f32>>>>) -> Result<Vec<f32>> {
    results?.pop().unwrap_or(Err(Error::AlreadyTaken))
}

impl fmt::Debug for PipelineFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for PipelineBatchFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineBatchFuture")
            .finish_non_exhaustive()
    }
}
