//! The models that share a budget, by name.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use cuda_green::{
    ContextId, EvictionPolicy, GpuMemoryPool, MemoryReport, ModelLease, ModelNeeds, ModelSlots,
    SlotStatus, SmPartitionManager,
};

use super::{
    ModelHandle, ModelSpec,
    status::{LibraryStatus, ModelState, ModelStatus},
};
use crate::{
    cublaslt::CublasLt,
    error::{Error, Result},
    lock::lock,
    service::{Embedder, is_waking},
};

/// Several models in one memory budget, loaded when they are asked for.
///
/// The budget holds the weights and the activations of all loaded models. When a model has no room, idle ones are
/// evicted by the [policy](LibraryBuilder::policy). A model is never evicted while it is [pinned](Self::pin), while
/// somebody has a [`ModelHandle`] of it, or before its requests are answered. All models run in the manager's partitions
/// `Embedding` and `Dream`, so their batches share the lanes' SMs.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use cuda_green::SmPartitionManager;
/// use cuda_green_embed::{ModelLibrary, ModelSpec};
///
/// # fn main() -> cuda_green_embed::Result<()> {
/// let manager = Arc::new(SmPartitionManager::new(0)?);
/// let library = ModelLibrary::builder(manager)
///     .budget(2 << 30)
///     .model(ModelSpec::new("minilm", "models/all-MiniLM-L6-v2"))
///     .model(ModelSpec::new("bge", "models/bge-small-en-v1.5"))
///     .build()?;
/// let query = library.get(Some("bge"))?.embed("what is a green context?"); // loads the model
/// println!("{} values; {}", query.wait()?.len(), library.status());
/// # Ok(())
/// # }
/// ```
///
/// A service that is [dead](Embedder::death) stays loaded: [evict](Self::evict) it to try again.
///
/// What does not count towards the budget: the kernels' code, graphs and the library's own state on the device, which
/// the driver keeps, and pinned memory of the host. The pool may keep an eighth more than the budget from the driver, by
/// rounding ([`GpuMemoryPool`]).
pub struct ModelLibrary {
    manager: Arc<SmPartitionManager>,
    cublaslt: Arc<CublasLt>,
    slots: ModelSlots<Embedder>,
    models: Vec<Model>,
    default: usize,
}

/// A model of the library.
struct Model {
    spec: ModelSpec,
    bytes: u64,
    /// Held while it is loaded.
    loading: Mutex<()>,
}

/// The options of a [`ModelLibrary`].
#[derive(Debug)]
pub struct LibraryBuilder {
    manager: Arc<SmPartitionManager>,
    budget: u64,
    policy: EvictionPolicy,
    models: Vec<ModelSpec>,
    default: Option<String>,
}

impl LibraryBuilder {
    /// Sets the bytes of device memory that all models may take together, 8 GiB by default.
    #[must_use]
    pub fn budget(self, bytes: u64) -> Self {
        Self {
            budget: bytes,
            ..self
        }
    }

