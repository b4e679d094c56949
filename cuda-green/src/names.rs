//! Names for partitions: the contexts behind each, which of them is in force, and streams that follow a name.
//!
//! A manager decides what is made and put into force; this room keeps it in order while other threads look names up and
//! launch by name. In tests under loom a model takes the place of the GPU ([`gpu`]).

mod generation;
mod gpu;
#[cfg(all(test, loom))]
mod gpu_loom;
mod hand_off;
mod named_partition;
#[cfg(all(test, loom))]
mod names_loom;
mod partition_stream;
mod reentrancy;
mod registry;

pub use hand_off::HandOff;
pub use partition_stream::PartitionStream;

pub(crate) use generation::{Generation, Pieces};
pub(crate) use named_partition::NamedPartition;
pub(crate) use reentrancy::refuse_inside;
pub(crate) use registry::{
    Ids, NotRemoved, OwnShare, Registry, RegistryChange, RetireStep, UsedPieces,
};
