//! One model of a library, and how it is loaded.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cuda_green::{CudaDevice, GpuMemoryPool, SmPartitionManager};

use crate::{
    cublaslt::CublasLt,
    encoder::{BertModel, ModelHead},
    error::Result,
    model::{BertWeights, ModelFolder},
    service::{Embedder, EmbedderBuilder},
};

/// One model of a [`ModelLibrary`](crate::ModelLibrary): its name, its folder and its options.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    pub(super) name: Arc<str>,
    folder: PathBuf,
    pub(super) options: EmbedderBuilder,
    pub(super) priority: i32,
}

/// A model whose files are read and checked, so that only memory can be lacking.
pub(super) struct CheckedModel {
    name: Arc<str>,
    folder: ModelFolder,
    weights: BertWeights,
    options: EmbedderBuilder,
    /// The bytes of device memory that it takes.
    pub(super) bytes: u64,
}

impl ModelSpec {
    /// Names a model in a folder, which is not to change while the library uses it.
    pub fn new(name: impl AsRef<str>, folder: impl AsRef<Path>) -> Self {
        Self {
            name: name.as_ref().into(),
            folder: folder.as_ref().to_owned(),
            options: Embedder::builder(),
            priority: 0,
        }
    }

    /// Sets the options of its service. Their pool is not used: all memory comes from the library's budget. Lanes can be
    /// [elastic](EmbedderBuilder::elastic) only in a library of one model: two would move the same SMs.
    #[must_use]
    pub fn options(self, options: EmbedderBuilder) -> Self {
        Self { options, ..self }
    }

    /// Sets the priority, 0 by default. Under [`EvictionPolicy::LowestPriority`](cuda_green::EvictionPolicy), models of
    /// higher priority stay longer.
    #[must_use]
    pub fn priority(self, priority: i32) -> Self {
        Self { priority, ..self }
    }

    /// Reads the folder's configuration, and returns the bytes of device memory that the model takes.
    pub(super) fn bytes(&self, device: &CudaDevice) -> Result<u64> {
        self.options
            .device_bytes(&ModelFolder::open(&self.folder)?, device)
    }

    /// Reads and checks all that loading needs but memory.
    pub(super) fn check(&self, device: &CudaDevice) -> Result<CheckedModel> {
        let folder = ModelFolder::open(&self.folder)?;
        let options = self.options.clone().with_tokenizer_of(&folder)?;
        Ok(CheckedModel {
            name: Arc::clone(&self.name),
            bytes: options.device_bytes(&folder, device)?,
            weights: folder.weights()?,
            options,
            folder,
        })
    }
}

impl CheckedModel {
    /// Starts the model's service, with all device memory from a pool.
    pub(super) fn start(
        &self,
        pool: &GpuMemoryPool,
        cublaslt: &Arc<CublasLt>,
        manager: &Arc<SmPartitionManager>,
    ) -> Result<Embedder> {
        let model = BertModel::from_weights(
            self.folder.config(),
            &self.weights,
            ModelHead::of(&self.folder),
            pool,
            self.options.precision_on(pool.device()),
            Arc::clone(cublaslt),
        )?;
        let embedder = self.options.clone().build(&model, Arc::clone(manager))?;
        Ok(embedder.named(&self.name))
    }
}
