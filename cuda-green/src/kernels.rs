//! The crate's own kernels: PTX as text, compiled by the driver for whatever GPU there is.

/// The source of all kernels.
pub(crate) const PTX: &str = include_str!("kernels/kernels.ptx");

/// Counts blocks by the SM they ran on; see `kernels.ptx`.
pub(crate) const SM_IDS: &str = "cuda_green_sm_ids";
