//! The figures of a pipeline.

use std::fmt;

/// The figures of an [`EmbeddingPipeline`](crate::EmbeddingPipeline).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PipelineStatus {
    /// The names of the models, in order.
    pub models: Vec<String>,
    /// Texts that got a vector.
    pub done: u64,
    /// Texts that ended with an error of their own. Those of calls that were refused or given up count nowhere.
    pub failed: u64,
    /// The cache, if there is one.
    pub cache: Option<CacheStatus>,
}

/// The figures of a pipeline's cache. Each text counts once for each model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CacheStatus {
    /// Vectors that were found in it.
    pub hits: u64,
    /// Vectors that were not.
    pub misses: u64,
    /// Vectors in it now, from all pipelines that share it, if it knows.
    pub entries: Option<u64>,
}

impl fmt::Display for PipelineStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            models,
            done,
            failed,
            cache,
        } = self;
        write!(f, "{}: {done} done, {failed} failed", models.join(", "))?;
        let Some(cache) = cache else {
            return f.write_str("; no cache");
        };
        write!(f, "; cache: {} hits, {} misses", cache.hits, cache.misses)?;
        match cache.entries {
            Some(entries) => write!(f, ", {entries} entries"),
            None => Ok(()),
        }
    }
}

/// Records the figures in the `metrics` facade.
#[cfg(feature = "metrics")]
pub(super) fn export(status: &PipelineStatus) {
    use metrics::{counter, gauge};

    for (outcome, texts) in [("done", status.done), ("failed", status.failed)] {
        counter!("cuda_green_embed_pipeline_texts", "outcome" => outcome).absolute(texts);
    }
    let Some(cache) = &status.cache else { return };
    for (outcome, vectors) in [("hit", cache.hits), ("miss", cache.misses)] {
        counter!("cuda_green_embed_cache_lookups", "outcome" => outcome).absolute(vectors);
    }
    if let Some(entries) = cache.entries {
        gauge!("cuda_green_embed_cache_entries").set(entries as f64);
    }
}
