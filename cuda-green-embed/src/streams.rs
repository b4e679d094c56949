//! Streams of a partition, and the overlap of preparing, computing and delivering batches.

mod executor;
mod pool;
mod timeline;

pub use executor::OverlappedExecutor;
pub use pool::StreamPool;
pub use timeline::{BatchTimes, Overlap, Span, Timeline};
