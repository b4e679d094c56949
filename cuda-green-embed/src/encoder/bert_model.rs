//! A BERT model on a device: weights, kernels and cuBLASLt, shared by the encoders of all partitions.

use std::{fmt, sync::Arc};

use cuda_green::{CudaDevice, GpuMemoryPool};

use super::{device_weights::DeviceWeights, kernel_set::KernelSet};
use crate::{
    cublaslt::CublasLt,
    error::{Error, Result},
    model::{BertConfig, BertWeights, ModelFolder, Pooling},
    precision::InferencePrecision,
};

/// The first compute capability that the kernels run on.
const CAPABILITY: (u32, u32) = (8, 0);
/// The widest state: a warp keeps a token's in registers.
const MAX_HIDDEN: usize = 1024;

/// A BERT model on a device. Clones share it, and so do the [encoders](crate::BertEncoder) of several partitions.
#[derive(Clone)]
pub struct BertModel {
    pub(super) inner: Arc<ModelInner>,
}

pub(super) struct ModelInner {
    pub device: CudaDevice,
    pub config: BertConfig,
    pub pooling: Pooling,
    pub normalize: bool,
    pub max_length: usize,
    pub precision: InferencePrecision,
    pub kernels: KernelSet,
    pub cublaslt: Arc<CublasLt>,
    pub weights: DeviceWeights,
    pool: GpuMemoryPool,
}

/// What a model does with the states of a text's tokens, and how long a text may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelHead {
    /// How the states become one vector.
    pub pooling: Pooling,
    /// Whether the vector is scaled to length 1.
    pub normalize: bool,
    /// The most tokens in a text, special ones included.
    pub max_length: usize,
}

impl ModelHead {
    /// Returns the head of a folder's model.
    pub fn of(folder: &ModelFolder) -> Self {
        Self {
            pooling: folder.pooling(),
            normalize: folder.normalize(),
            max_length: folder.max_length(),
        }
    }
}

impl BertModel {
    /// Loads a model from its folder into memory of the pool, whose device it will run on.
    ///
    /// Loading compiles the kernels, unless the driver has them from an earlier run, and so waits for work on the
    /// device.
    ///
    /// # Errors
    /// [`Error::Device`] for a device without the tensor cores that the kernels use, [`Error::UnsupportedSizes`] for a
    /// model with heads of other sizes than 32 and 64 or states wider than 1024; [`Error::CublasLtMissing`]; those of
    /// [`ModelFolder::weights`]; [`Error::Gpu`].
    pub fn load(
        folder: &ModelFolder,
        pool: &GpuMemoryPool,
        precision: InferencePrecision,
    ) -> Result<Self> {
        Self::ensure_supported(folder.config(), pool.device())?;
        let cublaslt = CublasLt::load(pool.device())?;
        Self::with_cublaslt(folder, pool, precision, cublaslt)
    }

    /// Loads a model from its folder, with a cuBLASLt that the caller has.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn with_cublaslt(
        folder: &ModelFolder,
        pool: &GpuMemoryPool,
        precision: InferencePrecision,
        cublaslt: Arc<CublasLt>,
    ) -> Result<Self> {
        Self::ensure_supported(folder.config(), pool.device())?;
        Self::from_weights(
            folder.config(),
            &folder.weights()?,
            ModelHead::of(folder),
            pool,
            precision,
            cublaslt,
        )
    }

    /// Loads a model from weights that the caller has.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`Error::WeightShape`] and [`Error::InvalidConfig`] for weights of another
    /// configuration; [`Error::Gpu`] for a cuBLASLt of another device than the pool's.
    pub fn from_weights(
        config: &BertConfig,
        weights: &BertWeights,
        head: ModelHead,
        pool: &GpuMemoryPool,
        precision: InferencePrecision,
        cublaslt: Arc<CublasLt>,
    ) -> Result<Self> {
        Self::ensure_supported(config, pool.device())?;
        weights.ensure_shapes(config)?;
        let device = pool.device().clone();
        ensure_own(&device, cublaslt.device())?;
        give_bodies(&device)?;
        Ok(Self {
            inner: Arc::new(ModelInner {
                kernels: KernelSet::load(&device, precision, config.head_size())?,
                weights: DeviceWeights::load(pool, weights, precision)?,
                config: config.clone(),
                pooling: head.pooling,
                normalize: head.normalize,
                max_length: head.max_length.min(config.positions),
                precision,
                cublaslt,
                pool: pool.clone(),
                device,
            }),
        })
    }

    /// Ensures that the kernels can run a model of these sizes on a device.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::UnsupportedSizes`].
    pub fn ensure_supported(config: &BertConfig, device: &CudaDevice) -> Result<()> {
        let (major, minor) = device.properties().compute_capability;
        if (major, minor) < CAPABILITY {
            return Err(Error::Device {
                name: device.name().to_owned(),
                found: (major, minor),
                needed: CAPABILITY,
            });
        }
        let refused = |what: String| {
            Err(Error::UnsupportedSizes {
                found: what,
                supported: "heads of 32 or 64 values, states of up to 1024 values in groups of 8",
            })
        };
        let (heads, size) = (config.heads, config.head_size());
        if !matches!(size, 32 | 64) || heads * size != config.hidden_size {
            return refused(format!("{heads} heads in {} values", config.hidden_size));
        }
        if config.layers == 0 {
            return refused("no layers".to_owned());
        }
        if config.hidden_size > MAX_HIDDEN || !config.intermediate_size.is_multiple_of(8) {
            return refused(format!(
                "states of {} and {} values",
                config.hidden_size, config.intermediate_size
            ));
        }
        Ok(())
    }

    /// Returns the model's sizes.
    pub fn config(&self) -> &BertConfig {
        &self.inner.config
    }

    /// Returns the precision that it computes in.
    pub fn precision(&self) -> InferencePrecision {
        self.inner.precision
    }

    /// Returns its device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// Returns the pool that its memory comes from.
    pub fn pool(&self) -> &GpuMemoryPool {
        &self.inner.pool
    }

    /// Returns the bytes of device memory that its weights take.
    pub fn weight_bytes(&self) -> usize {
        self.inner.weights.bytes()
    }
}

/// Ensures that cuBLASLt is of the model's device: it would compute with another one's handle.
fn ensure_own(device: &CudaDevice, cublaslt: &CudaDevice) -> Result<()> {
    if device.driver() != cublaslt.driver() {
        return Err(cuda_green::Error::ForeignDriver.into());
    }
    if device != cublaslt {
        return Err(cuda_green::Error::ForeignDevice {
            what: "cuBLASLt",
            device: cublaslt.ordinal(),
            expected: device.ordinal(),
        }
        .into());
    }
    Ok(())
}

/// Gives a simulated driver the bodies of the kernels, which it does not execute, and refuses one that has none:
/// without them every vector would be 0.
fn give_bodies(device: &CudaDevice) -> Result<()> {
    #[cfg(feature = "test-utils")]
    if let Some(simulator) = device.driver().simulator() {
        crate::kernels::host::register(simulator);
        return Ok(());
    }
    if device.driver().is_simulated() {
        return Err(Error::Simulated);
    }
    Ok(())
}

impl fmt::Debug for BertModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BertModel")
            .field("device", &self.inner.device)
            .field("config", &self.inner.config)
            .field("precision", &self.inner.precision)
            .finish_non_exhaustive()
    }
}
