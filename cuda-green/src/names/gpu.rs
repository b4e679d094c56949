//! The GPU as this room uses it: contexts, streams and events of this crate, or of a model in tests under loom.

#[cfg(not(all(test, loom)))]
pub(super) use crate::{event::Event, partition::GreenContext, stream::Stream};

#[cfg(all(test, loom))]
pub(super) use super::gpu_loom::{Event, GreenContext, Stream};
