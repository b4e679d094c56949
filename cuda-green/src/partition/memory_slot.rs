//! The place of a context's memory, whose type belongs to a room above this one.

use std::{any::Any, sync::Arc};

/// What the room `context` keeps as a context's memory. Contexts that take each other's place under one name share
/// it, so that the name's limit holds over all of them.
#[derive(Clone)]
pub(crate) struct MemorySlot(Arc<dyn Any + Send + Sync>);

impl MemorySlot {
    pub(crate) fn new(memory: impl Any + Send + Sync) -> Self {
        Self(Arc::new(memory))
    }

    /// Returns the memory, if it is of this type.
    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}
