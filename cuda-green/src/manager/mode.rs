//! The mode of a manager: a partitioned device, or a single context.

/// Whether the device is really partitioned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PartitionMode {
    /// Each context has its own SMs.
    Partitioned,
    /// Every id stands for the one context of the whole GPU.
    SingleContext {
        /// The reason.
        reason: String,
    },
}
