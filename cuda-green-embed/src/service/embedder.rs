//! The service as callers see it.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cuda_green::{ContextId, PartitionMode, SmPartitionManager};

use super::{
    batch::of_text,
    builder::EmbedderBuilder,
    elastic::ElasticStatus,
    engine::Engine,
    future::{EmbedBatchFuture, EmbedFuture, Pending},
    lane::{Counts, LaneCore},
    observe::{Call, Trace},
    request::{Request, is_waking},
    status::{EmbedderStatus, GpuStatus, Lane, LaneStatus, ServiceMode},
};
use crate::{
    error::{Error, Result},
    parallel::each_in_order,
};

/// Makes a text's tokens.
pub(super) type Tokenize = Arc<dyn Fn(&str) -> Result<Vec<u32>> + Send + Sync>;

/// The texts of a list that are tokenised before they are queued: the encoder works on them while the next are tokenised.
const BLOCK: usize = 64;

/// The least number of blocks for each thread that tokenises a list.
const BLOCKS_FOR_A_THREAD: usize = 2;

/// An embedding service: queries beside bulk work, each in its own share of the GPU.
///
/// Requests of the *interactive* lane run in the context [`Embedding`](ContextId::Embedding), those of the *bulk* lane in
/// [`Dream`](ContextId::Dream), with one copy of the weights. An idle encoder takes an interactive request at once; what
/// arrives while a batch is on the way makes the next batch. Bulk batches are filled to the encoder's limits.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use cuda_green::SmPartitionManager;
/// use cuda_green_embed::Embedder;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = Arc::new(SmPartitionManager::new(0)?);
/// let embedder = Embedder::builder().load("models/all-MiniLM-L6-v2", manager)?;
/// let documents = ["A share of a GPU.", "A queue alone cannot do that."];
/// let indexing = embedder.embed_batch(&documents); // bulk: on its way from here on
/// let query = embedder.embed("what is a green context?").wait()?; // interactive
/// for vector in indexing.wait()? {
///     println!("{} values", vector?.len());
/// }
/// println!("{}: {}", query.len(), embedder.status());
/// embedder.shutdown();
/// # Ok(())
/// # }
/// ```
///
/// On a runtime, `embedder.embed(text).await` does the same. Tokenising is done by the calling thread, about 10 µs
/// for a sentence, and others help it with a long list of the bulk lane
/// ([`tokenizer_threads`](EmbedderBuilder::tokenizer_threads)); so a list of thousands of texts belongs on a thread that
/// may block.
///
/// # When things go wrong
///
/// - More texts wait than may: [`Error::Overloaded`], at once.
/// - A [deadline](LaneHandle::timeout) passes before the text is submitted: [`Error::DeadlineExceeded`], in the request's
///   turn, and the GPU never sees it.
/// - A text is bad: it fails alone.
/// - The encoder panics or refuses a batch: the texts of that batch fail.
/// - The GPU fails a batch: the batch is tried once more. If that fails too, the GPU gets no more work, and others, where
///   there are any ([`load_on`](EmbedderBuilder::load_on)), compute the batch. If none is left, everything fails, now and later, with
///   [`Error::ServiceDead`], and [`status`](Self::status) says so. A CUDA context does not recover; start a new process.
/// - The driver has no green contexts: both lanes run in one context; a warning is logged, and the status says so.
///
/// Dropping it fails what waits with [`Error::ShutDown`] and waits for the batches on the way;
/// [`shutdown`](Self::shutdown) answers everything first.
pub struct Embedder {
    engine: Arc<Engine>,
    parts: Parts,
    threads: Vec<JoinHandle<()>>,
    /// Threads that may still be started to tokenise.
    helpers: AtomicUsize,
}

/// What a service has besides its engine.
pub(super) struct Parts {
    pub(super) tokenize: Option<Tokenize>,
    /// The most threads that tokenise a list.
    pub(super) tokenizer_threads: usize,
    /// One more than the largest token, if known.
    pub(super) vocabulary: Option<usize>,
    /// One for each GPU; none with encoders of the caller's.
    pub(super) managers: Vec<Arc<SmPartitionManager>>,
    /// The reason why lanes that were to be elastic are not.
    pub(super) not_elastic: Option<String>,
}

