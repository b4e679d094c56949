//! The PTX of the kernels.

/// The hand-written loops, compiled from `raw.cu`.
pub const RAW: &str = include_str!("raw.ptx");
