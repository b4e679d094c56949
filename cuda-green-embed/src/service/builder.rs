//! The options of a service, and what it is made of.

use std::{fmt, num::NonZero, path::Path, sync::Arc, thread, time::Duration};

use cuda_green::{ContextId, GpuMemoryPool, PartitionMode, SmPartitionManager};

use super::{
    elastic::{self, Elastic, ElasticOptions, LaneLayouts, Partitions},
    embedder::{Embedder, Parts, Tokenize},
    engine::Engine,
    lane::LaneCore,
    status::Lane,
};
use crate::{
    batch::BatchConfig,
    encoder::{BertEncoder, BertModel, Encoder, EncoderOptions},
    error::{Error, Result},
    model::ModelFolder,
    precision::InferencePrecision,
    tokenize::Tokenizer,
};

/// The most threads that tokenise by default: a thread does about 150,000 short texts a second, and a GPU 500,000.
const TOKENIZER_THREADS: usize = 8;

/// The options of an [`Embedder`]. The defaults serve most programs.
#[derive(Clone)]
pub struct EmbedderBuilder {
    precision: Option<InferencePrecision>,
    pool: Option<GpuMemoryPool>,
    tokenize: Option<Tokenize>,
    vocabulary: Option<usize>,
    tokenizer_threads: usize,
    elastic: Option<ElasticOptions>,
    layouts: Option<Arc<dyn LaneLayouts>>,
    interactive: LaneOptions,
    bulk: LaneOptions,
}

#[derive(Clone, Debug)]
struct LaneOptions {
    batches: BatchConfig,
    depth: usize,
    encoder: EncoderOptions,
}

/// The encoders of both lanes, one of each for each GPU.
#[derive(Default)]
struct Encoders {
    interactive: Vec<Arc<dyn Encoder>>,
    bulk: Vec<Arc<dyn Encoder>>,
}

impl Default for EmbedderBuilder {
    fn default() -> Self {
        Self {
            precision: None,
            pool: None,
            tokenize: None,
            vocabulary: None,
            tokenizer_threads: thread::available_parallelism()
                .map_or(1, NonZero::get)
                .min(TOKENIZER_THREADS),
            elastic: None,
            layouts: None,
            interactive: LaneOptions {
                batches: BatchConfig {
                    max_batch_size: usize::MAX,
                    max_tokens: 4_096,
                    max_wait: Duration::ZERO,
                    min_batch_size: 1,
                    max_pending: 1_024,
                },
                depth: 1,
                encoder: EncoderOptions::default().max_tokens(4_096),
            },
            bulk: LaneOptions {
                batches: BatchConfig {
                    max_batch_size: usize::MAX,
                    max_tokens: 16_384,
                    max_wait: Duration::from_millis(5),
                    min_batch_size: 64,
                    max_pending: 65_536,
                },
                depth: 2,
                encoder: EncoderOptions::default(),
            },
        }
    }
}

