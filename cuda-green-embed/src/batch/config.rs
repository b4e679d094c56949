//! The sizes and times of dynamic batching.

use std::time::Duration;

use crate::{
    encoder::EncoderLimits,
    error::{Error, Result},
};

/// The sizes and times by which a [`BatchAccumulator`](super::BatchAccumulator) forms batches.
///
/// A batch is due when it is full, when its oldest text has waited for `max_wait`, or, while the encoder is idle, as
/// soon as `min_batch_size` texts are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// The most texts in a batch.
    pub max_batch_size: usize,
    /// The most tokens in a batch, special ones included.
    pub max_tokens: usize,
    /// The longest wait of a text for others to come, counted from its own arrival.
    pub max_wait: Duration,
    /// The number of texts from which an idle encoder is not kept waiting for more. With 1 it never waits, which gives
    /// the lowest latency under light load; more give fuller batches. It never delays a text beyond `max_wait`.
    pub min_batch_size: usize,
    /// The most texts that may wait. Further ones are refused, so that a service which is too slow says so instead of
    /// answering ever later.
    pub max_pending: usize,
}

impl Default for BatchConfig {
    /// Returns 64 texts, 16,384 tokens, 10 ms, at least 8 texts, and 4,096 texts waiting.
    fn default() -> Self {
        Self {
            max_batch_size: 64,
            max_tokens: 16_384,
            max_wait: Duration::from_millis(10),
            min_batch_size: 8,
            max_pending: 4096,
        }
    }
}

impl BatchConfig {
    /// Returns it with the sizes lowered to what an encoder takes.
    #[must_use]
    pub fn within(mut self, limits: EncoderLimits) -> Self {
        self.max_batch_size = self.max_batch_size.min(limits.texts);
        self.max_tokens = self.max_tokens.min(limits.tokens);
        self.min_batch_size = self.min_batch_size.min(self.max_batch_size);
        self
    }

    /// Ensures that batches can be formed by it.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a size of 0, a minimum above the maximum, and a queue that holds less than a batch.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, found: usize, expected: String| {
            Err(Error::InvalidConfig {
                field,
                found,
                expected,
            })
        };
        let max = self.max_batch_size;
        if max == 0 {
            return refuse("max_batch_size", max, "at least 1".to_owned());
        }
        if self.max_tokens == 0 {
            return refuse("max_tokens", 0, "at least 1".to_owned());
        }
        if !(1..=max).contains(&self.min_batch_size) {
            let expected = format!("1 to max_batch_size, which is {max}");
            return refuse("min_batch_size", self.min_batch_size, expected);
        }
        if self.max_pending < max {
            let expected = format!("at least max_batch_size, which is {max}");
            return refuse("max_pending", self.max_pending, expected);
        }
        Ok(())
    }
}
