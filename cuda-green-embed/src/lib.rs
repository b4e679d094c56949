//! Text embeddings inside a guaranteed share of an NVIDIA GPU.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod batch;
mod embeddings;
mod encoder;
mod error;
pub mod model;
mod precision;

pub use batch::{
    AddError, BatchAccumulator, BatchConfig, BatchCurve, BatchPoint, BatchSample,
    BatchSizeOptimizer, CollectedBatch, PackedBatch, Sweep, SweepKey, Ticket,
};
pub use embeddings::Embeddings;
pub use encoder::{Encoder, EncoderLimits, PendingEmbeddings};
pub use error::{Error, Result};
pub use model::{BertConfig, BertWeights, ModelFolder, Pooling};
pub use precision::{Converted, InferencePrecision, PrecisionChoice, PrecisionConvert};
