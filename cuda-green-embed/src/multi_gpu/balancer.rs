//! The tokens on the way to each GPU.

use std::sync::Mutex;

use crate::{
    error::{Error, Result},
    lock::lock,
};

/// Counts the tokens on the way to each GPU, for programs that choose the GPU of a batch themselves.
///
/// [`MultiGpuEmbedder`](super::MultiGpuEmbedder) needs no choice, as its GPUs take work when they have room for it; it
/// counts here to tell its state.
#[derive(Debug)]
pub struct MultiGpuBalancer {
    tokens: Mutex<Vec<u64>>,
}

impl MultiGpuBalancer {
    /// Makes one for this number of GPUs, with nothing on the way.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for none.
    pub fn new(gpu_count: usize) -> Result<Self> {
        if gpu_count == 0 {
            return Err(Error::InvalidConfig {
                field: "number of GPUs",
                found: 0,
                expected: "at least 1".to_owned(),
            });
        }
        Ok(Self {
            tokens: Mutex::new(vec![0; gpu_count]),
        })
    }

    /// Returns the number of GPUs.
    pub fn gpu_count(&self) -> usize {
        lock(&self.tokens).len()
    }

    /// Returns the GPU with the fewest tokens on the way, the first of equal ones.
    pub fn least_loaded_gpu(&self) -> usize {
        least(&lock(&self.tokens))
    }

    /// Chooses the GPU with the fewest tokens on the way and counts these tokens to it, in one step: threads that choose
    /// at the same time see each other's tokens.
    pub fn assign(&self, tokens: u64) -> usize {
        let mut counts = lock(&self.tokens);
        let gpu = least(&counts);
        if let Some(count) = counts.get_mut(gpu) {
            *count = count.saturating_add(tokens);
        }
        gpu
    }

    /// Counts tokens that are on the way to a GPU from now on.
    ///
    /// # Errors
    /// [`Error::NoSuchGpu`].
    pub fn record_submit(&self, gpu: usize, tokens: u64) -> Result<()> {
        self.change(gpu, |count| count.saturating_add(tokens))
    }

    /// Takes off tokens that are computed. A count does not fall below 0.
    ///
    /// # Errors
    /// [`Error::NoSuchGpu`].
    pub fn record_complete(&self, gpu: usize, tokens: u64) -> Result<()> {
        self.change(gpu, |count| count.saturating_sub(tokens))
    }

    /// Returns the tokens on the way to each GPU.
    pub fn on_the_way(&self) -> Vec<u64> {
        lock(&self.tokens).clone()
    }

    fn change(&self, gpu: usize, change: impl FnOnce(u64) -> u64) -> Result<()> {
        let mut counts = lock(&self.tokens);
        let gpus = counts.len();
        let count = counts.get_mut(gpu);
        let count = count.ok_or(Error::NoSuchGpu { asked: gpu, gpus })?;
        *count = change(*count);
        Ok(())
    }
}

/// Returns the index of the least count, the first of equal ones.
fn least(counts: &[u64]) -> usize {
    let gpus = counts.iter().enumerate();
    gpus.min_by_key(|(_, count)| **count)
        .map_or(0, |(gpu, _)| gpu)
}
