//! A service made of its options: models loaded, encoders in their partitions, lanes.

use std::{path::Path, sync::Arc};

use cuda_green::{ContextId, CudaDevice, PartitionMode, SmPartitionManager};

use super::{EmbedderBuilder, LaneOptions};
use crate::{
    encoder::{BertEncoder, BertModel, Encoder, activation_bytes, weight_bytes},
    error::{Error, Result},
    model::ModelFolder,
    precision::InferencePrecision,
    service::{
        elastic::{self, Elastic, LaneLayouts, Partitions},
        embedder::{Embedder, Parts},
        engine::Engine,
        lane::LaneCore,
        status::Lane,
    },
};

/// The encoders of both lanes, one of each for each GPU.
#[derive(Default)]
struct Encoders {
    interactive: Vec<Arc<dyn Encoder>>,
    bulk: Vec<Arc<dyn Encoder>>,
}

impl EmbedderBuilder {
    /// Loads a model from its folder and starts a service in the partitions of a manager. A manager without contexts is
    /// given those of [`init_quad_partition`](SmPartitionManager::init_quad_partition), or, if the lanes are
    /// [elastic](Self::elastic), one for each lane.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`], [`BertModel::load`] and [`build`](Self::build).
    pub fn load(
        self,
        folder: impl AsRef<Path>,
        manager: Arc<SmPartitionManager>,
    ) -> Result<Embedder> {
        self.load_on(folder, vec![manager])
    }

    /// Loads a model from its folder to several GPUs, and starts a service of all of them. Each has a copy of the weights
    /// in the partitions of its manager, and the lanes' batches go to whichever has room.
    ///
    /// A GPU that fails the same batch twice, or three in a row, gets no more work in that lane; its batches are computed
    /// by the others, and no request is lost. The [status](crate::EmbedderStatus::gpus) has the error. The service is dead
    /// when a lane has no GPU left.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::InvalidConfig`] without a manager; [`Error::InvalidOption`] for a
    /// [`pool`](Self::pool), which is of one GPU, and several managers.
    pub fn load_on(
        self,
        folder: impl AsRef<Path>,
        managers: Vec<Arc<SmPartitionManager>>,
    ) -> Result<Embedder> {
        let folder = ModelFolder::open(folder)?;
        let this = self.with_tokenizer_of(&folder)?;
        if this.pool.is_some() && managers.len() > 1 {
            return Err(Error::InvalidOption {
                name: "pool",
                value: format!("one, and {} GPUs", managers.len()),
                reason: "a pool is of one GPU".to_owned(),
            });
        }
        let mut replicas = Vec::with_capacity(managers.len());
        for manager in managers {
            this.ensure_partitioned(&manager)?;
            let precision = this.precision_on(manager.device());
            let model = match &this.pool {
                Some(pool) => BertModel::load(&folder, pool, precision)?,
                None => {
                    let context = manager.get_context(ContextId::Embedding)?;
                    BertModel::load(&folder, context.memory()?, precision)?
                }
            };
            replicas.push((model, manager));
        }
        this.build_replicas(replicas)
    }

    /// Returns the bytes of device memory that a service with these options takes from its pool: the weights and the
    /// activations of both lanes, exactly.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::UnsupportedSizes`], [`Error::UnsupportedPrecision`] and [`Error::InvalidOption`] where
    /// it would not run.
    pub fn device_bytes(&self, folder: &ModelFolder, device: &CudaDevice) -> Result<u64> {
        let (config, precision) = (folder.config(), self.precision_on(device));
        BertModel::ensure_supported(config, device)?;
        precision.ensure_supported()?;
        let mut bytes = weight_bytes(config, precision);
        for lane in [&self.interactive, &self.bulk] {
            lane.encoder.check(folder.max_length())?;
            bytes += activation_bytes(config, precision, lane.encoder.max_tokens);
        }
        Ok(bytes as u64)
    }

    /// Returns the precision that was set, or the device's best.
    pub(crate) fn precision_on(&self, device: &CudaDevice) -> InferencePrecision {
        self.precision
            .unwrap_or_else(|| InferencePrecision::detect_optimal(device).precision)
    }

    /// Takes the folder's tokeniser, unless one was set.
    pub(crate) fn with_tokenizer_of(self, folder: &ModelFolder) -> Result<Self> {
        match &self.tokenize {
            Some(_) => Ok(self),
            None => Ok(self.tokenizer(folder.tokenizer()?)),
        }
    }

    /// Starts a service with a model that is loaded, in the partitions of a manager. Without
    /// [`tokenizer`](Self::tokenizer), it takes tokens only.
    ///
    /// # Errors
    /// Those of [`BertEncoder::new`] and [`build_with`](Self::build_with); [`Error::Gpu`], also where the manager has
    /// contexts but not `Embedding` and `Dream`.
    pub fn build(self, model: &BertModel, manager: Arc<SmPartitionManager>) -> Result<Embedder> {
        self.build_replicas(vec![(model.clone(), manager)])
    }

