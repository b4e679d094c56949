//! Batches of texts as token ids, one text after another without padding.

mod packed;

pub use packed::PackedBatch;
