//! The flood of the service's own bulk lane.

use std::collections::VecDeque;

use cuda_green_embed::{EmbedBatchFuture, Embedder};

use super::{OUTSTANDING, Progress};

/// The threads for one GPU: one alone would not keep it busy.
pub const THREADS: usize = 2;

/// Lists of texts, tokenised before, that go through the bulk lane of a service again and again.
pub struct BulkFlood<'a> {
    pub embedder: &'a Embedder,
    pub lists: &'a [Vec<Vec<u32>>],
    /// The threads that submit them.
    pub threads: usize,
}

impl BulkFlood<'_> {
    /// Keeps lists on the way until it is told to stop, then waits for them.
    pub fn run(&self, thread: usize, progress: &Progress) -> anyhow::Result<()> {
        let mut on_the_way: VecDeque<EmbedBatchFuture> = VecDeque::new();
        let lists = self.lists.iter().cycle().skip(thread);
        for list in lists.take_while(|_| !progress.is_stopped()) {
            on_the_way.push_back(self.embedder.bulk().embed_token_batch(list));
            if on_the_way.len() == OUTSTANDING / THREADS
                && let Some(oldest) = on_the_way.pop_front()
            {
                progress.add(answered(oldest)?);
            }
        }
        for list in on_the_way {
            answered(list)?;
        }
        Ok(())
    }
}

/// Waits for a list, and returns its texts.
fn answered(list: EmbedBatchFuture) -> anyhow::Result<u64> {
    let mut texts = 0;
    for vector in list.wait()? {
        vector?;
        texts += 1;
    }
    Ok(texts)
}
