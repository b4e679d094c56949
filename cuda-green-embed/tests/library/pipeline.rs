//! The pipeline, with encoders whose vectors are known.

mod cache;
mod models;
mod stages;

use std::sync::Arc;

use cuda_green_embed::{Embedder, EmbeddingPipeline, PipelineBuilder, StageError};

use crate::{
    fake_encoder::FakeEncoder,
    service::{eager, vector},
};

/// Returns a service that takes numbers as texts, and its encoder for queries.
fn service() -> (Arc<Embedder>, Arc<FakeEncoder>) {
    let (interactive, bulk) = (Arc::new(FakeEncoder::new()), Arc::new(FakeEncoder::new()));
    let embedder = eager().build_with(interactive.clone(), bulk).unwrap();
    (Arc::new(embedder), interactive)
}

/// Returns options with one model.
fn one() -> PipelineBuilder {
    EmbeddingPipeline::builder().service("one", service().0)
}

fn refused(reason: &str) -> Result<(), StageError> {
    Err(reason.into())
}