/// One lane of an [`Embedder`], and how long its requests may wait.
#[derive(Clone, Copy, Debug)]
pub struct LaneHandle<'a> {
    embedder: &'a Embedder,
    lane: Lane,
    timeout: Option<Duration>,
}

impl Embedder {
    /// Begins to build one.
    pub fn builder() -> EmbedderBuilder {
        EmbedderBuilder::default()
    }

    pub(super) fn start(engine: Engine, parts: Parts) -> Result<Self> {
        // If a thread does not start, dropping this ends the one that did.
        let mut embedder = Self {
            engine: Arc::new(engine),
            helpers: AtomicUsize::new(parts.tokenizer_threads.saturating_sub(1)),
            parts,
            threads: Vec::new(),
        };
        let threads: Vec<_> = embedder.engine.threads().collect();
        for (lane, seat) in threads {
            let engine = Arc::clone(&embedder.engine);
            let name = match engine.lane(lane).has_many_seats() {
                true => format!("embed-{lane}-{seat}"),
                false => format!("embed-{lane}"),
            };
            let thread = thread::Builder::new().name(name);
            let thread = thread.spawn(move || engine.run(lane, seat));
            embedder.threads.push(thread.map_err(Error::Thread)?);
        }
        if embedder.engine.elastic.is_some() {
            let engine = Arc::clone(&embedder.engine);
            let thread = thread::Builder::new().name("embed-elastic".to_owned());
            let thread = thread.spawn(move || {
                if let Some(elastic) = &engine.elastic {
                    elastic.run(&engine);
                }
            });
            embedder.threads.push(thread.map_err(Error::Thread)?);
        }
        Ok(embedder)
    }

