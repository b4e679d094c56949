//! Thread-block clusters: how large they can be on co-scheduled SMs, and how many fit.

use crate::sms::Chunk;

/// The largest cluster that fits into a co-scheduled chunk. It need not be a power of
/// two (6 was measured on an H200, driver 580).
pub(crate) fn largest_cluster(chunks: &[Chunk]) -> u32 {
    chunks.iter().map(|chunk| chunk.len).max().unwrap_or(0)
}

/// Clusters of this many blocks that run at once where each SM holds `blocks` of them.
///
/// A chunk of fewer SMs than blocks in a cluster has none; a larger one uses all of its SMs, so that 10
/// SMs with 8 blocks each hold 10 clusters of 8 (measured on an H200, driver 580).
pub(crate) fn clusters(chunks: &[Chunk], cluster: u32, blocks: u32) -> u32 {
    let cluster = cluster.max(1);
    chunks
        .iter()
        .filter(|chunk| chunk.len >= cluster)
        .map(|chunk| chunk.len * blocks / cluster)
        .sum()
}
