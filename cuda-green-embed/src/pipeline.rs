//! A text's way through several stages: scrub, cache, batch, models, fuse, deliver.
//!
//! The calling thread scrubs the texts, looks each up in the cache for each model, and submits what is missing to the
//! models' services, which form the batches. Whoever polls or waits for the future puts the vectors into the cache, fuses
//! and delivers them. No lock is held while a stage runs.
//!
//! Two requests for one text that is not cached both compute it. To share the work, one would wait for the other, which
//! may be cancelled or never polled again.

mod cache;
mod call;
mod embedding_pipeline;
mod future;
mod stages;
mod status;

#[cfg(feature = "cache")]
pub use cache::MemoryCache;
pub use cache::{CacheKey, VectorCache};
pub use embedding_pipeline::{EmbeddingPipeline, PipelineBuilder, PipelineLane};
pub use future::{PipelineBatchFuture, PipelineFuture};
pub use stages::{Concatenate, Deliver, Fuse, Scrub, StageError, WeightedMean};
pub use status::{CacheStatus, PipelineStatus};
