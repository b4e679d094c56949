//! Pinned memory for batches on their way: what the GPU reads of a batch, and where it writes the vectors.

use std::sync::Mutex;

use cuda_green::{CudaDevice, Event, PinnedBuffer, sys::CUdeviceptr};

use crate::{
    batch::PackedBatch,
    embeddings::Embeddings,
    error::{Error, Result},
    lock::lock,
};

/// The words in front of the tokens: the numbers of tokens and texts, and two that are not used.
const HEADER: usize = 4;

/// The memory of one batch on its way.
pub(super) struct Slot {
    /// The layout of `input` in `kernels/bert.cu`.
    input: Mutex<PinnedBuffer<u32>>,
    output: Mutex<PinnedBuffer<f32>>,
    pub input_address: CUdeviceptr,
    pub output_address: CUdeviceptr,
    capacity: usize,
    dimension: usize,
    /// The end of the last batch that used the slot.
    pub done: Event,
}

/// Returns the number of words of the facts of a batch in device memory.
pub(super) fn facts_words(capacity: usize) -> usize {
    HEADER + 3 * capacity + 1
}

impl Slot {
    pub(super) fn new(
        device: &CudaDevice,
        capacity: usize,
        texts: usize,
        dimension: usize,
    ) -> Result<Self> {
        let input = PinnedBuffer::new(device, HEADER + 4 * capacity + 1)?;
        let output = PinnedBuffer::new(device, texts * dimension)?;
        Ok(Self {
            input_address: input.device_address()?,
            output_address: output.device_address()?,
            input: Mutex::new(input),
            output: Mutex::new(output),
            capacity,
            dimension,
            done: Event::new(device)?,
        })
    }

    /// Writes a batch for the GPU, which uses the slot no longer. The batch fits.
    pub(super) fn write(&self, batch: &PackedBatch) -> Result<()> {
        let mut input = lock(&self.input);
        let words = input.as_mut_slice()?;
        let (header, words) = words.split_at_mut(HEADER);
        let (ids, words) = words.split_at_mut(self.capacity);
        let (firsts, words) = words.split_at_mut(self.capacity);
        let (ends, starts) = words.split_at_mut(self.capacity);
        header[..2].copy_from_slice(&[batch.tokens() as u32, batch.texts() as u32]);
        ids[..batch.tokens()].copy_from_slice(batch.ids());
        starts[..batch.starts().len()].copy_from_slice(batch.starts());
        for bounds in batch.starts().windows(2) {
            let tokens = bounds[0] as usize..bounds[1] as usize;
            firsts[tokens.clone()].fill(bounds[0]);
            ends[tokens].fill(bounds[1]);
        }
        Ok(())
    }

    /// Reads the vectors of so many texts, once the GPU has written them.
    pub(super) fn read(&self, texts: usize, precision: &'static str) -> Result<Embeddings> {
        let output = lock(&self.output);
        let values = &output.as_slice()?[..texts * self.dimension];
        // The kernel marks a vector with any value that is not finite in its first value.
        let vectors = values.chunks_exact(self.dimension);
        if let Some(text) = vectors.into_iter().position(|vector| vector[0].is_nan()) {
            return Err(Error::Overflow { text, precision });
        }
        Ok(Embeddings::new(self.dimension, values.to_vec()))
    }
}
