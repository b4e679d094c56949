//! LimitFigures and events of memory: what pools count, how long operations take, and how full the device is.

pub(super) mod device_usage;
pub(super) mod events;
mod histogram;
pub(super) mod metrics;

pub use histogram::Latencies;
pub use metrics::PoolMetrics;
