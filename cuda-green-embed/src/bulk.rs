//! Any number of texts to vectors, in order and in bounded memory.

use std::{
    iter::Peekable,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    encoder::{Encoder, EncoderLimits, PendingEmbeddings},
    error::{Error, Result},
    streams::{OverlappedExecutor, Timeline},
    tokenize::Tokenizer,
};

/// Bytes of text that one batch is made of at most, so that texts of megabytes, of which only the start counts, do not
/// pile up.
const MOST_BYTES: usize = 4 << 20;
/// The tokens of a byte of text before any was seen, in thousandths: those of English.
const USUAL_TOKENS: u64 = 250;
/// The share of a batch that is filled by the estimate, so that few batches are split.
const FILL: f64 = 0.95;

/// Texts to vectors: tokenised on several threads while the GPU computes the batches before.
///
/// The memory is bounded, whatever the number of texts: one batch for each thread, and three.
#[derive(Clone, Copy)]
pub struct BulkEmbedder<'a> {
    tokenizer: &'a Tokenizer,
    encoder: &'a dyn Encoder,
    threads: usize,
}

impl<'a> BulkEmbedder<'a> {
    /// Makes one whose threads that tokenise are as many as the process may use at once.
    pub fn new(tokenizer: &'a Tokenizer, encoder: &'a dyn Encoder) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Self {
            tokenizer,
            encoder,
            threads,
        }
    }

    /// Sets the number of threads that tokenise, from 1 to 1,024.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self {
            threads: threads.clamp(1, 1024),
            ..self
        }
    }

    /// Embeds texts and delivers the number and the vector of each, in their order, on the calling thread. Batches are as
    /// full as the encoder allows, but for the last: vectors come once a batch is full or the texts end.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`], of [`Encoder::submit`] and of [`PendingEmbeddings::wait`], with the number of the
    /// text among all of them, and those of `deliver`. All texts of the batches before have been delivered.
    pub fn embed<T: AsRef<str> + Send>(
        &self,
        texts: impl IntoIterator<Item = T, IntoIter: Send>,
        mut deliver: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<Timeline> {
        let estimate = Estimate::new(self.tokenizer.max_length());
        let chunks = Chunks {
            texts: texts.into_iter().peekable(),
            first: 0,
            limits: self.encoder.limits(),
            estimate: &estimate,
        };
        let prepare = |chunk: Chunk<T>| {
            let mut batch = PackedBatch::new();
            let encoded = self.tokenizer.encode_into(&mut batch, &chunk.texts);
            encoded.map_err(|error| error.counted_from(chunk.first))?;
            estimate.learn(&chunk.texts, &batch);
            Ok((batch, chunk.first))
        };
        let encoder = Splitting {
            encoder: self.encoder,
            submitted: AtomicUsize::new(0),
        };
        OverlappedExecutor::new()
            .prepare_threads(self.threads)
            .execute_overlapped(chunks, prepare, &encoder, |first, vectors| {
                let mut numbered = (first..).zip(vectors.iter());
                numbered.try_for_each(|(text, vector)| deliver(text, vector))
            })
    }
}

/// The tokens that a text is likely to have, by those of the texts before.
struct Estimate {
    max_length: usize,
    bytes: AtomicU64,
    tokens: AtomicU64,
}

impl Estimate {
    fn new(max_length: usize) -> Self {
        Self {
            max_length,
            bytes: AtomicU64::new(1000),
            tokens: AtomicU64::new(USUAL_TOKENS),
        }
    }

    fn tokens_of(&self, text: &str) -> usize {
        let bytes = self.bytes.load(Ordering::Relaxed).max(1) as f64;
        let rate = self.tokens.load(Ordering::Relaxed) as f64 / bytes;
        // Two are the special ones.
        let tokens = (text.len() as f64 * rate).ceil() as usize + 2;
        tokens.min(self.max_length)
    }

    /// Learns from texts that were not cut.
    fn learn<T: AsRef<str>>(&self, texts: &[T], batch: &PackedBatch) {
        let (mut bytes, mut tokens) = (0, 0);
        for (text, bounds) in texts.iter().zip(batch.starts().windows(2)) {
            let length = (bounds[1] - bounds[0]) as usize;
            if length < self.max_length {
                bytes += text.as_ref().len() as u64;
                tokens += length.saturating_sub(2) as u64;
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

/// The texts of a batch, and the number of the first of them.
struct Chunk<T> {
    first: usize,
    texts: Vec<T>,
}

/// Texts in portions that are likely to fill a batch.
struct Chunks<'a, I: Iterator> {
    texts: Peekable<I>,
    first: usize,
    limits: EncoderLimits,
    estimate: &'a Estimate,
}

impl<T: AsRef<str>, I: Iterator<Item = T>> Iterator for Chunks<'_, I> {
    type Item = Chunk<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let most = (self.limits.tokens as f64 * FILL) as usize;
        let (mut texts, mut tokens, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = self.texts.peek() {
            tokens += self.estimate.tokens_of(next.as_ref());
            bytes += next.as_ref().len();
            let is_full = tokens > most || bytes > MOST_BYTES || texts.len() == self.limits.texts;
            if is_full && !texts.is_empty() {
                break;
            }
            texts.extend(self.texts.next());
        }
        let first = self.first;
        self.first += texts.len();
        (!texts.is_empty()).then_some(Chunk { first, texts })
    }
}

/// An encoder that takes a batch that does not fit as several, and counts texts from the first of all.
struct Splitting<'a> {
    encoder: &'a dyn Encoder,
    submitted: AtomicUsize,
}

impl Encoder for Splitting<'_> {
    fn limits(&self) -> EncoderLimits {
        self.encoder.limits()
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        let limits = self.encoder.limits();
        let mut first = self.submitted.fetch_add(batch.texts(), Ordering::Relaxed);
        let mut parts = Vec::new();
        let mut submit = |part: &PackedBatch| -> Result<()> {
            let pending = self.encoder.submit(part);
            let pending = pending.map_err(|error| error.counted_from(first))?;
            parts.push((first, pending));
            first += part.texts();
            Ok(())
        };
        if batch.tokens() <= limits.tokens && batch.texts() <= limits.texts {
            submit(batch)?;
        } else {
            let mut part = PackedBatch::new();
            for index in 0..batch.texts() {
                let text = batch.text(index).unwrap_or_default();
                let is_full =
                    part.tokens() + text.len() > limits.tokens || part.texts() == limits.texts;
                if is_full && !part.is_empty() {
                    submit(&part)?;
                    part.clear();
                }
                part.push(text);
            }
            submit(&part)?;
        }
        Ok(PendingEmbeddings::new(move || {
            let mut values = Vec::new();
            for (first, pending) in parts {
                let vectors = pending.wait();
                let vectors = vectors.map_err(|error| error.counted_from(first))?;
                if values.is_empty() {
                    values = vectors.into_values();
                } else {
                    values.extend_from_slice(vectors.values());
                }
            }
            Ok(Embeddings::new(limits.dimension, values))
        }))
    }
}

impl Error {
    /// Counts the text that the error is about from the first of all texts.
    fn counted_from(self, before: usize) -> Self {
        match self {
            Self::Tokenize { text, reason } => Self::Tokenize {
                text: before + text,
                reason,
            },
            Self::UnknownToken {
                text,
                token,
                vocabulary,
            } => Self::UnknownToken {
                text: before + text,
                token,
                vocabulary,
            },
            Self::EmptyText { text } => Self::EmptyText {
                text: before + text,
            },
            Self::Overflow { text, precision } => Self::Overflow {
                text: before + text,
                precision,
            },
            other => other,
        }
    }
}
