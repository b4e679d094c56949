//! Products of matrices, by cuBLASLt.

use std::sync::Arc;

use cuda_green::{CudaDevice, GpuMemoryPool, Stream};
use cuda_green_embed::CublasLt;

use crate::commands::bench::service::floods::{FloodKind, GpuFlood, Sources};

/// The libraries and the memory of a flood of products.
pub struct Matrix(Arc<Sources>);

impl Matrix {
    pub fn new(device: &CudaDevice) -> anyhow::Result<Self> {
        let pool = GpuMemoryPool::on(device, u64::MAX)?;
        let cublaslt = CublasLt::load(device)?;
        Ok(Self(Arc::new(Sources::new(device, &pool, &cublaslt)?)))
    }

    /// Returns what a product is, in words.
    pub fn describe(&self) -> String {
        self.0.describe(FloodKind::Matrix)
    }

    /// Prepares a flood in a stream, for the SMs that the stream has.
    pub fn flood(&self, stream: Stream) -> anyhow::Result<GpuFlood> {
        let flood = self.0.flood(FloodKind::Matrix, stream)?;
        flood.ok_or_else(|| anyhow::anyhow!("products are launched by this program"))
    }
}
