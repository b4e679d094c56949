//! One CUDA graph for each bucket of tokens, captured in the partition, and again after a rebalance.

use std::sync::{Arc, Mutex};

use cuda_green::{PartitionGraph, PartitionStream, Stream};

use crate::{
    error::{Error, Result},
    lock::lock,
};

/// The sizes of batches, in tokens, for which there are graphs: about 1.33 to 1.5 from one to the next, so that a batch
/// takes at most half as much work again as it has.
const SIZES: [u32; 24] = [
    16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192,
    12288, 16384, 24576, 32768, 49152, 65536,
];

/// Returns the buckets for batches of up to so many tokens, smallest first.
pub(crate) fn buckets(tokens: u32) -> Vec<u32> {
    let smaller = SIZES.into_iter().take_while(|size| *size < tokens);
    smaller.chain([tokens]).collect()
}

/// Returns the index of the smallest bucket that has room for so many tokens.
pub(crate) fn bucket_for(buckets: &[u32], tokens: usize) -> Option<usize> {
    let index = buckets.partition_point(|bucket| (*bucket as usize) < tokens);
    (index < buckets.len()).then_some(index)
}

/// Work that is put into a stream, the same each time.
pub(crate) trait Recording: Send + Sync + 'static {
    /// Chooses what depends on the SMs of a stream's context, which is current. Not called in a capture.
    ///
    /// # Safety
    /// The recording lives until the stream has done the work, and nothing else uses its memory meanwhile.
    unsafe fn choose(&self, stream: &Stream) -> Result<()>;

    /// Puts the work into a stream, whose context is current.
    ///
    /// # Safety
    /// The recording lives until the stream has done the work.
    unsafe fn record(&self, stream: &Stream) -> Result<()>;
}

/// A graph of a recording for each context that it was launched in.
pub(crate) struct RecordedGraph<R> {
    recording: Arc<R>,
    graph: PartitionGraph,
    /// The error of the last capture, which the driver's own error type has no room for.
    failure: Arc<Mutex<Option<Error>>>,
}

impl<R: Recording> RecordedGraph<R> {
    pub(crate) fn new(recording: R) -> Self {
        let recording = Arc::new(recording);
        let failure = Arc::new(Mutex::new(None));
        let (captured, failed) = (Arc::clone(&recording), Arc::clone(&failure));
        let graph = PartitionGraph::new(move |capture| {
            capture.keep(Arc::clone(&captured));
            record(&*captured, capture.stream()).map_err(|error| match error {
                Error::Gpu(error) => error,
                other => {
                    let placeholder = cuda_green::Error::InvalidArgument {
                        name: "recording",
                        value: other.to_string(),
                        reason: "the pass could not be captured",
                    };
                    *lock(&failed) = Some(other);
                    placeholder
                }
            })
        });
        Self {
            recording,
            graph,
            failure,
        }
    }

    /// Runs the work once without a graph, and waits for it. A capture must not be the first to load a library's kernel.
    pub(crate) fn run(&self, stream: &PartitionStream) -> Result<()> {
        let ran = self.in_stream(stream, |stream| {
            choose(&*self.recording, stream)?;
            record(&*self.recording, stream)
        });
        // Waited for in any case: the recording must outlive what it has put into the stream. A wait that was refused may
        // be granted the second time.
        if let Err(error) = stream.synchronize().or_else(|_| stream.synchronize()) {
            // It may still run, and nobody will tell when it ends.
            std::mem::forget(Arc::clone(&self.recording));
            return Err(ran.err().unwrap_or(Error::Gpu(error)));
        }
        ran
    }

    /// Captures the work for the SMs that the stream has now, unless that was done before.
    pub(crate) fn prepare(&self, stream: &PartitionStream) -> Result<()> {
        let prepared = self.graph.prepare(stream);
        self.explained(prepared)
    }

    /// Launches the graph in a stream, and captures it first if it has not been for this context.
    pub(crate) fn launch_in(&self, stream: &Stream) -> cuda_green::Result<()> {
        // SAFETY: the graph keeps the recording, and with it all that the work uses, until its last launch has ended.
        unsafe { self.graph.launch_in(stream) }
    }

    /// Returns the recording's own error in place of the one that stands for it.
    pub(crate) fn explained<T>(&self, result: cuda_green::Result<T>) -> Result<T> {
        result.map_err(|error| lock(&self.failure).take().unwrap_or(Error::Gpu(error)))
    }

    /// Calls a closure with the stream in force, and keeps its own error.
    fn in_stream(
        &self,
        stream: &PartitionStream,
        action: impl FnOnce(&Stream) -> Result<()>,
    ) -> Result<()> {
        let mut result = Ok(());
        stream.with(|stream| {
            result = action(stream);
            Ok(())
        })?;
        result
    }
}

/// Chooses with the stream's context current.
fn choose(recording: &impl Recording, stream: &Stream) -> Result<()> {
    stream.context().with_current(|| {
        // SAFETY: the caller waits for the stream, and runs one recording at a time.
        unsafe { recording.choose(stream) }
    })?
}

/// Records with the stream's context current, for libraries that use the current context.
fn record(recording: &impl Recording, stream: &Stream) -> Result<()> {
    stream.context().with_current(|| {
        // SAFETY: both callers keep the recording: the one waits for the stream, the other gives it to the graph.
        unsafe { recording.record(stream) }
    })?
}

#[cfg(test)]
mod tests {
    use super::{bucket_for, buckets};

    #[test]
    fn a_batch_gets_the_smallest_bucket_with_room() {
        for most in [1, 16, 17, 100, 16384, 100_000] {
            let buckets = buckets(most);
            assert!(buckets.is_sorted());
            for tokens in 1..=most as usize {
                let index = bucket_for(&buckets, tokens).unwrap_or(usize::MAX);
                assert!(buckets[index] as usize >= tokens);
                assert!(index == 0 || (buckets[index - 1] as usize) < tokens);
            }
            assert_eq!(bucket_for(&buckets, most as usize + 1), None);
        }
    }
}
