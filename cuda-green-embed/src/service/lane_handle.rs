//! A lane as callers see it: texts to requests in its queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    embedder::{Embedder, guarded},
    engine::Engine,
    future::{EmbedBatchFuture, EmbedFuture, Pending},
    lane::{Counts, LaneCore},
    observe::{Call, Trace},
    request::Request,
    status::Lane,
};
use crate::{
    error::{Error, Result},
    parallel::each_in_order,
};

/// The texts of a list that are tokenised before they are queued: the encoder works on them while the next are tokenised.
const BLOCK: usize = 64;

/// The least number of blocks for each thread that tokenises a list.
const BLOCKS_FOR_A_THREAD: usize = 2;

/// One lane of an [`Embedder`], and how long its requests may wait.
#[derive(Clone, Copy, Debug)]
pub struct LaneHandle<'a> {
    embedder: &'a Embedder,
    lane: Lane,
    timeout: Option<Duration>,
}

impl<'a> LaneHandle<'a> {
    pub(super) fn new(embedder: &'a Embedder, lane: Lane) -> Self {
        Self {
            embedder,
            lane,
            timeout: None,
        }
    }

    /// Sets how long a text may wait for the encoder, from the call on. Checked before the text is submitted: a text on
    /// the GPU is not cut short.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Embeds a text, which is on its way when this returns. The calling thread tokenises it.
    ///
    /// # Errors
    /// The future's: [`Error::Overloaded`], [`Error::DeadlineExceeded`], [`Error::ShutDown`], [`Error::ServiceDead`];
    /// [`Error::Tokenize`] and [`Error::NoTokenizer`]; [`Error::Overflow`]; [`Error::EncoderPanicked`] and
    /// [`Error::BatchFailed`], which may be due to another text of the batch.
    pub fn embed(self, text: &str) -> EmbedFuture {
        EmbedFuture::new(self.submit("single", &[text], 1, |text| self.embedder.tokenize(text)))
    }

    /// Embeds a list of texts, which are on their way when this returns. The calling thread tokenises them, with others
    /// if this is the bulk lane and the list is long ([`tokenizer_threads`](crate::EmbedderBuilder::tokenizer_threads)). The GPU
    /// works on the first while the last are tokenised.
    ///
    /// # Errors
    /// The future's, for the list as a whole: [`Error::Overloaded`] if there is no room for all of it,
    /// [`Error::ShutDown`], [`Error::ServiceDead`]. For each text: as [`embed`](Self::embed), counted from 0.
    pub fn embed_batch<T: AsRef<str>>(self, texts: &[T]) -> EmbedBatchFuture {
        // Not all types can be shared among threads, but all texts can.
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let helpers = self.helpers(texts.len());
        self.submit("batch", &texts, 1 + helpers.count, |text| {
            self.embedder.tokenize(text)
        })
    }

    /// Embeds a text by its tokens, special ones included.
    ///
    /// # Errors
    /// As [`embed`](Self::embed), and [`Error::EmptyText`], [`Error::UnknownToken`], [`Error::BatchTooLarge`] instead of
    /// the tokeniser's.
    pub fn embed_tokens(self, tokens: Vec<u32>) -> EmbedFuture {
        EmbedFuture::new(self.submit("single", &[tokens], 1, |tokens| Ok(tokens.clone())))
    }

    /// Embeds a list of texts by their tokens, special ones included.
    ///
    /// # Errors
    /// As [`embed_batch`](Self::embed_batch) and [`embed_tokens`](Self::embed_tokens).
    pub fn embed_token_batch<T: AsRef<[u32]>>(self, texts: &[T]) -> EmbedBatchFuture {
        let texts: Vec<&[u32]> = texts.iter().map(AsRef::as_ref).collect();
        self.submit("batch", &texts, 1, |tokens| Ok(tokens.to_vec()))
    }

    /// Embeds a list of texts of any kind, by the tokens that a function makes of each. It is called once a text, before
    /// this returns, and by several threads at once where [`embed_batch`](Self::embed_batch) uses them. If it panics, that
    /// text fails.
    ///
    /// # Errors
    /// As [`embed_token_batch`](Self::embed_token_batch), and those of the function.
    pub fn embed_batch_with<T: Sync>(
        self,
        texts: &[T],
        tokens: impl Fn(&T) -> Result<Vec<u32>> + Sync,
    ) -> EmbedBatchFuture {
        let method = if texts.len() == 1 { "single" } else { "batch" };
        let helpers = self.helpers(texts.len());
        self.submit(method, texts, 1 + helpers.count, |text| {
            guarded(|| tokens(text))
        })
    }

