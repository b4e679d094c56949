//! Batches of texts as token ids, one text after another without padding; how they are collected, and how large they
//! should be.

mod accumulator;
mod config;
mod curve;
mod optimizer;
mod packed;
mod sweep_file;

pub use accumulator::{AddError, BatchAccumulator, CollectedBatch, Ticket};
pub use config::BatchConfig;
pub use curve::{BatchCurve, BatchPoint, BatchSample};
pub use optimizer::{BatchSizeOptimizer, Sweep, SweepKey};
pub use packed::PackedBatch;
