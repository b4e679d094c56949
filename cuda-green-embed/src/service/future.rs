//! The futures of requests, which can be waited for without a runtime as well. A future that is dropped is a request that
//! is given up.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use cuda_green::ModelLease;

use super::{
    embedder::Embedder,
    engine::Engine,
    observe::Call,
    request::{Answer, Request, Times},
    status::Lane,
};
use crate::{
    batch::Ticket,
    error::{Error, Result},
};

/// The vector of one text, to be awaited on any runtime or waited for by [`wait`](Self::wait).
///
/// The request is on its way from the call that made this. If this is dropped before the text is submitted to the GPU,
/// the text is never submitted.
#[must_use = "the request is cancelled if this is dropped"]
pub struct EmbedFuture(EmbedBatchFuture);

/// The vectors of a list of texts, to be awaited on any runtime or waited for by [`wait`](Self::wait).
///
/// Each text has a result of its own, in the order of the list. The texts are on their way from the call that made this.
/// If this is dropped, those that were not yet submitted to the GPU never are.
#[must_use = "the requests are cancelled if this is dropped"]
pub struct EmbedBatchFuture {
    call: Call,
    state: State,
}

enum State {
    /// The call was refused as a whole.
    Refused(Option<Error>),
    Taken(Pending),
}

/// The requests of a call.
pub(super) struct Pending {
    engine: Arc<Engine>,
    lane: Lane,
    /// One for each text, none while it is waited for.
    results: Vec<Option<Result<Vec<f32>>>>,
    /// The sum over the texts.
    times: Times,
    /// Those without a result, in order. The last is waited for first, as it is answered last; then the others are found
    /// answered, and nobody is woken for nothing.
    waiting: Vec<(usize, Arc<Request>, Ticket)>,
    returned: bool,
    /// What keeps the model loaded, until no request waits. Behind `engine`, which holds memory of the model.
    _lease: Option<ModelLease<Embedder>>,
}

impl Pending {
    pub(super) fn new(
        engine: &Arc<Engine>,
        lane: Lane,
        lease: Option<ModelLease<Embedder>>,
    ) -> Self {
        Self {
            engine: Arc::clone(engine),
            lane,
            results: Vec::new(),
            times: Times::default(),
            waiting: Vec::new(),
            returned: false,
            _lease: lease,
        }
    }

    /// Adds the result of a text that needs no encoder.
    pub(super) fn push_error(&mut self, error: Error) {
        self.results.push(Some(Err(error)));
    }

    /// Adds a place for a text's result, and returns its index.
    pub(super) fn push_place(&mut self) -> usize {
        self.results.push(None);
        self.results.len() - 1
    }

    /// Adds a request that is in the queue.
    pub(super) fn push_waiting(&mut self, place: usize, request: Arc<Request>, ticket: Ticket) {
        self.waiting.push((place, request, ticket));
    }

    fn settle(&mut self, answer: Answer) {
        if let Some((place, ..)) = self.waiting.pop()
            && let Some(result) = self.results.get_mut(place)
        {
            self.times.tokenize += answer.times.tokenize;
            self.times.queue += answer.times.queue;
            self.times.inference += answer.times.inference;
            *result = Some(answer.result);
        }
    }

    fn poll(&mut self, waker: &Waker) -> Poll<()> {
        while let Some((_, request, _)) = self.waiting.last() {
            let Poll::Ready(answer) = request.poll(waker) else {
                // The task cannot wait for the GPU itself.
                self.engine.lane(self.lane).want();
                return Poll::Pending;
            };
            self.settle(answer);
        }
        Poll::Ready(())
    }

