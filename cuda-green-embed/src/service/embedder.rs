//! The service as callers see it.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    thread::{self, JoinHandle},
};

use cuda_green::{ContextId, ModelLease, PartitionMode, SmPartitionManager};

use super::{
    builder::EmbedderBuilder,
    elastic::ElasticStatus,
    engine::Engine,
    future::{EmbedBatchFuture, EmbedFuture},
    lane_handle::LaneHandle,
    request::is_waking,
    status::{EmbedderStatus, GpuStatus, Lane, LaneStatus, ServiceMode},
};
use crate::{
    error::{Error, Result},
    panics,
};

/// Makes a text's tokens.
pub(super) type Tokenize = Arc<dyn Fn(&str) -> Result<Vec<u32>> + Send + Sync>;

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
    pub(super) engine: Arc<Engine>,
    pub(super) parts: Parts,
    threads: Vec<JoinHandle<()>>,
    /// Threads that may still be started to tokenise.
    pub(super) helpers: Arc<AtomicUsize>,
    /// What keeps the service's model loaded, if it is one of a library. Then the service is the library's, which ends
    /// it. Behind `engine`, which holds memory of the model.
    pub(super) lease: Option<ModelLease<Embedder>>,
}

/// What a service has besides its engine.
#[derive(Clone)]
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

impl Embedder {
    /// Begins to build one.
    pub fn builder() -> EmbedderBuilder {
        EmbedderBuilder::default()
    }

    pub(super) fn start(engine: Engine, parts: Parts) -> Result<Self> {
        // If a thread does not start, dropping this ends the one that did.
        let mut embedder = Self {
            engine: Arc::new(engine),
            helpers: Arc::new(AtomicUsize::new(parts.tokenizer_threads.saturating_sub(1))),
            parts,
            threads: Vec::new(),
            lease: None,
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

    /// Gives the model a name, which its figures bear.
    pub(crate) fn named(self, model: &Arc<str>) -> Self {
        for lane in Lane::ALL {
            self.engine
                .lane(lane)
                .model
                .get_or_init(|| Arc::clone(model));
        }
        self
    }

    /// Returns the service of a lease. It and its requests keep the lease, and do not end the service.
    pub(crate) fn leased(lease: ModelLease<Self>) -> Self {
        Self {
            engine: Arc::clone(&lease.engine),
            parts: lease.parts.clone(),
            threads: Vec::new(),
            helpers: Arc::clone(&lease.helpers),
            lease: Some(lease),
        }
    }

    /// Returns a lane.
    pub fn lane(&self, lane: Lane) -> LaneHandle<'_> {
        LaneHandle::new(self, lane)
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
    /// are recorded as they happen. In a library, what differs by model has a label for it, and the texts are those since
    /// the model was loaded.
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn export_metrics(&self) {
        super::observe::export(&self.status(), &self.engine);
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
    pub(super) fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let tokenize = self.parts.tokenize.as_ref().ok_or(Error::NoTokenizer)?;
        guarded(|| tokenize(text))
    }
}

/// Calls a tokeniser, whose panic is the text's error.
pub(super) fn guarded(tokenize: impl FnOnce() -> Result<Vec<u32>>) -> Result<Vec<u32>> {
    panics::catch(tokenize).unwrap_or_else(|message| {
        let reason = format!("the tokeniser panicked: {message}");
        Err(Error::Tokenize { text: 0, reason })
    })
}

impl Drop for Embedder {
    fn drop(&mut self) {
        if self.lease.is_none() {
            self.engine.close(false);
            self.join();
        }
    }
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