    /// Returns a lane.
    pub fn lane(&self, lane: Lane) -> LaneHandle<'_> {
        LaneHandle {
            embedder: self,
            lane,
            timeout: None,
        }
    }

    /// Returns the lane for queries.
    pub fn interactive(&self) -> LaneHandle<'_> {
        self.lane(Lane::Interactive)
    }

    /// Returns the lane for bulk work.
    pub fn bulk(&self) -> LaneHandle<'_> {
        self.lane(Lane::Bulk)
    }

    /// Embeds a text in the interactive lane: [`LaneHandle::embed`].
    pub fn embed(&self, text: &str) -> EmbedFuture {
        self.interactive().embed(text)
    }

    /// Embeds a list of texts in the bulk lane: [`LaneHandle::embed_batch`].
    pub fn embed_batch<T: AsRef<str>>(&self, texts: &[T]) -> EmbedBatchFuture {
        self.bulk().embed_batch(texts)
    }

    /// Embeds a text's tokens in the interactive lane: [`LaneHandle::embed_tokens`].
    pub fn embed_tokens(&self, tokens: Vec<u32>) -> EmbedFuture {
        self.interactive().embed_tokens(tokens)
    }

    /// Returns the number of values in a vector.
    pub fn dimension(&self) -> usize {
        self.engine.lane(Lane::Interactive).limits.dimension
    }

    /// Returns the error for which the service is dead, if it is.
    pub fn death(&self) -> Option<Arc<Error>> {
        self.engine.dead.get().cloned()
    }

    /// Returns the figures.
    pub fn status(&self) -> EmbedderStatus {
        let managers = self.parts.managers.iter();
        let allocations: Vec<_> = managers.map(|one| one.allocation_status()).collect();
        let gpus = (0..self.engine.lane(Lane::Interactive).seats.len()).map(|seat| {
            let replica = |lane: Lane, context: ContextId| {
                let mut contexts = allocations
                    .iter()
                    .skip(seat)
                    .take(1)
                    .flat_map(|one| &one.contexts);
                let context = contexts.find(|one| one.id == context);
                let sms = context.map(|one| one.sm_count);
                self.engine.lane(lane).replica(seat, sms)
            };
            let manager = self.parts.managers.get(seat);
            GpuStatus {
                device: manager.map(|one| one.device().ordinal()),
                interactive: replica(Lane::Interactive, ContextId::Embedding),
                bulk: replica(Lane::Bulk, ContextId::Dream),
            }
        });
        let gpus: Vec<GpuStatus> = gpus.collect();
        let lane = |lane: Lane| LaneStatus {
            sms: gpus.iter().map(|gpu| gpu.lane(lane).sms).sum(),
            ..self.engine.lane(lane).status()
        };
        let reason = |mode: &PartitionMode| match mode {
            PartitionMode::SingleContext { reason } => Some(reason.clone()),
            PartitionMode::Partitioned => None,
        };
        let single = allocations.iter().find_map(|one| reason(&one.mode));
        EmbedderStatus {
            mode: match (allocations.is_empty(), single) {
                (true, _) => ServiceMode::OwnEncoders,
                (false, None) => ServiceMode::Partitioned,
                (false, Some(reason)) => ServiceMode::SingleContext { reason },
            },
            dead: self.death().map(|error| error.to_string()),
            elastic: match (&self.engine.elastic, &self.parts.not_elastic) {
                (Some(elastic), _) => Some(elastic.status()),
                (None, reason) => reason.clone().map(ElasticStatus::off),
            },
            interactive: lane(Lane::Interactive),
            bulk: lane(Lane::Bulk),
            gpus,
        }
    }

    /// Exports the figures of [`status`](Self::status) to the `metrics` facade: SMs by lane, single-context mode, whether
    /// the service is dead, and texts by lane and outcome. Call it as often as the figures are read. Requests and batches
    /// are recorded as they happen.
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn export_metrics(&self) {
        super::observe::export(&self.status());
    }

    /// Answers all requests, and ends. Blocks until then, unless it is called by a waker.
    pub fn shutdown(mut self) {
        self.engine.close(true);
        self.join();
    }

    fn join(&mut self) {
        if is_waking() {
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the embedding service panicked");
            }
        }
    }

    /// Calls the tokeniser.
    fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let tokenize = self.parts.tokenize.as_ref().ok_or(Error::NoTokenizer)?;
        catch_unwind(AssertUnwindSafe(|| tokenize(text))).unwrap_or_else(|panic| {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let reason = format!("the tokeniser panicked: {message}");
            // Its drop may panic as well.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            Err(Error::Tokenize { text: 0, reason })
        })
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        self.engine.close(false);
        self.join();
    }
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl LaneHandle<'_> {
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
    /// if this is the bulk lane and the list is long ([`tokenizer_threads`](EmbedderBuilder::tokenizer_threads)). The GPU
    /// works on the first while the last are tokenised.
    ///
    /// # Errors
    /// The future's, for the list as a whole: [`Error::Overloaded`] if there is no room for all of it,
    /// [`Error::ShutDown`], [`Error::ServiceDead`]. For each text: as [`embed`](Self::embed), counted from 0.
    pub fn embed_batch<T: AsRef<str>>(self, texts: &[T]) -> EmbedBatchFuture {
        // Not all types can be shared among threads, but all texts can.
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let most = match self.lane {
            Lane::Bulk => texts.len() / (BLOCK * BLOCKS_FOR_A_THREAD),
            Lane::Interactive => 1,
        };
        let helpers = Helpers::borrow(&self.embedder.helpers, most.saturating_sub(1));
        let threads = 1 + helpers.count;
        self.submit("batch", &texts, threads, |text| {
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

    fn submit<T: Sync>(
        self,
        method: &'static str,
        texts: &[T],
        threads: usize,
        tokens: impl Fn(&T) -> Result<Vec<u32>> + Sync,
    ) -> EmbedBatchFuture {
        let call = Call::begin(self.lane, method);
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
        let mut pending = Pending::new(engine, self.lane);
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
                        pending.push_error(of_text(error, index));
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
