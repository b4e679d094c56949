//! Priorities of streams, in four levels.

/// How important a context's work is.
///
/// Of all this, CUDA has one thing: a priority for streams, to which the four levels are mapped, spread over
/// what the device offers ([`CudaDevice::stream_priorities`](crate::CudaDevice::stream_priorities)). What the
/// levels promise beyond that, this crate keeps: a critical context cannot be preemptible, and a rebalance
/// takes SMs from preemptible ones only.
///
/// # What CUDA does with a priority
/// Among blocks that wait for the same SMs, those of the stream with the higher priority go first. That is
/// all. Measured on an H200 (driver of CUDA 13.0; `evidence/isolation.json`), a request of one kernel beside a
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
/// - No block that runs is ever stopped for another: where blocks are long, a priority changes nothing.
/// - Contexts have no priority, only streams have. Contexts with SMs of their own do not wait for each other's
///   blocks at all, so there the priority matters within a partition; in single-context mode, for all work.
/// - Copies between host and device take no notice of it (the header of `cuStreamCreateWithPriority`), nor does
///   memory bandwidth.
/// - Before blocks wait for SMs, their launches go through workqueues that contexts share. From CUDA 13.1 on a
///   manager asks for workqueues of each context's own; whether the driver gave them, the context says:
///   [`GreenContext::workqueue_isolation`](crate::GreenContext::workqueue_isolation). No such driver was at
///   hand, so what that gains is not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ContextPriority {
    /// Gives way to all other work.
    Low,
    /// As usual.
    #[default]
    Medium,
    /// Rarely gives way.
    High,
    /// Never gives way.
    Critical,
}

impl ContextPriority {
    /// Spreads the four levels over what a device offers; lower numbers come first.
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
