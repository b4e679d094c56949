//! The options of a service.

mod build;

use std::{fmt, num::NonZero, sync::Arc, thread, time::Duration};

use cuda_green::GpuMemoryPool;

use super::{
    elastic::{ElasticOptions, LaneLayouts},
    embedder::Tokenize,
    status::Lane,
};
use crate::{
    batch::BatchConfig, encoder::EncoderOptions, error::Result, precision::InferencePrecision,
    tokenize::Tokenizer,
};

/// The most threads that tokenise by default: a thread does about 150,000 short texts a second, and a GPU 500,000.
const TOKENIZER_THREADS: usize = 8;

/// The options of an [`Embedder`](super::Embedder). The defaults serve most programs.
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

    /// Sets the pool that the weights come from; by default that of the context [`Embedding`](cuda_green::ContextId::Embedding).
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
    /// `Embedding` lends its SMs to `Dream`, and the others keep theirs. The service changes the layout as it sees fit, and
    /// gives each context what it was created with when queries come, so do not rebalance the manager besides, and let
    /// one service at most of a manager be elastic. `Dream` is to have no other work: queries that come after the SMs went
    /// back would wait for it.
    ///
    /// Where SMs cannot change hands (before CUDA 12.5, in one context, or if the interactive lane has nothing to lend),
    /// the layout stays fixed; a warning is logged, and the [status](super::Embedder::status) has the reason.
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
