//! The encoder of a BERT model in a partition.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use cuda_green::{PartitionStream, Stream};

use super::{
    Encoder, EncoderLimits, PendingEmbeddings,
    bert_model::BertModel,
    pass::{Activations, Pass, capacity_for},
    slots::Slot,
};
use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    error::{Error, Result},
    graphs::{RecordedGraph, Recording, bucket_for, buckets},
    lock::lock,
};

/// The batches that can be on their way at once: one that is written, one that is computed, one that is read.
const SLOTS: usize = 3;

/// The sizes that an encoder is made for. Its memory grows with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderOptions {
    /// The most tokens in a batch: 16,384 by default.
    pub max_tokens: u32,
    /// The most texts in a batch: 4,096 by default.
    pub max_texts: u32,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        Self {
            max_tokens: 16_384,
            max_texts: 4_096,
        }
    }
}

impl EncoderOptions {
    /// Sets the most tokens in a batch, and the most texts to a quarter of it.
    #[must_use]
    pub fn max_tokens(self, tokens: u32) -> Self {
        Self {
            max_tokens: tokens,
            max_texts: tokens.div_ceil(4),
        }
    }

    /// Sets the most texts in a batch.
    #[must_use]
    pub fn max_texts(self, texts: u32) -> Self {
        Self {
            max_texts: texts,
            ..self
        }
    }

    /// Checks the sizes for a model whose texts have up to so many tokens.
    pub(crate) fn check(&self, max_length: usize) -> Result<()> {
        if (self.max_tokens as usize) < max_length || self.max_tokens > 1 << 20 {
            return Err(Error::InvalidOption {
                name: "max_tokens",
                value: self.max_tokens.to_string(),
                reason: format!(
                    "a batch has room for one text of {max_length} tokens and for 2^20 tokens at most"
                ),
            });
        }
        if self.max_texts == 0 || self.max_texts > self.max_tokens {
            return Err(Error::InvalidOption {
                name: "max_texts",
                value: self.max_texts.to_string(),
                reason: format!("a batch has 1 to {} texts", self.max_tokens),
            });
        }
        Ok(())
    }
}

/// A BERT model that runs in a partition.
///
/// A batch is one launch of a CUDA graph: it allocates nothing and compiles nothing. When the encoder is made, every
/// size of batch has run once. After a rebalance the graphs are captured again, by [`prepare`](Self::prepare) or by the
/// first batch of each size.
///
/// Up to three batches are on their way at once. A fourth [`submit`](Encoder::submit) waits for the oldest of them,
/// whose vectors are kept until they are asked for.
pub struct BertEncoder {
    inner: Arc<Inner>,
}

struct Inner {
    model: BertModel,
    stream: PartitionStream,
    limits: EncoderLimits,
    buckets: Vec<Bucket>,
    sizes: Vec<u32>,
    slots: Vec<Arc<Slot>>,
    activations: Arc<Activations>,
    on_the_way: Mutex<OnTheWay>,
}

/// The graphs of one size of batch, one for each slot.
struct Bucket {
    graphs: Vec<RecordedGraph<Pass>>,
}

/// The batches on their way, oldest first, and the slots without one.
struct OnTheWay {
    free: Vec<usize>,
    /// The slots whose last batch may still run, since the wait for it was refused.
    unsure: Vec<usize>,
    batches: VecDeque<Arc<Submitted>>,
}

/// A submitted batch.
struct Submitted {
    slot: usize,
    texts: usize,
    vectors: Mutex<Option<Result<Embeddings>>>,
}

impl Recording for Pass {
    unsafe fn choose(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.choose_products(stream) }
    }

    unsafe fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the caller keeps the pass; all passes of an encoder go into its one stream.
        unsafe { self.run(stream) }
    }
}

