//! Thread-block clusters: the largest one that co-scheduled SMs can run, and the number that fit.

use crate::sms::Chunk;

/// Returns the size of the largest cluster that fits into a co-scheduled chunk. It need not be a power of two (6 was
/// measured on an H200, driver 580).
pub(crate) fn largest_cluster(chunks: &[Chunk]) -> u32 {
    chunks.iter().map(|chunk| chunk.len).max().unwrap_or(0)
}

/// Returns the number of clusters of this size that run at once if each SM holds `blocks` of their blocks.
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