    /// Takes the threads that help to tokenise so many texts.
    fn helpers(&self, texts: usize) -> Helpers<'a> {
        let most = match self.lane {
            Lane::Bulk => texts / (BLOCK * BLOCKS_FOR_A_THREAD),
            Lane::Interactive => 1,
        };
        Helpers::borrow(&self.embedder.helpers, most.saturating_sub(1))
    }

    fn submit<T: Sync>(
        self,
        method: &'static str,
        texts: &[T],
        threads: usize,
        tokens: impl Fn(&T) -> Result<Vec<u32>> + Sync,
    ) -> EmbedBatchFuture {
        let call = Call::begin(self.lane, method, texts.len());
        match self.queue(texts, threads, tokens) {
            Ok(pending) => EmbedBatchFuture::taken(call, pending),
            Err(error) => EmbedBatchFuture::refused(call, error),
        }
    }

    /// Queues texts block by block, as threads have tokenised them.
    fn queue<T: Sync>(
        self,
        texts: &[T],
        threads: usize,
        tokens: impl Fn(&T) -> Result<Vec<u32>> + Sync,
    ) -> Result<Pending> {
        let engine = &self.embedder.engine;
        let deadline = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let mut reserved = Reserved::new(engine, self.lane, texts.len())?;
        // If a block is refused, dropping this gives the others up.
        let mut pending = Pending::new(engine, self.lane, self.embedder.lease.clone());
        let tokenize = |block: usize| -> Vec<Tokenized> {
            let first = block * BLOCK;
            let texts = texts.iter().skip(first).take(BLOCK);
            let tokenize = |text| {
                let trace = Trace::tokenizing(self.lane);
                let started = Instant::now();
                let tokens = tokens(text).and_then(|tokens| self.check(tokens));
                (tokens, started.elapsed(), trace)
            };
            texts.map(tokenize).collect()
        };
        let mut index = 0;
        let mut add = |texts: Vec<Tokenized>| -> Result<()> {
            let mut places = Vec::with_capacity(texts.len());
            let mut requests = Vec::with_capacity(texts.len());
            let mut bad = 0;
            for (tokens, took, trace) in texts {
                match tokens {
                    Ok(tokens) => {
                        trace.queuing();
                        let request = Request::new(tokens, index, deadline, took, trace);
                        requests.push(Arc::new(request));
                        places.push(pending.push_place());
                    }
                    Err(error) => {
                        pending.push_error(error.of_text(index));
                        bad += 1;
                    }
                }
                index += 1;
            }
            Counts::add(&engine.lane(self.lane).counts.failed, bad);
            reserved.release(bad);
            // It gives the places back in any case.
            reserved.left -= requests.len();
            let tickets = engine.add(self.lane, &requests)?;
            for ((place, request), ticket) in places.into_iter().zip(requests).zip(tickets) {
                pending.push_waiting(place, request, ticket);
            }
            Ok(())
        };
        each_in_order(texts.len().div_ceil(BLOCK), threads, tokenize, &mut add)?;
        Ok(pending)
    }

    /// Ensures that a text alone can be encoded.
    fn check(self, tokens: Vec<u32>) -> Result<Vec<u32>> {
        let limit = self.embedder.engine.lane(self.lane).limits.tokens_of_text;
        if tokens.is_empty() {
            return Err(Error::EmptyText { text: 0 });
        }
        if tokens.len() > limit {
            return Err(Error::BatchTooLarge {
                unit: "tokens in one text",
                asked: tokens.len(),
                limit,
            });
        }
        let Some(vocabulary) = self.embedder.parts.vocabulary else {
            return Ok(tokens);
        };
        match tokens.iter().find(|id| **id as usize >= vocabulary) {
            Some(token) => Err(Error::UnknownToken {
                text: 0,
                token: *token,
                vocabulary,
            }),
            None => Ok(tokens),
        }
    }
}

/// A text's tokens, how long they took, and the request's spans.
type Tokenized = (Result<Vec<u32>>, Duration, Trace);

/// Places in a lane's queue, given back when this is dropped.
struct Reserved<'a> {
    core: &'a LaneCore,
    left: usize,
}

impl<'a> Reserved<'a> {
    fn new(engine: &'a Engine, lane: Lane, texts: usize) -> Result<Self> {
        engine.reserve(lane, texts)?;
        Ok(Self {
            core: engine.lane(lane),
            left: texts,
        })
    }

    fn release(&mut self, texts: usize) {
        self.core.release(texts);
        self.left -= texts;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.core.release(self.left);
    }
}

/// Threads that a call may start, given back when this is dropped.
struct Helpers<'a> {
    free: &'a AtomicUsize,
    count: usize,
}

impl<'a> Helpers<'a> {
    /// Takes up to `most` of those that are free.
    fn borrow(free: &'a AtomicUsize, most: usize) -> Self {
        let take = |free: usize| Some(free - free.min(most));
        let before = free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let count = before.map_or(0, |before| before.min(most));
        Self { free, count }
    }
}

impl Drop for Helpers<'_> {
    fn drop(&mut self) {
        self.free.fetch_add(self.count, Ordering::Relaxed);
    }
}
