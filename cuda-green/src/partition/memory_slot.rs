//! Storage for a context's memory, whose type is defined in a room above this one.

use std::{any::Any, sync::Arc};

/// The memory of a context, set by the room `context`. Contexts that replace each other under one name share it, so
/// that the name's limit applies to all of them together.
#[derive(Clone)]
pub(crate) struct MemorySlot(Arc<dyn Any + Send + Sync>);

impl MemorySlot {
    /// Stores a context's memory.
    pub(crate) fn new(memory: impl Any + Send + Sync) -> Self {
        Self(Arc::new(memory))
    }

    /// Returns the memory, if it is of this type.
    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}
