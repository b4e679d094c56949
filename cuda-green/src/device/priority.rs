//! Priorities of streams, in four levels.

/// The importance of a context's work.
///
/// CUDA itself has only a priority for streams. The four levels are spread over the range that the device offers
/// ([`CudaDevice::stream_priorities`](crate::CudaDevice::stream_priorities)). This crate enforces the rest: a critical
/// context cannot be preemptible, and a rebalance takes SMs from preemptible contexts only.
///
/// # What CUDA does with a priority
/// Among blocks that wait for the same SMs, those of the stream with the higher priority start first. It does
/// nothing else. Measured on an H200 (driver of CUDA 13.0; `evidence/isolation.json`), a request of one kernel beside a
/// flood from another stream:
///
/// <!-- priorities: written by `BLESS=1 cargo test --test readme` from evidence/isolation.json -->
/// | p99 of the request, in µs | flood of long blocks | flood of short blocks |
/// |---|---|---|
/// | two plain streams | 9,590 | 14,276 |
/// | high- and low-priority streams | 9,590 | 127 |
/// | two partitions | 247 | 246 |
/// | the partition alone | 247 | 247 |
/// <!-- end -->
///
/// # What CUDA does not do
/// - A running block is never stopped for another: with long blocks, a priority changes nothing.
/// - Contexts have no priority; only streams have one. Contexts with separate SMs never wait for each other's
///   blocks, so with partitions the priority matters only within one; in single-context mode, for all work.
/// - Copies between host and device ignore it (the header of `cuStreamCreateWithPriority`), and so does
///   memory bandwidth.
/// - Before blocks wait for SMs, their launches go through workqueues that contexts share. From CUDA 13.1 on a
///   manager asks for separate workqueues for each context;
///   [`GreenContext::workqueue_isolation`](crate::GreenContext::workqueue_isolation) reports whether the driver granted
///   them. No such driver was available, so the benefit is not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ContextPriority {
    /// Gives way to all other work.
    Low,
    /// The default.
    #[default]
    Medium,
    /// Rarely gives way.
    High,
    /// Never gives way.
    Critical,
}

impl ContextPriority {
    /// Maps the level into a device's range of priorities; lower numbers have precedence.
    pub(crate) fn within(self, least: i32, greatest: i32) -> i32 {
        let range = f64::from(greatest) - f64::from(least);
        let share = match self {
            Self::Low => 0.0,
            Self::Medium => 1.0 / 3.0,
            Self::High => 2.0 / 3.0,
            Self::Critical => 1.0,
        };
        (f64::from(least) + range * share).round() as i32
    }
}
