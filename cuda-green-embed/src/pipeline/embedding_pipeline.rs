//! The pipeline as callers see it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    cache::VectorCache,
    call::Call,
    future::{PipelineBatchFuture, PipelineFuture},
    stages::{Concatenate, Deliver, Fuse, Scrub},
    status::{CacheStatus, PipelineStatus},
};
use crate::{
    error::{Error, Result},
    library::{ModelHandle, ModelLibrary},
    panics,
    service::{EmbedBatchFuture, Embedder, Lane, LaneHandle},
};

/// A text's way to its vector: scrub, cache, batch, one or several models, fuse, deliver.
///
/// Without other stages it is a service with several models, whose vectors are put one after another. Clones share
/// everything.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use cuda_green::SmPartitionManager;
/// use cuda_green_embed::{EmbeddingPipeline, MemoryCache, ModelLibrary, ModelSpec, WeightedMean};
///
/// # fn main() -> cuda_green_embed::Result<()> {
/// let manager = Arc::new(SmPartitionManager::new(0)?);
/// let library = ModelLibrary::builder(manager)
///     .model(ModelSpec::new("minilm", "models/all-MiniLM-L6-v2"))
///     .model(ModelSpec::new("bge", "models/bge-small-en-v1.5"))
///     .build()?;
/// let pipeline = EmbeddingPipeline::builder()
///     .scrub(|text: &str| text.replace("ACME", "the company"))
///     .cache(MemoryCache::new(256 << 20))
///     .models(&Arc::new(library))
///     .fuse(WeightedMean::new([0.7, 0.3])?)
///     .build()?;
/// let vector = pipeline.embed("what does ACME sell?").wait()?; // or .await
/// println!("{} values; {}", vector.len(), pipeline.status());
/// # Ok(())
/// # }
/// ```
///
/// A stage that fails or panics fails its text alone, with [`Error::Stage`] or [`Error::StagePanicked`].
#[derive(Clone)]
pub struct EmbeddingPipeline(pub(super) Arc<Stages>);

/// The stages of a pipeline, and its counts.
pub(super) struct Stages {
    pub(super) scrubs: Vec<Box<dyn Scrub>>,
    pub(super) cache: Option<Arc<dyn VectorCache>>,
    pub(super) models: Vec<Model>,
    pub(super) fuse: Box<dyn Fuse>,
    pub(super) deliver: Vec<Box<dyn Deliver>>,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// A model of a pipeline.
pub(super) struct Model {
    pub(super) name: String,
    service: Service,
}

enum Service {
    Own(Arc<Embedder>),
    Library(Arc<ModelLibrary>),
}

/// The stages of an [`EmbeddingPipeline`] that is to be built.
#[derive(Default)]
pub struct PipelineBuilder {
    scrubs: Vec<Box<dyn Scrub>>,
    cache: Option<Arc<dyn VectorCache>>,
    models: Vec<Model>,
    fuse: Option<Box<dyn Fuse>>,
    deliver: Vec<Box<dyn Deliver>>,
}

/// One lane of an [`EmbeddingPipeline`], and how long its requests may wait.
#[derive(Clone, Copy, Debug)]
pub struct PipelineLane<'a> {
    pipeline: &'a EmbeddingPipeline,
    lane: Lane,
    timeout: Option<Duration>,
}

impl PipelineBuilder {
    /// Adds a scrubber, which gets the text as the one before left it. By default there is none.
    #[must_use]
    pub fn scrub(mut self, scrub: impl Scrub + 'static) -> Self {
        self.scrubs.push(Box::new(scrub));
        self
    }

    /// Sets the cache. By default there is none.
    #[must_use]
    pub fn cache(self, cache: impl VectorCache + 'static) -> Self {
        self.shared_cache(Arc::new(cache))
    }

    /// Sets a cache that other pipelines use as well.
    #[must_use]
    pub fn shared_cache(self, cache: Arc<dyn VectorCache>) -> Self {
        Self {
            cache: Some(cache),
            ..self
        }
    }

    /// Adds a service. Its name is what the cache knows the model by: give another version of a model another name.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>, service: Arc<Embedder>) -> Self {
        self.models.push(Model {
            name: name.into(),
            service: Service::Own(service),
        });
        self
    }

    /// Adds a model of a library. Its name is what the cache knows it by.
    #[must_use]
    pub fn model(mut self, library: &Arc<ModelLibrary>, name: impl Into<String>) -> Self {
        self.models.push(Model {
            name: name.into(),
            service: Service::Library(Arc::clone(library)),
        });
        self
    }

    /// Adds all models of a library, in its order.
    #[must_use]
    pub fn models(self, library: &Arc<ModelLibrary>) -> Self {
        library
            .names()
            .fold(self, |builder, name| builder.model(library, name))
    }

    /// Sets what makes one vector of those of all models, by default [`Concatenate`].
    #[must_use]
    pub fn fuse(self, fuse: impl Fuse + 'static) -> Self {
        Self {
            fuse: Some(Box::new(fuse)),
            ..self
        }
    }

    /// Adds a taker of vectors. The future returns them in any case.
    #[must_use]
    pub fn deliver(mut self, deliver: impl Deliver + 'static) -> Self {
        self.deliver.push(Box::new(deliver));
        self
    }

    /// Builds the pipeline, and loads no model.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for no models, or two of one name; [`Error::NoSuchModel`]; [`Error::Stage`] if the fusion
    /// is for another number of models.
    pub fn build(self) -> Result<EmbeddingPipeline> {
        if self.models.is_empty() {
            return Err(Error::InvalidOption {
                name: "models",
                value: "none".to_owned(),
                reason: "a pipeline has at least one".to_owned(),
            });
        }
        for (index, model) in self.models.iter().enumerate() {
            if let Service::Library(library) = &model.service {
                library.get_loaded(Some(&model.name))?;
            }
            if self.models[..index]
                .iter()
                .any(|one| one.name == model.name)
            {
                return Err(Error::InvalidOption {
                    name: "model",
                    value: model.name.clone(),
                    reason: "another model has that name".to_owned(),
                });
            }
        }
        let fuse = self.fuse.unwrap_or_else(|| Box::new(Concatenate));
        run_stage("fuse", || fuse.check(self.models.len()))?;
        Ok(EmbeddingPipeline(Arc::new(Stages {
            scrubs: self.scrubs,
            cache: self.cache,
            models: self.models,
            fuse,
            deliver: self.deliver,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })))
    }
}

