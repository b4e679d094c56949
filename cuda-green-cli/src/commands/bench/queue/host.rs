//! Tasks of the CPU to the CPU.
use super::{figures::HostRow, lengths::Lengths};
use cuda_green::CudaDevice;
pub fn measure(_device: &CudaDevice, _lengths: &Lengths) -> anyhow::Result<Vec<HostRow>> {
    Ok(Vec::new())
}
