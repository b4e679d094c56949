//! Text embeddings inside a guaranteed share of an NVIDIA GPU.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod batch;
mod bulk;
mod cublaslt;
mod embeddings;
mod encoder;
mod error;
mod graphs;
pub mod guide;
mod kernels;
mod library;
mod lock;
pub mod model;
mod multi_gpu;
mod panics;
mod parallel;
mod pipeline;
mod precision;
mod service;
mod streams;
mod tokenize;

pub use batch::{
    AddError, BatchAccumulator, BatchConfig, BatchCurve, BatchPoint, BatchSample,
    BatchSizeOptimizer, CollectedBatch, PackedBatch, Sweep, SweepKey, Ticket,
};
pub use bulk::BulkEmbedder;
pub use cublaslt::{CUBLASLT_VARIABLE, CublasLt, Product, ProductShape};
pub use embeddings::Embeddings;
#[cfg(feature = "test-utils")]
pub use encoder::CpuEncoder;
pub use encoder::{
    BertEncoder, BertModel, Encoder, EncoderLimits, EncoderOptions, ModelHead, PendingEmbeddings,
};
pub use error::{Error, Result};
#[cfg(feature = "test-utils")]
pub use kernels::host::{register as register_kernels, register_times as register_kernel_times};
pub use library::{
    LibraryBuilder, LibraryStatus, ModelHandle, ModelLibrary, ModelSpec, ModelState, ModelStatus,
};
pub use model::{BertConfig, BertWeights, ModelFolder, Pooling};
pub use multi_gpu::{EncoderStatus, MultiGpuBalancer, MultiGpuEmbedder};
#[cfg(feature = "cache")]
pub use pipeline::MemoryCache;
pub use pipeline::{
    CacheKey, CacheStatus, Concatenate, Deliver, EmbeddingPipeline, Fuse, PipelineBatchFuture,
    PipelineBuilder, PipelineFuture, PipelineLane, PipelineStatus, Scrub, StageError, VectorCache,
    WeightedMean,
};
pub use precision::{Converted, InferencePrecision, PrecisionChoice, PrecisionConvert};
pub use service::{
    ElasticOptions, ElasticStatus, EmbedBatchFuture, EmbedFuture, Embedder, EmbedderBuilder,
    EmbedderStatus, GpuStatus, Lane, LaneHandle, LaneLayout, LaneLayouts, LaneStatus,
    ReplicaStatus, ServiceMode,
};
pub use streams::{BatchTimes, Overlap, OverlappedExecutor, Span, StreamPool, Timeline};
pub use tokenize::Tokenizer;
