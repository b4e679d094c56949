//! A generation: the context that a name stands for at one time; and the one in force, as followers of a name see it.

use super::gpu::GreenContext;
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Indices of some of the layout's pieces, in order.
pub(crate) type Pieces = Vec<usize>;

/// A context under a name, over some of the layout's pieces.
pub(crate) struct Generation {
    pub(crate) pieces: Pieces,
    pub(crate) context: GreenContext,
}

impl Generation {
    pub(crate) fn shares_pieces_with(&self, other: &Self) -> bool {
        self.pieces.iter().any(|piece| other.pieces.contains(piece))
    }
}

/// The context in force under a name. A name shares it with the streams that follow it.
pub(crate) struct ContextInForce(RwLock<GreenContext>);

impl ContextInForce {
    pub(crate) fn new(context: GreenContext) -> Self {
        Self(RwLock::new(context))
    }

    /// Returns it under a guard, while which lives no other is put into force.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, GreenContext> {
        self.0.read()
    }

    /// Waits for all readers, and keeps new ones waiting while the guard lives.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, GreenContext> {
        self.0.write()
    }
}
