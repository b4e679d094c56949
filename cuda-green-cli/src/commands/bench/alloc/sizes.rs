//! Sizes of the allocation benchmarks.

pub const MIB: usize = 1 << 20;
pub const GIB: usize = 1 << 30;
/// The limit of the measured pool.
pub const LIMIT: u64 = 8 << 30;