    /// Sets which idle model is evicted first, by default the one unused for the longest time.
    #[must_use]
    pub fn policy(self, policy: EvictionPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Adds a model.
    #[must_use]
    pub fn model(mut self, model: ModelSpec) -> Self {
        self.models.push(model);
        self
    }

    /// Sets the model that requests without a name get, by default the first.
    #[must_use]
    pub fn default_model(self, name: impl Into<String>) -> Self {
        Self {
            default: Some(name.into()),
            ..self
        }
    }

    /// Reads the configuration of each model, and loads none. A manager without contexts is partitioned as
    /// [`EmbedderBuilder::load`](crate::EmbedderBuilder::load) does.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for no models, two of one name, one that does not fit into the budget even alone, or
    /// [elastic](crate::EmbedderBuilder::elastic) lanes of one of several;
    /// [`Error::NoSuchModel`] for the default; those of [`ModelFolder::open`](crate::ModelFolder::open) and of
    /// [`BertModel::ensure_supported`](crate::BertModel::ensure_supported); [`Error::CublasLtMissing`];
    /// [`Error::Gpu`].
    pub fn build(self) -> Result<ModelLibrary> {
        let device = self.manager.device();
        let count = self.models.len();
        let mut models: Vec<Model> = Vec::with_capacity(count);
        for spec in self.models {
            let invalid = |reason| Error::InvalidOption {
                name: "model",
                value: spec.name.to_string(),
                reason,
            };
            if models.iter().any(|model| model.spec.name == spec.name) {
                return Err(invalid("another model has that name".to_owned()));
            }
            if count > 1 && spec.options.is_elastic() {
                let reason = "its lanes are elastic, which those of one model alone can be";
                return Err(invalid(reason.to_owned()));
            }
            let bytes = spec.bytes(device)?;
            if bytes > self.budget {
                let budget = self.budget;
                return Err(invalid(format!(
                    "it takes {bytes} bytes, and the budget is {budget}; smaller batches take less"
                )));
            }
            models.push(Model {
                spec,
                bytes,
                loading: Mutex::default(),
            });
        }
        let Some(first) = models.first() else {
            return Err(Error::InvalidOption {
                name: "models",
                value: "none".to_owned(),
                reason: "a library has at least one".to_owned(),
            });
        };
        let default = self.default.as_ref();
        let default = default.map_or(Ok(0), |name| index_of(&models, name))?;
        first.spec.options.ensure_partitioned(&self.manager)?;
        for lane in [ContextId::Embedding, ContextId::Dream] {
            self.manager.get_context(lane)?;
        }
        let pool = GpuMemoryPool::on(device, self.budget)?;
        Ok(ModelLibrary {
            cublaslt: CublasLt::load(device)?,
            slots: ModelSlots::with_policy(pool, models.len(), self.policy)?,
            manager: self.manager,
            models,
            default,
        })
    }
}

impl ModelLibrary {
    /// Begins to build one.
    pub fn builder(manager: Arc<SmPartitionManager>) -> LibraryBuilder {
        LibraryBuilder {
            manager,
            budget: 8 << 30,
            policy: EvictionPolicy::default(),
            models: Vec::new(),
            default: None,
        }
    }

    /// Returns a model by its name, or the default one, after loading it if it is not loaded. The calling thread loads
    /// it, which takes from tenths of a second to seconds, and waits for batches of evicted models that are on the way.
    /// On a runtime, try [`get_loaded`](Self::get_loaded), and call this on a thread that may block.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`]; [`Error::Gpu`] with [`NoRoomForModel`](cuda_green::Error::NoRoomForModel) while too many
    /// others are in use or pinned; [`Error::LoadInWaker`]; those of [`EmbedderBuilder::load`]. The next call after an
    /// error loads again.
    ///
    /// [`EmbedderBuilder::load`]: crate::EmbedderBuilder::load
    pub fn get(&self, name: Option<&str>) -> Result<ModelHandle> {
        let model = self.model(name)?;
        if let Some(loaded) = self.loaded(model) {
            return Ok(loaded);
        }
        if is_waking() {
            return Err(Error::LoadInWaker);
        }
        let _one_at_a_time = lock(&model.loading);
        match self.loaded(model) {
            Some(loaded) => Ok(loaded),
            None => Ok(ModelHandle::new(&model.spec.name, self.load(model)?)),
        }
    }

    /// Returns a model by its name, or the default one, if it is loaded. Never waits.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn get_loaded(&self, name: Option<&str>) -> Result<Option<ModelHandle>> {
        Ok(self.loaded(self.model(name)?))
    }

