//! A fixed set of streams in a partition.

use std::sync::atomic::{AtomicUsize, Ordering};

use cuda_green::{GreenContext, Stream};

use crate::error::{Error, Result};

/// Streams of a partition: some for kernels, which are handed out in turn, and one for copies.
///
/// Copies have a stream of their own so that those of one batch run beside the kernels of another; an event orders the two
/// where they belong to the same batch. The pool belongs to this context: after a rebalance, a name's new context needs
/// another one.
#[derive(Debug)]
pub struct StreamPool {
    compute: Vec<Stream>,
    transfer: Stream,
    next: AtomicUsize,
}

impl StreamPool {
    /// Creates the streams, as many for kernels as `compute` says.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for none; [`Error::Gpu`].
    pub fn new(context: &GreenContext, compute: usize) -> Result<Self> {
        if compute == 0 {
            return Err(Error::InvalidConfig {
                field: "number of compute streams",
                found: 0,
                expected: "at least 1".to_owned(),
            });
        }
        let streams: cuda_green::Result<_> =
            (0..compute).map(|_| context.create_stream()).collect();
        Ok(Self {
            compute: streams?,
            transfer: context.create_stream()?,
            next: AtomicUsize::new(0),
        })
    }

    /// Returns the streams for kernels in turn, to any number of threads.
    pub fn next_compute_stream(&self) -> &Stream {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.compute.len();
        &self.compute[turn]
    }

    /// Returns all streams for kernels.
    pub fn compute_streams(&self) -> &[Stream] {
        &self.compute
    }

    /// Returns the stream for copies.
    pub fn transfer_stream(&self) -> &Stream {
        &self.transfer
    }

    /// Waits for the work in all streams, also where that of one has failed.
    ///
    /// # Errors
    /// [`Error::Gpu`], the first of them.
    pub fn sync_all(&self) -> Result<()> {
        let mut result = Ok(());
        for stream in self.compute.iter().chain([&self.transfer]) {
            result = result.and(stream.synchronize());
        }
        Ok(result?)
    }
}