    fn wait(&mut self) {
        let engine = Arc::clone(&self.engine);
        let core = engine.lane(self.lane);
        let mut waker = None;
        while let Some((_, request, _)) = self.waiting.last() {
            if let Some(answer) = request.take() {
                self.settle(answer);
                continue;
            }
            if engine.drive_for(core, request) {
                continue;
            }
            // Another thread waits for the GPU, or submits a batch, or the batch is not due.
            let waker =
                waker.get_or_insert_with(|| Waker::from(Arc::new(Unpark(thread::current()))));
            match request.poll(waker) {
                Poll::Ready(answer) => self.settle(answer),
                Poll::Pending => {
                    core.want();
                    thread::park();
                }
            }
        }
    }

    fn results(&mut self) -> Vec<Result<Vec<f32>>> {
        self.returned = true;
        let results = self.results.drain(..);
        results
            .map(|one| one.unwrap_or(Err(Error::AlreadyTaken)))
            .collect()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut given_up = 0;
        let mut last = None;
        for (_, request, ticket) in &self.waiting {
            if request.abandon() {
                given_up += 1;
                last = Some(*ticket);
            }
        }
        let core = self.engine.lane(self.lane);
        match (given_up, last) {
            (1, Some(ticket)) => core.cancel(ticket),
            (2.., _) => core.cancel_abandoned(),
            _ => {}
        }
        if given_up > 0 {
            // What is on the way is to end though nobody waits for it any more.
            core.want();
        }
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

impl EmbedBatchFuture {
    pub(super) fn refused(call: Call, error: Error) -> Self {
        call.failed(&error);
        Self {
            call,
            state: State::Refused(Some(error)),
        }
    }

    pub(super) fn taken(call: Call, pending: Pending) -> Self {
        Self {
            call,
            state: State::Taken(pending),
        }
    }

    /// Waits for the vectors. The thread serves others' requests meanwhile if that is the fastest way. On a runtime's
    /// thread, await it instead. Must not be called by a waker: the thread that wakes may be the one to answer.
    ///
    /// # Errors
    /// As [`LaneHandle::embed_batch`](crate::LaneHandle::embed_batch).
    pub fn wait(mut self) -> Result<Vec<Result<Vec<f32>>>> {
        if let State::Taken(pending) = &mut self.state {
            pending.wait();
        }
        self.end()
    }

    fn end(&mut self) -> Result<Vec<Result<Vec<f32>>>> {
        match &mut self.state {
            State::Refused(error) => Err(error.take().unwrap_or(Error::AlreadyTaken)),
            State::Taken(pending) if pending.returned => Err(Error::AlreadyTaken),
            State::Taken(pending) => {
                let results = pending.results();
                match results.iter().find_map(|result| result.as_ref().err()) {
                    None => self.call.succeeded(pending.times, results.len()),
                    Some(error) => self.call.failed(error),
                }
                Ok(results)
            }
        }
    }
}

impl Future for EmbedBatchFuture {
    type Output = Result<Vec<Result<Vec<f32>>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Taken(pending) = &mut self.state
            && pending.poll(context.waker()).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(self.end())
    }
}

impl EmbedFuture {
    /// Makes it of a call for one text.
    pub(super) fn new(one: EmbedBatchFuture) -> Self {
        Self(one)
    }

    /// Waits for the vector. The thread serves others' requests meanwhile if that is the fastest way. On a runtime's
    /// thread, await it instead. Must not be called by a waker: the thread that wakes may be the one to answer.
    ///
    /// # Errors
    /// As [`LaneHandle::embed`](crate::LaneHandle::embed).
    pub fn wait(self) -> Result<Vec<f32>> {
        only(self.0.wait())
    }
}

impl Future for EmbedFuture {
    type Output = Result<Vec<f32>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(only)
    }
}

/// Returns the result of a list of one.
fn only(results: Result<Vec<Result<Vec<f32>>>>) -> Result<Vec<f32>> {
    results?.pop().unwrap_or(Err(Error::AlreadyTaken))
}

impl fmt::Debug for EmbedFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for EmbedBatchFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EmbedBatchFuture");
        if let State::Taken(pending) = &self.state {
            debug.field("texts", &pending.results.len());
            debug.field("waiting", &pending.waiting.len());
        }
        debug.finish_non_exhaustive()
    }
}