/// Runs a stage, whose error or panic becomes an error of the crate.
pub(super) fn run_stage<T>(
    stage: &'static str,
    run: impl FnOnce() -> Result<T, super::StageError>,
) -> Result<T> {
    match panics::catch(run) {
        Ok(result) => result.map_err(|error| Error::Stage { stage, error }),
        Err(message) => Err(Error::StagePanicked { stage, message }),
    }
}

impl Model {
    /// Submits texts to the model, after loading it if it is not loaded.
    pub(super) fn embed(
        &self,
        lane: Lane,
        timeout: Option<Duration>,
        texts: &[&str],
    ) -> Result<EmbedBatchFuture> {
        let submit = |embedder: &Embedder| {
            let handle = embedder.lane(lane);
            timeout
                .map_or(handle, |timeout| LaneHandle::timeout(handle, timeout))
                .embed_batch(texts)
        };
        match &self.service {
            Service::Own(embedder) => Ok(submit(embedder)),
            Service::Library(library) => {
                let handle: ModelHandle = library.get(Some(&self.name))?;
                Ok(submit(&handle))
            }
        }
    }
}

impl EmbeddingPipeline {
    /// Begins to build one.
    pub fn builder() -> PipelineBuilder {
        PipelineBuilder::default()
    }

    /// Returns a lane.
    pub fn lane(&self, lane: Lane) -> PipelineLane<'_> {
        PipelineLane {
            pipeline: self,
            lane,
            timeout: None,
        }
    }

    /// Embeds a text in the interactive lanes: [`PipelineLane::embed`].
    pub fn embed(&self, content: &str) -> PipelineFuture {
        self.lane(Lane::Interactive).embed(content)
    }

    /// Embeds a list of texts in the bulk lanes: [`PipelineLane::embed_batch`].
    pub fn embed_batch<T: AsRef<str>>(&self, contents: &[T]) -> PipelineBatchFuture {
        self.lane(Lane::Bulk).embed_batch(contents)
    }

    /// Returns the figures.
    pub fn status(&self) -> PipelineStatus {
        let stages = &*self.0;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let cache = stages.cache.as_ref().map(|cache| CacheStatus {
            hits: read(&stages.hits),
            misses: read(&stages.misses),
            // A caller's cache may panic.
            entries: panics::catch(|| cache.entries()).unwrap_or_default(),
        });
        PipelineStatus {
            models: stages.models.iter().map(|one| one.name.clone()).collect(),
            done: read(&stages.done),
            failed: read(&stages.failed),
            cache,
        }
    }

    /// Exports the figures of [`status`](Self::status) to the `metrics` facade. Call it as often as they are read.
    #[cfg(feature = "metrics")]
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn export_metrics(&self) {
        super::status::export(&self.status());
    }
}

impl PipelineLane<'_> {
    /// Sets how long a text may wait for each model's encoder, as [`LaneHandle::timeout`].
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Embeds a text, which is on its way to all models when this returns. The calling thread scrubs and tokenises it, and
    /// loads models that are not loaded. If they do not fit into the library's budget together, it waits for the vectors
    /// of some before it loads others. On a runtime, [pin](ModelLibrary::pin) the models first, or call this on a thread
    /// that may block.
    ///
    /// # Errors
    /// The future's: [`Error::Stage`] and [`Error::StagePanicked`]; those of [`ModelLibrary::get`] and
    /// [`LaneHandle::embed`].
    pub fn embed(self, content: &str) -> PipelineFuture {
        PipelineFuture::new(self.embed_batch(&[content]))
    }

    /// Embeds a list of texts, as [`embed`](Self::embed). Each has a result of its own.
    ///
    /// # Errors
    /// The future's, for the list as a whole: those of [`ModelLibrary::get`], and those of [`LaneHandle::embed_batch`] for
    /// any model. For each text: the other errors of [`embed`](Self::embed).
    pub fn embed_batch<T: AsRef<str>>(self, contents: &[T]) -> PipelineBatchFuture {
        let stages = Arc::clone(&self.pipeline.0);
        PipelineBatchFuture::new(Call::begin(stages, self.lane, self.timeout, contents))
    }
}

impl fmt::Debug for EmbeddingPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddingPipeline")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PipelineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models: Vec<_> = self.models.iter().map(|one| &one.name).collect();
        f.debug_struct("PipelineBuilder")
            .field("models", &models)
            .finish_non_exhaustive()
    }
}
