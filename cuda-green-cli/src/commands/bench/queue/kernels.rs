//! The PTX of the kernels.

/// The hand-written loops, compiled from `raw.cu`.
pub const RAW: &str = include_str!("raw.ptx");

/// Those that use the queue, compiled from `own.cu`.
pub const OWN: &str = include_str!("own.ptx");