impl BertEncoder {
    /// Makes an encoder whose work runs in a stream of a partition, and runs every size of batch once.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for sizes of 0 or a text that does not fit into a batch; [`Error::Gpu`], also where the
    /// pool has too little memory; [`Error::CublasLt`].
    pub fn new(
        model: &BertModel,
        stream: PartitionStream,
        options: EncoderOptions,
    ) -> Result<Self> {
        let max_length = model.inner.max_length;
        options.check(max_length)?;
        let capacity = capacity_for(options.max_tokens);
        let dimension = model.config().hidden_size;
        let activations = Arc::new(Activations::new(model, capacity)?);
        let slots = (0..SLOTS).map(|_| {
            let texts = options.max_texts as usize;
            Slot::new(model.device(), capacity as usize, texts, dimension).map(Arc::new)
        });
        let slots = slots.collect::<Result<Vec<_>>>()?;
        let sizes = buckets(options.max_tokens);
        let buckets = sizes.iter().map(|bucket| {
            let size = (*bucket, options.max_texts.min(*bucket));
            let products = Arc::default();
            let graphs = slots.iter().map(|slot| {
                let pass = Pass::new(model, &activations, slot, &products, size);
                RecordedGraph::new(pass)
            });
            Bucket {
                graphs: graphs.collect(),
            }
        });
        let encoder = Self {
            inner: Arc::new(Inner {
                limits: EncoderLimits {
                    dimension,
                    tokens_of_text: max_length,
                    tokens: options.max_tokens as usize,
                    texts: options.max_texts as usize,
                },
                buckets: buckets.collect(),
                sizes,
                on_the_way: Mutex::new(OnTheWay {
                    free: (0..slots.len()).collect(),
                    unsure: Vec::new(),
                    batches: VecDeque::new(),
                }),
                slots,
                activations,
                model: model.clone(),
                stream,
            }),
        };
        encoder.prepare()?;
        Ok(encoder)
    }

    /// Captures the graphs for the SMs that the partition has now, after every size of batch has run there once, so that
    /// no later batch has to. Batches on their way are waited for.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn prepare(&self) -> Result<()> {
        let mut way = self.inner.lock();
        while let Some(oldest) = way.batches.front().cloned() {
            self.inner.settle(&mut way, &oldest);
        }
        self.inner.make_sure(&mut way)?;
        let nothing = PackedBatch::new();
        for slot in &self.inner.slots {
            slot.write(&nothing)?;
        }
        for bucket in &self.inner.buckets {
            // All slots use the same kernels.
            if let Some(graph) = bucket.graphs.first() {
                graph.run(&self.inner.stream)?;
            }
            for graph in &bucket.graphs {
                graph.prepare(&self.inner.stream)?;
            }
        }
        Ok(())
    }

    /// Returns the model.
    pub fn model(&self) -> &BertModel {
        &self.inner.model
    }

    /// Returns the bytes of device memory that the encoder takes besides the model's weights.
    pub fn activation_bytes(&self) -> usize {
        self.inner.activations.bytes()
    }
}

impl Encoder for BertEncoder {
    fn limits(&self) -> EncoderLimits {
        self.inner.limits
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        self.inner.check(batch)?;
        if batch.is_empty() {
            let none = Embeddings::new(self.inner.limits.dimension, Vec::new());
            return Ok(PendingEmbeddings::new(move || Ok(none)));
        }
        let submitted = self.inner.submit(batch)?;
        let inner = Arc::clone(&self.inner);
        Ok(PendingEmbeddings::new(move || inner.wait(&submitted)))
    }
}

impl Inner {
    /// Ensures that a batch fits.
    fn check(&self, batch: &PackedBatch) -> Result<()> {
        self.limits.check(batch, self.model.config().vocabulary)
    }