    /// Starts a service with the same model on several GPUs, as [`load_on`](Self::load_on) does.
    ///
    /// # Errors
    /// As [`build`](Self::build); [`Error::InvalidConfig`] without a replica, or for models that differ in the dimension
    /// of their vectors.
    pub fn build_replicas(
        mut self,
        replicas: Vec<(BertModel, Arc<SmPartitionManager>)>,
    ) -> Result<Embedder> {
        let mut encoders = Encoders::default();
        let mut managers = Vec::new();
        let mut layouts: Vec<Arc<dyn LaneLayouts>> = Vec::new();
        let mut not_elastic = None;
        for (model, manager) in replicas {
            self.ensure_partitioned(&manager)?;
            if let PartitionMode::SingleContext { reason } = manager.allocation_status().mode {
                log::warn!(
                    "the embedding service runs in one context, so bulk work delays queries: {reason}"
                );
            }
            let vocabulary = model.config().vocabulary;
            self.vocabulary = Some(self.vocabulary.unwrap_or(vocabulary).min(vocabulary));
            let encoder = |id: ContextId, options: &LaneOptions| -> Result<BertEncoder> {
                let stream = manager.create_stream(id)?;
                BertEncoder::new(&model, stream, options.encoder)
            };
            let interactive = encoder(ContextId::Embedding, &self.interactive)?;
            let bulk = encoder(ContextId::Dream, &self.bulk)?;
            if let Some(options) = self.elastic {
                match elastic::prepare(options, &manager, [&interactive, &bulk])? {
                    Partitions::Ready(one) => layouts.push(one),
                    Partitions::Off(reason) => {
                        log::warn!("the embedding service's lanes are not elastic: {reason}");
                        not_elastic = Some(reason);
                    }
                }
            }
            encoders.interactive.push(Arc::new(interactive));
            encoders.bulk.push(Arc::new(bulk));
            managers.push(manager);
        }
        self.layouts =
            (not_elastic.is_none() && !layouts.is_empty()).then(|| elastic::together(layouts));
        self.start(encoders, managers, not_elastic)
    }

    /// Starts a service with encoders of the caller's, of the same model, in contexts that the caller chose.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for batches that cannot be formed, or encoders that differ in the dimension of their
    /// vectors; [`Error::InvalidOption`] for [`elastic`](Self::elastic) lanes without
    /// [layouts](Self::elastic_with); [`Error::Thread`].
    pub fn build_with(
        self,
        interactive: Arc<dyn Encoder>,
        bulk: Arc<dyn Encoder>,
    ) -> Result<Embedder> {
        self.build_replicas_with(vec![interactive], vec![bulk])
    }

    /// Starts a service with encoders of the caller's on several GPUs, as [`load_on`](Self::load_on) does: for each GPU,
    /// one of each lane.
    ///
    /// # Errors
    /// As [`build_with`](Self::build_with), and [`Error::InvalidConfig`] for lanes of different numbers of encoders, or
    /// of none.
    pub fn build_replicas_with(
        self,
        interactive: Vec<Arc<dyn Encoder>>,
        bulk: Vec<Arc<dyn Encoder>>,
    ) -> Result<Embedder> {
        if self.elastic.is_some() && self.layouts.is_none() {
            return Err(Error::InvalidOption {
                name: "elastic",
                value: "no layouts".to_owned(),
                reason: "encoders of the caller's need layouts of the caller's: `elastic_with`"
                    .to_owned(),
            });
        }
        if interactive.len() != bulk.len() {
            return Err(Error::InvalidConfig {
                field: "number of bulk encoders",
                found: bulk.len(),
                expected: format!("{}, as of interactive ones", interactive.len()),
            });
        }
        self.start(Encoders { interactive, bulk }, Vec::new(), None)
    }

    fn start(
        self,
        encoders: Encoders,
        managers: Vec<Arc<SmPartitionManager>>,
        not_elastic: Option<String>,
    ) -> Result<Embedder> {
        let core = |lane, encoders, options: LaneOptions| {
            LaneCore::new(lane, encoders, options.batches, options.depth)
        };
        let interactive = core(Lane::Interactive, encoders.interactive, self.interactive)?;
        let bulk = core(Lane::Bulk, encoders.bulk, self.bulk)?;
        let (dimension, other) = (interactive.limits.dimension, bulk.limits.dimension);
        if dimension != other {
            return Err(Error::InvalidConfig {
                field: "dimension of the bulk encoder's vectors",
                found: other,
                expected: format!("{dimension}, as of the interactive encoder"),
            });
        }
        let elastic = self.elastic.zip(self.layouts);
        let elastic = elastic.map(|(options, layouts)| Elastic::new(layouts, options.idle_after));
        let engine = Engine::new(interactive, bulk, elastic);
        let parts = Parts {
            tokenize: self.tokenize,
            tokenizer_threads: self.tokenizer_threads,
            vocabulary: self.vocabulary,
            managers,
            not_elastic,
        };
        Embedder::start(engine, parts)
    }

    /// Partitions the device, unless that was done.
    pub(crate) fn ensure_partitioned(&self, manager: &SmPartitionManager) -> Result<()> {
        if manager.allocation_status().contexts.is_empty() {
            match self.elastic {
                Some(elastic) => elastic.partition(manager)?,
                None => manager.init_quad_partition()?,
            }
        }
        Ok(())
    }

    /// Returns whether the lanes are to be elastic.
    pub(crate) fn is_elastic(&self) -> bool {
        self.elastic.is_some()
    }
}
