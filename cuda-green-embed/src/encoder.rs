//! The trait of what turns batches of tokens into vectors.

use std::fmt;

use crate::{batch::PackedBatch, embeddings::Embeddings, error::Result};

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

    /// Waits for the vectors.
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
