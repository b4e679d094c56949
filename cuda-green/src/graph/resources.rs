//! Everything that graphs keep alive.

use std::any::Any;

use crate::partition::GreenContext;

/// Everything that a graph keeps alive while it can be launched.
pub(crate) struct GraphResources {
    /// The contexts of all streams that were part of the capture.
    pub(super) contexts: Vec<GreenContext>,
    /// The captured kernels, and the values that the client gave to [`Capture::keep`](crate::Capture::keep).
    pub(super) values: Vec<Box<dyn Any + Send + Sync>>,
}