    fn submit(&self, batch: &PackedBatch) -> Result<Arc<Submitted>> {
        let mut way = self.lock();
        let index = loop {
            if let Some(index) = way.free.pop() {
                break index;
            }
            match way.batches.front().cloned() {
                Some(oldest) => self.settle(&mut way, &oldest),
                None if way.unsure.is_empty() => return Err(Error::EncoderBroken),
                None => self.make_sure(&mut way)?,
            }
        };
        let mut may_run = false;
        match self.launch(index, batch, &mut may_run) {
            Ok(()) => {
                let submitted = Arc::new(Submitted {
                    slot: index,
                    texts: batch.texts(),
                    vectors: Mutex::new(None),
                });
                way.batches.push_back(Arc::clone(&submitted));
                Ok(submitted)
            }
            Err(error) => {
                match may_run {
                    true => way.unsure.push(index),
                    false => way.free.push(index),
                }
                Err(error)
            }
        }
    }

    /// Writes a batch into a slot and launches its graph. After an error, says whether it may run all the same.
    fn launch(&self, index: usize, batch: &PackedBatch, may_run: &mut bool) -> Result<()> {
        let slot = &self.slots[index];
        let bucket = bucket_for(&self.sizes, batch.tokens()).ok_or(Error::BatchTooLarge {
            unit: "tokens",
            asked: batch.tokens(),
            limit: self.limits.tokens,
        })?;
        let graph = &self.buckets[bucket].graphs[index];
        slot.write(batch)?;
        let launched = self.stream.with(|stream| {
            *may_run = true;
            graph.launch_in(stream)?;
            stream.record(&slot.done)
        });
        if launched.is_err() && *may_run {
            match self.stream.synchronize() {
                Ok(()) => *may_run = false,
                Err(error) => log::error!("waiting for a batch whose launch failed: {error}"),
            }
        }
        graph.explained(launched)
    }

    /// Waits for a batch's vectors, unless another thread had to make room and has read them.
    fn wait(&self, submitted: &Arc<Submitted>) -> Result<Embeddings> {
        // Without the lock, so that others can submit. If the slot is used again meanwhile, this waits for the batch in
        // it now, and finds its own vectors read.
        let slot = &self.slots[submitted.slot];
        if lock(&submitted.vectors).is_none() {
            // The error, if any, is found again below.
            let _ = slot.done.synchronize();
        }
        let mut way = self.lock();
        self.settle(&mut way, submitted);
        drop(way);
        lock(&submitted.vectors)
            .take()
            .unwrap_or(Err(Error::EncoderBroken))
    }

    /// Waits for the last batches of the slots of which it is unsure whether they still run, and frees these.
    fn make_sure(&self, way: &mut OnTheWay) -> Result<()> {
        if !way.unsure.is_empty() {
            self.stream.synchronize()?;
            way.free.append(&mut way.unsure);
        }
        Ok(())
    }

    /// Reads a batch's vectors once they are there, unless that was done, and frees its slot.
    fn settle(&self, way: &mut OnTheWay, submitted: &Arc<Submitted>) {
        let position = way
            .batches
            .iter()
            .position(|batch| Arc::ptr_eq(batch, submitted));
        let Some(position) = position else {
            return;
        };
        way.batches.remove(position);
        let slot = &self.slots[submitted.slot];
        // A capture forbids the wait for the event to this thread, or to all, and not that for the stream.
        let done = slot.done.synchronize();
        let done = done.or_else(|error| self.stream.synchronize().map_err(|_| error));
        match done {
            Ok(()) => way.free.push(submitted.slot),
            Err(_) => way.unsure.push(submitted.slot),
        }
        let vectors = done.map_err(Error::from).and_then(|()| {
            let precision = self.model.precision().name();
            slot.read(submitted.texts, precision)
        });
        *lock(&submitted.vectors) = Some(vectors);
    }

    fn lock(&self) -> MutexGuard<'_, OnTheWay> {
        lock(&self.on_the_way)
    }
}

impl fmt::Debug for BertEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BertEncoder")
            .field("model", &self.inner.model)
            .field("limits", &self.inner.limits)
            .finish_non_exhaustive()
    }
}