    /// Returns the names of all models, in the order in which they were added.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.models.iter().map(|model| &*model.spec.name)
    }

    /// Returns the name of the model that requests without a name get.
    pub fn default_model(&self) -> &str {
        &self.models[self.default].spec.name
    }

    /// Loads a model, and keeps it loaded until it is unpinned as many times.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn pin(&self, name: &str) -> Result<()> {
        // Held, so that it is loaded when it is pinned.
        let handle = self.get(Some(name))?;
        Ok(self.slots.pin(handle.name())?)
    }

    /// Undoes one [`pin`](Self::pin). Does nothing for a model that is not pinned.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn unpin(&self, name: &str) -> Result<()> {
        match self.slots.unpin(&self.model(Some(name))?.spec.name) {
            Ok(()) | Err(cuda_green::Error::NoSuchModel { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Unloads a model, and returns the number of bytes that this freed, 0 if it was not loaded. Waits for its batches
    /// that are on the way.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`]; [`Error::Gpu`] with [`ModelInUse`](cuda_green::Error::ModelInUse); [`Error::LoadInWaker`].
    pub fn evict(&self, name: &str) -> Result<u64> {
        if is_waking() {
            return Err(Error::LoadInWaker);
        }
        match self.slots.evict(&self.model(Some(name))?.spec.name) {
            Err(cuda_green::Error::NoSuchModel { .. }) => Ok(0),
            evicted => Ok(evicted?),
        }
    }

    /// Returns the figures.
    pub fn status(&self) -> LibraryStatus {
        let slots = self.slots.status();
        let model = |model: &Model| {
            let mut found = slots.slots.iter();
            let slot = found.find(|slot| *slot.name == *model.spec.name);
            ModelStatus {
                name: model.spec.name.to_string(),
                bytes: slot.map_or(model.bytes, |slot| slot.needs.bytes),
                state: match slot {
                    None => ModelState::Unloaded,
                    Some(SlotStatus { loaded: false, .. }) => ModelState::Loading,
                    Some(_) => ModelState::Loaded,
                },
                users: slot.map_or(0, |slot| slot.leases),
                pins: slot.map_or(0, |slot| slot.pins),
            }
        };
        let budget = self.slots.pool().limit();
        LibraryStatus {
            default_model: self.default_model().to_owned(),
            budget,
            reserved: budget - slots.available.min(budget),
            models: self.models.iter().map(model).collect(),
            hits: slots.hits,
            loads: slots.loads,
            evictions: slots.evictions,
            failures: slots.failures,
        }
    }

    /// Returns the memory of the library's pool and of each loaded model. With the feature `metrics`, cuda-green's
    /// `MemoryExporter` records it, hits, loads, evictions and failures included.
    pub fn memory_report(&self) -> MemoryReport {
        MemoryReport::default().with_slots("models", &self.slots)
    }

    fn model(&self, name: Option<&str>) -> Result<&Model> {
        let index = name.map_or(Ok(self.default), |name| index_of(&self.models, name))?;
        Ok(&self.models[index])
    }

    fn loaded(&self, model: &Model) -> Option<ModelHandle> {
        let lease = self.slots.get(&model.spec.name)?;
        Some(ModelHandle::new(&model.spec.name, lease))
    }

    fn load(&self, model: &Model) -> Result<ModelLease<Embedder>> {
        // First, since models that are evicted for a load do not come back if it fails.
        let checked = model.spec.check(self.manager.device())?;
        let needs = ModelNeeds {
            bytes: checked.bytes,
            priority: model.spec.priority,
        };
        // An error that the driver's own error type has no room for.
        let mut failure = None;
        let lease = self.slots.get_or_load(&model.spec.name, needs, |pool| {
            let started = checked.start(pool, &self.cublaslt, &self.manager);
            started.map_err(|error| match error {
                Error::Gpu(error) => error,
                other => {
                    let placeholder = cuda_green::Error::InvalidArgument {
                        name: "model",
                        value: other.to_string(),
                        reason: "the model could not be loaded",
                    };
                    failure = Some(other);
                    placeholder
                }
            })
        });
        lease.map_err(|error| failure.unwrap_or(Error::Gpu(error)))
    }
}

/// Returns the index of a model by its name.
fn index_of(models: &[Model], name: &str) -> Result<usize> {
    let names = || models.iter().map(|model| &*model.spec.name);
    names()
        .position(|other| other == name)
        .ok_or_else(|| Error::NoSuchModel {
            name: name.to_owned(),
            names: names().map(str::to_owned).collect(),
        })
}

impl fmt::Debug for ModelLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelLibrary")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
