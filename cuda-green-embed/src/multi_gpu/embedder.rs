//! An embedder over the encoders of several GPUs.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    thread::{Builder, JoinHandle},
};

use super::{
    balancer::MultiGpuBalancer,
    queue::Queue,
    worker::{Record, Worker},
};
use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    encoder::{Encoder, EncoderLimits, PendingEmbeddings},
    error::{Error, Result},
};

/// Shares batches among the encoders of several GPUs, which hold the same model.
///
/// All take from one queue, each as it has room, so a GPU that is faster, or has more SMs, does more. Each keeps two
/// batches submitted. An encoder that fails with [`Error::Gpu`] or [`Error::CublasLt`] is retired, and its batches go to
/// the others; errors that are due to a batch end the call that it belongs to. Dropping it waits for the batches on the
/// way.
///
/// ```
/// use std::sync::Arc;
///
/// use cuda_green_embed::{Embeddings, Encoder, MultiGpuEmbedder, Result, Tokenizer};
///
/// fn embed(
///     tokenizer: &Tokenizer,
///     encoders: Vec<Arc<dyn Encoder>>,
///     texts: &[String],
/// ) -> Result<Embeddings> {
///     let embedder = MultiGpuEmbedder::new(encoders)?;
///     let vectors = embedder.embed_packed(&tokenizer.encode_batch(texts, 8)?)?;
///     for (gpu, status) in embedder.status().iter().enumerate() {
///         println!("GPU {gpu}: {} tokens, {:?}", status.tokens, status.retired);
///     }
///     Ok(vectors)
/// }
/// ```
pub struct MultiGpuEmbedder {
    limits: EncoderLimits,
    queue: Arc<Queue>,
    balancer: Arc<MultiGpuBalancer>,
    records: Vec<Arc<Record>>,
    threads: Vec<JoinHandle<()>>,
}

/// The state of one encoder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EncoderStatus {
    /// The number of batches whose vectors it has returned.
    pub batches: u64,
    /// The number of tokens in those.
    pub tokens: u64,
    /// The number of tokens on the way to it.
    pub tokens_on_the_way: u64,
    /// The error for which it was retired.
    pub retired: Option<Arc<Error>>,
}

impl MultiGpuEmbedder {
    /// Makes it of encoders, one for each GPU, each with a thread that ends when this is dropped.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without an encoder, or if they differ in the dimension of their vectors;
    /// [`Error::Thread`].
    pub fn new(encoders: Vec<Arc<dyn Encoder>>) -> Result<Self> {
        let balancer = Arc::new(MultiGpuBalancer::new(encoders.len())?);
        let limits = EncoderLimits::common(&encoders)?;
        let queue = Arc::new(Queue::new(encoders.len()));
        let records = encoders.iter().map(|_| Arc::new(Record::default()));
        // If a thread does not start, dropping this ends those that did.
        let mut embedder = Self {
            limits,
            queue,
            balancer,
            records: records.collect(),
            threads: Vec::new(),
        };
        for (index, (encoder, record)) in encoders.into_iter().zip(&embedder.records).enumerate() {
            let worker = Worker {
                index,
                encoder,
                queue: Arc::clone(&embedder.queue),
                balancer: Arc::clone(&embedder.balancer),
                record: Arc::clone(record),
            };
            let thread = Builder::new().name(format!("embed-gpu-{index}"));
            let thread = thread.spawn(move || worker.run()).map_err(Error::Thread)?;
            embedder.threads.push(thread);
        }
        Ok(embedder)
    }

    /// Encodes batches and returns their vectors in order. Threads may call it at the same time; their batches are taken
    /// in the order of the calls.
    ///
    /// # Errors
    /// The first error that is due to a batch, after which those of the call that wait are not computed;
    /// [`Error::NoGpuLeft`] if all encoders are retired.
    ///
    /// # Panics
    /// If an encoder panics: the panic comes out of the call that the batch belongs to, and the encoder is retired.
    pub fn embed_batch(&self, batches: Vec<PackedBatch>) -> Result<Vec<Embeddings>> {
        self.queue.add(batches).wait().map_err(|(_, error)| error)
    }

    /// Encodes a batch of any size, in pieces that encoders take, and returns the vectors in order. A batch that fits one
    /// encoder is cut as well, so that each GPU has a piece of it.
    ///
    /// # Errors
    /// As [`embed_batch`](Self::embed_batch), with the numbers of texts as in this batch. A text that exceeds the limits
    /// is an [`Error::BatchTooLarge`].
    ///
    /// # Panics
    /// As [`embed_batch`](Self::embed_batch).
    pub fn embed_packed(&self, batch: &PackedBatch) -> Result<Embeddings> {
        let mut firsts = Vec::new();
        let mut pieces = Vec::new();
        let share = batch.tokens().div_ceil(self.records.len().max(1));
        let most = share.min(self.limits.tokens);
        let mut piece = PackedBatch::new();
        let mut first = 0;
        for index in 0..batch.texts() {
            let text = batch.text(index).unwrap_or_default();
            let full = piece.tokens() + text.len() > most || piece.texts() >= self.limits.texts;
            if full && !piece.is_empty() {
                firsts.push(first);
                pieces.push(std::mem::take(&mut piece));
                first = index;
            }
            piece.push(text);
        }
        if !piece.is_empty() {
            firsts.push(first);
            pieces.push(piece);
        }
        let vectors = self.queue.add(pieces).wait().map_err(|(piece, error)| {
            let first = firsts.get(piece).copied().unwrap_or_default();
            in_whole_batch(error, first)
        })?;
        let values = vectors.into_iter().flat_map(Embeddings::into_values);
        Ok(Embeddings::new(self.limits.dimension, values.collect()))
    }

    /// Returns the state of each encoder.
    pub fn status(&self) -> Vec<EncoderStatus> {
        let on_the_way = self.balancer.on_the_way();
        let states = self.records.iter().zip(on_the_way);
        states
            .map(|(record, tokens_on_the_way)| EncoderStatus {
                batches: record.batches.load(Ordering::Relaxed),
                tokens: record.tokens.load(Ordering::Relaxed),
                tokens_on_the_way,
                retired: record.retired.get().cloned(),
            })
            .collect()
    }
}

/// Returns an error of a piece with the number of the text in the batch that the piece is of.
fn in_whole_batch(error: Error, first: usize) -> Error {
    match error {
        Error::UnknownToken {
            text,
            token,
            vocabulary,
        } => Error::UnknownToken {
            text: first + text,
            token,
            vocabulary,
        },
        Error::EmptyText { text } => Error::EmptyText { text: first + text },
        Error::Overflow { text, precision } => Error::Overflow {
            text: first + text,
            precision,
        },
        other => other,
    }
}

/// The GPUs as one encoder: each batch goes to the first that has room, and further ones wait in the queue, which has no
/// limit. The limits of a batch are the smallest of all encoders.
impl Encoder for MultiGpuEmbedder {
    fn limits(&self) -> EncoderLimits {
        self.limits
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        let call = self.queue.add(vec![batch.clone()]);
        let dimension = self.limits.dimension;
        Ok(PendingEmbeddings::new(move || {
            let vectors = call.wait().map_err(|(_, error)| error)?;
            let first = vectors.into_iter().next();
            Ok(first.unwrap_or_else(|| Embeddings::new(dimension, Vec::new())))
        }))
    }
}

impl Drop for MultiGpuEmbedder {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // It catches the panics of its encoder, and has none of its own.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for MultiGpuEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiGpuEmbedder")
            .field("limits", &self.limits)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
