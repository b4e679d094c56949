//! Tasks of the CPU to the CPU.
use cuda_green::CudaDevice;
use super::{figures::HostRow, lengths::Lengths};
pub fn measure(_device: &CudaDevice, _lengths: &Lengths) -> anyhow::Result<Vec<HostRow>> {
    Ok(Vec::new())
}
