//! The options of a service, and what it is made of.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use cuda_green::{ContextId, CudaDevice, GpuMemoryPool, PartitionMode, SmPartitionManager};

use super::{
    embedder::{Embedder, Tokenize},
    engine::Engine,
    lane::LaneCore,
    status::Lane,
};
use crate::{
    batch::BatchConfig,
    encoder::{BertEncoder, BertModel, Encoder, EncoderOptions, activation_bytes, weight_bytes},
    error::{Error, Result},
    model::ModelFolder,
    precision::InferencePrecision,
    tokenize::Tokenizer,
};

/// The options of an [`Embedder`]. The defaults serve most programs.
#[derive(Clone)]
pub struct EmbedderBuilder {
    precision: Option<InferencePrecision>,
    pool: Option<GpuMemoryPool>,
    tokenize: Option<Tokenize>,
    vocabulary: Option<usize>,
    interactive: LaneOptions,
    bulk: LaneOptions,
}

#[derive(Clone, Debug)]
struct LaneOptions {
    batches: BatchConfig,
    depth: usize,
    encoder: EncoderOptions,
}

impl Default for EmbedderBuilder {
    fn default() -> Self {
        Self {
            precision: None,
            pool: None,
            tokenize: None,
            vocabulary: None,
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

    /// Loads a model from its folder and starts a service in the partitions of a manager. A manager without contexts is
    /// given those of [`init_quad_partition`](SmPartitionManager::init_quad_partition).
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`], [`BertModel::load`] and [`build`](Self::build).
    pub fn load(
        self,
        folder: impl AsRef<Path>,
        manager: Arc<SmPartitionManager>,
    ) -> Result<Embedder> {
        let folder = ModelFolder::open(folder)?;
        let this = self.with_tokenizer_of(&folder)?;
        ensure_partitioned(&manager)?;
        let precision = this.precision_on(manager.device());
        let model = match &this.pool {
            Some(pool) => BertModel::load(&folder, pool, precision)?,
            None => {
                let context = manager.get_context(ContextId::Embedding)?;
                BertModel::load(&folder, context.memory()?, precision)?
            }
        };
        this.build(&model, manager)
    }

    /// Returns the bytes of device memory that a service with these options takes from its pool: the weights and the
    /// activations of both lanes, exactly.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::UnsupportedSizes`], [`Error::UnsupportedPrecision`] and [`Error::InvalidOption`] where
    /// it would not run.
    pub fn device_bytes(&self, folder: &ModelFolder, device: &CudaDevice) -> Result<u64> {
        let (config, precision) = (folder.config(), self.precision_on(device));
        BertModel::ensure_supported(config, device)?;
        precision.ensure_supported()?;
        let mut bytes = weight_bytes(config, precision);
        for lane in [&self.interactive, &self.bulk] {
            lane.encoder.check(folder.max_length())?;
            bytes += activation_bytes(config, precision, lane.encoder.max_tokens);
        }
        Ok(bytes as u64)
    }

    /// Returns the precision that was set, or the device's best.
    pub(crate) fn precision_on(&self, device: &CudaDevice) -> InferencePrecision {
        self.precision
            .unwrap_or_else(|| InferencePrecision::detect_optimal(device).precision)
    }

    /// Takes the folder's tokeniser, unless one was set.
    pub(crate) fn with_tokenizer_of(self, folder: &ModelFolder) -> Result<Self> {
        match &self.tokenize {
            Some(_) => Ok(self),
            None => Ok(self.tokenizer(folder.tokenizer()?)),
        }
    }

    /// Starts a service with a model that is loaded, in the partitions of a manager. Without
    /// [`tokenizer`](Self::tokenizer), it takes tokens only.
    ///
    /// # Errors
    /// Those of [`BertEncoder::new`] and [`build_with`](Self::build_with); [`Error::Gpu`], also where the manager has
    /// contexts but not `Embedding` and `Dream`.
    pub fn build(
        mut self,
        model: &BertModel,
        manager: Arc<SmPartitionManager>,
    ) -> Result<Embedder> {
        ensure_partitioned(&manager)?;
        if let PartitionMode::SingleContext { reason } = manager.allocation_status().mode {
            log::warn!(
                "the embedding service runs in one context, so bulk work delays queries: {reason}"
            );
        }
        let vocabulary = model.config().vocabulary;
        self.vocabulary = Some(self.vocabulary.unwrap_or(vocabulary).min(vocabulary));
        let encoder = |id: ContextId, options: &LaneOptions| -> Result<Arc<dyn Encoder>> {
            let stream = manager.create_stream(id)?;
            Ok(Arc::new(BertEncoder::new(model, stream, options.encoder)?))
        };
        let interactive = encoder(ContextId::Embedding, &self.interactive)?;
        let bulk = encoder(ContextId::Dream, &self.bulk)?;
        self.start(interactive, bulk, Some(Arc::clone(&manager)))
    }

    /// Starts a service with encoders of the caller's, of the same model, in contexts that the caller chose.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for batches that cannot be formed, or encoders that differ in the dimension of their
    /// vectors; [`Error::Thread`].
    pub fn build_with(
        self,
        interactive: Arc<dyn Encoder>,
        bulk: Arc<dyn Encoder>,
    ) -> Result<Embedder> {
        self.start(interactive, bulk, None)
    }

    fn start(
        self,
        interactive: Arc<dyn Encoder>,
        bulk: Arc<dyn Encoder>,
        manager: Option<Arc<SmPartitionManager>>,
    ) -> Result<Embedder> {
        let (dimension, other) = (interactive.limits().dimension, bulk.limits().dimension);
        if dimension != other {
            return Err(Error::InvalidConfig {
                field: "dimension of the bulk encoder's vectors",
                found: other,
                expected: format!("{dimension}, as of the interactive encoder"),
            });
        }
        let core = |lane, encoder, options: LaneOptions| {
            LaneCore::new(lane, encoder, options.batches, options.depth)
        };
        let engine = Engine::new(
            core(Lane::Interactive, interactive, self.interactive)?,
            core(Lane::Bulk, bulk, self.bulk)?,
        );
        Embedder::start(engine, self.tokenize, self.vocabulary, manager)
    }

    fn options(&mut self, lane: Lane) -> &mut LaneOptions {
        match lane {
            Lane::Interactive => &mut self.interactive,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

/// Partitions the device, unless that was done.
pub(crate) fn ensure_partitioned(manager: &SmPartitionManager) -> Result<()> {
    if manager.allocation_status().contexts.is_empty() {
        manager.init_quad_partition()?;
    }
    Ok(())
}

impl fmt::Debug for EmbedderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedderBuilder")
            .field("precision", &self.precision)
            .field("vocabulary", &self.vocabulary)
            .field("interactive", &self.interactive)
            .field("bulk", &self.bulk)
            .finish_non_exhaustive()
    }
}