impl EmbedderBuilder {
    /// Sets the precision; by default the device's best ([`InferencePrecision::detect_optimal`]).
    #[must_use]
    pub fn precision(mut self, precision: InferencePrecision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// Sets the pool that the weights come from; by default that of the context [`Embedding`](ContextId::Embedding).
    #[must_use]
    pub fn pool(mut self, pool: &GpuMemoryPool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// Sets the tokeniser; by default that of the model's folder.
    #[must_use]
    pub fn tokenizer(self, tokenizer: Tokenizer) -> Self {
        let vocabulary = tokenizer.vocabulary();
        let mut builder = self.tokenize_with(move |text| tokenizer.encode(text));
        builder.vocabulary.get_or_insert(vocabulary);
        builder
    }

    /// Sets a function as the tokeniser: from a text to its tokens, special ones included.
    #[must_use]
    pub fn tokenize_with(
        mut self,
        tokenize: impl Fn(&str) -> Result<Vec<u32>> + Send + Sync + 'static,
    ) -> Self {
        self.tokenize = Some(Arc::new(tokenize));
        self
    }

    /// Sets the number of tokens in the vocabulary, so that a text with others fails before it is in a batch; by default
    /// the model's.
    #[must_use]
    pub fn vocabulary(mut self, tokens: usize) -> Self {
        self.vocabulary = Some(tokens);
        self
    }

    /// Sets the most threads that tokenise the lists of the bulk lane, the calling one of a list included; by default as
    /// many as the system has cores for, and at most 8. The others are shared by all calls: those that find none left
    /// tokenise alone, as do queries and lists of less than 256 texts. With 1, only calling threads tokenise.
    #[must_use]
    pub fn tokenizer_threads(mut self, threads: usize) -> Self {
        self.tokenizer_threads = threads.max(1);
        self
    }

    /// Sets how a lane forms batches and how many texts may wait ([`BatchConfig::max_pending`]). Sizes above the
    /// encoder's are lowered to those.
    ///
    /// By default, interactive batches have up to 4,096 tokens and never wait for more texts, and 1,024 texts may wait;
    /// bulk batches have up to 16,384 tokens and wait up to 5 ms to be filled unless the encoder is idle and 64 texts are
    /// there, and 65,536 texts may wait.
    #[must_use]
    pub fn batches(mut self, lane: Lane, config: BatchConfig) -> Self {
        self.options(lane).batches = config;
        self
    }

    /// Sets the most texts that may wait in a lane.
    #[must_use]
    pub fn queue_limit(mut self, lane: Lane, texts: usize) -> Self {
        self.options(lane).batches.max_pending = texts;
        self
    }

    /// Sets the most batches that a lane submits at a time, from 1 to 3. With 1, the default of the interactive lane, what
    /// arrives meanwhile makes one batch. With 2, that of the bulk lane, the GPU finds the next batch in its queue.
    #[must_use]
    pub fn submitted(mut self, lane: Lane, batches: usize) -> Self {
        self.options(lane).depth = batches.clamp(1, 3);
        self
    }

    /// Sets the sizes that a lane's encoder is made for.
    #[must_use]
    pub fn encoder(mut self, lane: Lane, options: EncoderOptions) -> Self {
        self.options(lane).encoder = options;
        self
    }

    /// Lets bulk work have the interactive lane's SMs, but for a few that this always keeps, while nobody asks anything;
    /// by default, each lane has the same SMs at all times.
    ///
    /// A query never waits for bulk work to leave: it runs at once, on the SMs that its lane keeps. Bulk work then ends
    /// the batches on the way ([`submitted`](Self::submitted), 2 by default), gives the SMs back, and goes on. Until then
    /// queries have fewer SMs, and one that is submitted in the moment of the rebalance waits for the host's part of it.
    /// The contexts and the graphs of both layouts are made when the service is built, so loading takes longer.
    ///
    /// A manager without contexts is divided between the two lanes. In one with contexts, such as a quad partition,
    /// `Embedding` lends its SMs to `Dream`, and the others keep theirs. The service changes the layout as it sees fit, so
    /// do not rebalance the manager besides.
    ///
    /// Where SMs cannot change hands (before CUDA 12.5, in one context, or if the interactive lane has nothing to lend),
    /// the layout stays fixed; a warning is logged, and the [status](Embedder::status) has the reason.
    #[must_use]
    pub fn elastic(mut self, options: ElasticOptions) -> Self {
        self.elastic = Some(options);
        self
    }

    /// Does the same as [`elastic`](Self::elastic) for encoders of the caller's, which [`build_with`](Self::build_with)
    /// is given, by layouts of the caller's.
    #[must_use]
    pub fn elastic_with(mut self, options: ElasticOptions, layouts: Arc<dyn LaneLayouts>) -> Self {
        self.elastic = Some(options);
        self.layouts = Some(layouts);
        self
    }

    /// Loads a model from its folder and starts a service in the partitions of a manager. A manager without contexts is
    /// given those of [`init_quad_partition`](SmPartitionManager::init_quad_partition), or, if the lanes are
    /// [elastic](Self::elastic), one for each lane.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`], [`BertModel::load`] and [`build`](Self::build).
    pub fn load(
        self,
        folder: impl AsRef<Path>,
        manager: Arc<SmPartitionManager>,
    ) -> Result<Embedder> {
        self.load_on(folder, vec![manager])
    }

    /// Loads a model from its folder to several GPUs, and starts a service of all of them. Each has a copy of the weights
    /// in the partitions of its manager, and the lanes' batches go to whichever has room.
    ///
    /// A GPU that fails the same batch twice, or three in a row, gets no more work in that lane; its batches are computed
    /// by the others, and no request is lost. The [status](crate::EmbedderStatus::gpus) has the error. The service is dead when a lane has no GPU
    /// left.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::InvalidConfig`] without a manager; [`Error::InvalidOption`] for a
    /// [`pool`](Self::pool), which is of one GPU, and several managers.
    pub fn load_on(
        mut self,
        folder: impl AsRef<Path>,
        managers: Vec<Arc<SmPartitionManager>>,
    ) -> Result<Embedder> {
        let folder = ModelFolder::open(folder)?;
        if self.tokenize.is_none() {
            self = self.tokenizer(folder.tokenizer()?);
        }
        if self.pool.is_some() && managers.len() > 1 {
            return Err(Error::InvalidOption {
                name: "pool",
                value: format!("one, and {} GPUs", managers.len()),
                reason: "a pool is of one GPU".to_owned(),
            });
        }
        let mut replicas = Vec::with_capacity(managers.len());
        for manager in managers {
            self.ensure_partitioned(&manager)?;
            let precision = self
                .precision
                .unwrap_or_else(|| InferencePrecision::detect_optimal(manager.device()).precision);
            let model = match &self.pool {
                Some(pool) => BertModel::load(&folder, pool, precision)?,
                None => {
                    let context = manager.get_context(ContextId::Embedding)?;
                    BertModel::load(&folder, context.memory()?, precision)?
                }
            };
            replicas.push((model, manager));
        }
        self.build_replicas(replicas)
    }

    /// Starts a service with a model that is loaded, in the partitions of a manager. Without
    /// [`tokenizer`](Self::tokenizer), it takes tokens only.
    ///
    /// # Errors
    /// Those of [`BertEncoder::new`] and [`build_with`](Self::build_with); [`Error::Gpu`], also where the manager has
    /// contexts but not `Embedding` and `Dream`.
    pub fn build(self, model: &BertModel, manager: Arc<SmPartitionManager>) -> Result<Embedder> {
        self.build_replicas(vec![(model.clone(), manager)])
    }

    /// Starts a service with the same model on several GPUs, as [`load_on`](Self::load_on) does.
    ///
    /// # Errors
    /// As [`build`](Self::build); [`Error::InvalidConfig`] without a replica, or for models that differ in the dimension
    /// of their vectors.
    pub fn build_replicas(
        mut self,
        replicas: Vec<(BertModel, Arc<SmPartitionManager>)>,
    ) -> Result<Embedder> {
        let mut encoders = Encoders::default();
        let mut managers = Vec::new();
        let mut layouts: Vec<Arc<dyn LaneLayouts>> = Vec::new();
        let mut not_elastic = None;
        for (model, manager) in replicas {
            self.ensure_partitioned(&manager)?;
            if let PartitionMode::SingleContext { reason } = manager.allocation_status().mode {
                log::warn!(
                    "the embedding service runs in one context, so bulk work delays queries: {reason}"
                );
            }
            let vocabulary = model.config().vocabulary;
            self.vocabulary = Some(self.vocabulary.unwrap_or(vocabulary).min(vocabulary));
            let encoder = |id: ContextId, options: &LaneOptions| -> Result<BertEncoder> {
                let stream = manager.create_stream(id)?;
                BertEncoder::new(&model, stream, options.encoder)
            };
            let interactive = encoder(ContextId::Embedding, &self.interactive)?;
            let bulk = encoder(ContextId::Dream, &self.bulk)?;
            if let Some(options) = self.elastic {
                match elastic::prepare(options, &manager, [&interactive, &bulk])? {
                    Partitions::Ready(one) => layouts.push(one),
                    Partitions::Off(reason) => {
                        log::warn!("the embedding service's lanes are not elastic: {reason}");
                        not_elastic = Some(reason);
                    }
                }
            }
            encoders.interactive.push(Arc::new(interactive));
            encoders.bulk.push(Arc::new(bulk));
            managers.push(manager);
        }
        self.layouts =
            (not_elastic.is_none() && !layouts.is_empty()).then(|| elastic::together(layouts));
        self.start(encoders, managers, not_elastic)
    }

    /// Starts a service with encoders of the caller's, of the same model, in contexts that the caller chose.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for batches that cannot be formed, or encoders that differ in the dimension of their
    /// vectors; [`Error::InvalidOption`] for [`elastic`](Self::elastic) lanes without
    /// [layouts](Self::elastic_with); [`Error::Thread`].
    pub fn build_with(
        self,
        interactive: Arc<dyn Encoder>,
        bulk: Arc<dyn Encoder>,
    ) -> Result<Embedder> {
        self.build_replicas_with(vec![interactive], vec![bulk])
    }

    /// Starts a service with encoders of the caller's on several GPUs, as [`load_on`](Self::load_on) does: for each GPU,
    /// one of each lane.
    ///
    /// # Errors
    /// As [`build_with`](Self::build_with), and [`Error::InvalidConfig`] for lanes of different numbers of encoders, or
    /// of none.
    pub fn build_replicas_with(
        self,
        interactive: Vec<Arc<dyn Encoder>>,
        bulk: Vec<Arc<dyn Encoder>>,
    ) -> Result<Embedder> {
        if self.elastic.is_some() && self.layouts.is_none() {
            return Err(Error::InvalidOption {
                name: "elastic",
                value: "no layouts".to_owned(),
                reason: "encoders of the caller's need layouts of the caller's: `elastic_with`"
                    .to_owned(),
            });
        }
        if interactive.len() != bulk.len() {
            return Err(Error::InvalidConfig {
                field: "number of bulk encoders",
                found: bulk.len(),
                expected: format!("{}, as of interactive ones", interactive.len()),
            });
        }
        self.start(Encoders { interactive, bulk }, Vec::new(), None)
    }

    fn start(
        self,
        encoders: Encoders,
        managers: Vec<Arc<SmPartitionManager>>,
        not_elastic: Option<String>,
    ) -> Result<Embedder> {
        let core = |lane, encoders, options: LaneOptions| {
            LaneCore::new(lane, encoders, options.batches, options.depth)
        };
        let interactive = core(Lane::Interactive, encoders.interactive, self.interactive)?;
        let bulk = core(Lane::Bulk, encoders.bulk, self.bulk)?;
        let (dimension, other) = (interactive.limits.dimension, bulk.limits.dimension);
        if dimension != other {
            return Err(Error::InvalidConfig {
                field: "dimension of the bulk encoder's vectors",
                found: other,
                expected: format!("{dimension}, as of the interactive encoder"),
            });
        }
        let elastic = self.elastic.zip(self.layouts);
        let elastic = elastic.map(|(options, layouts)| Elastic::new(layouts, options.idle_after));
        let engine = Engine::new(interactive, bulk, elastic);
        let parts = Parts {
            tokenize: self.tokenize,
            tokenizer_threads: self.tokenizer_threads,
            vocabulary: self.vocabulary,
            managers,
            not_elastic,
        };
        Embedder::start(engine, parts)
    }

    /// Partitions the device, unless that was done.
    fn ensure_partitioned(&self, manager: &SmPartitionManager) -> Result<()> {
        if !manager.allocation_status().contexts.is_empty() {
            return Ok(());
        }
        match self.elastic {
            Some(elastic) => elastic.partition(manager),
            None => Ok(manager.init_quad_partition()?),
        }
    }

    fn options(&mut self, lane: Lane) -> &mut LaneOptions {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

impl fmt::Debug for EmbedderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedderBuilder")
            .field("precision", &self.precision)
            .field("vocabulary", &self.vocabulary)
            .field("tokenizer_threads", &self.tokenizer_threads)
            .field("elastic", &self.elastic)
            .field("interactive", &self.interactive)
            .field("bulk", &self.bulk)
            .finish_non_exhaustive()
    }
}
