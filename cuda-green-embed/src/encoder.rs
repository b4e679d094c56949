//! The trait of what turns batches of tokens into vectors.

mod bert_encoder;
mod bert_model;
#[cfg(feature = "test-utils")]
mod cpu;
mod device_weights;
mod kernel_set;
mod pass;
mod slots;

use std::{fmt, sync::Arc};

pub use bert_encoder::{BertEncoder, EncoderOptions};
pub use bert_model::{BertModel, ModelHead};
#[cfg(feature = "test-utils")]
pub use cpu::CpuEncoder;
pub(crate) use device_weights::weight_bytes;
pub(crate) use pass::activation_bytes;

use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    error::{Error, Result},
};

/// The limits of an encoder, fixed when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLimits {
    /// The number of values in a vector.
    pub dimension: usize,
    /// The most tokens in one text, special ones included.
    pub tokens_of_text: usize,
    /// The most tokens in a batch.
    pub tokens: usize,
    /// The most texts in a batch.
    pub texts: usize,
}

impl EncoderLimits {
    /// Returns the limits that all of some encoders keep to.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] without an encoder, or for vectors of different dimensions.
    pub(crate) fn common(encoders: &[Arc<dyn Encoder>]) -> Result<Self> {
        let mut all = encoders.iter().map(|encoder| encoder.limits());
        let mut limits = all.next().ok_or_else(|| Error::InvalidConfig {
            field: "number of GPUs",
            found: 0,
            expected: "at least 1".to_owned(),
        })?;
        for other in all {
            if other.dimension != limits.dimension {
                return Err(Error::InvalidConfig {
                    field: "dimension of an encoder's vectors",
                    found: other.dimension,
                    expected: format!("{}, as of the first encoder", limits.dimension),
                });
            }
            limits.tokens_of_text = limits.tokens_of_text.min(other.tokens_of_text);
            limits.tokens = limits.tokens.min(other.tokens);
            limits.texts = limits.texts.min(other.texts);
        }
        Ok(limits)
    }

    /// Checks that a batch fits, and that each text has tokens and each token is in the vocabulary.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`], [`Error::EmptyText`], [`Error::UnknownToken`].
    pub fn check(&self, batch: &PackedBatch, vocabulary: usize) -> Result<()> {
        for (unit, asked, limit) in [
            ("tokens", batch.tokens(), self.tokens),
            ("texts", batch.texts(), self.texts),
            ("tokens in one text", batch.longest(), self.tokens_of_text),
        ] {
            if asked > limit {
                return Err(Error::BatchTooLarge { unit, asked, limit });
            }
        }
        for (text, ends) in batch.starts().windows(2).enumerate() {
            if ends[0] == ends[1] {
                return Err(Error::EmptyText { text });
            }
        }
        let unknown = |id: &u32| *id as usize >= vocabulary;
        let Some(place) = batch.ids().iter().position(unknown) else {
            return Ok(());
        };
        // The first text that ends behind it.
        let ends = batch.starts().get(1..).unwrap_or_default();
        Err(Error::UnknownToken {
            text: ends.partition_point(|end| *end as usize <= place),
            token: batch.ids()[place],
            vocabulary,
        })
    }
}

/// A model that turns batches of tokens into vectors.
pub trait Encoder: Send + Sync {
    /// Returns its limits.
    fn limits(&self) -> EncoderLimits;

    /// Submits a batch and returns before its vectors are there, if the encoder can. Batches run in the order in which
    /// they are submitted. Waits for an earlier batch where too many are on the way.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`](crate::Error::BatchTooLarge) and [`Error::UnknownToken`](crate::Error::UnknownToken)
    /// for a batch that does not fit; [`Error::Gpu`](crate::Error::Gpu).
    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings>;

    /// Encodes a batch and waits for its vectors.
    ///
    /// # Errors
    /// As [`submit`](Self::submit) and [`PendingEmbeddings::wait`].
    fn encode(&self, batch: &PackedBatch) -> Result<Embeddings> {
        self.submit(batch)?.wait()
    }
}

/// The vectors of a submitted batch, which may still be computed. If it is dropped, the batch is computed all the same
/// and its vectors are not read.
#[must_use = "the vectors are lost if this is dropped"]
pub struct PendingEmbeddings {
    wait: Box<dyn FnOnce() -> Result<Embeddings> + Send>,
}

impl PendingEmbeddings {
    /// Makes it from what waits for the vectors and returns them.
    pub fn new(wait: impl FnOnce() -> Result<Embeddings> + Send + 'static) -> Self {
        Self {
            wait: Box::new(wait),
        }
    }

    /// Waits for the vectors. Must not be called inside [`PartitionStream::with`](cuda_green::PartitionStream::with):
    /// a rebalance would wait for the closure, and this for the rebalance.
    ///
    /// # Errors
    /// [`Error::Overflow`](crate::Error::Overflow); [`Error::Gpu`](crate::Error::Gpu) for a fault.
    pub fn wait(self) -> Result<Embeddings> {
        (self.wait)()
    }
}

impl fmt::Debug for PendingEmbeddings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingEmbeddings").finish_non_exhaustive()
    }
}
