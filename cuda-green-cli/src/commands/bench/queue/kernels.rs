//! The PTX of the kernels.

/// The hand-written loops.
pub const RAW: &str = "";
