//! A generation: the context that a name stands for at one time; and the one in force, as followers of a name see it.

use crate::{
    partition::GreenContext,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// Indices of some of the layout's pieces, in order.
pub(super) type Pieces = Vec<usize>;

/// A context under a name, over some of the layout's pieces.
pub(super) struct Generation {
    pub(super) pieces: Pieces,
    pub(super) context: GreenContext,
}

impl Generation {
    pub(super) fn shares_pieces_with(&self, other: &Self) -> bool {
        self.pieces.iter().any(|piece| other.pieces.contains(piece))
    }
}

/// The context in force under a name. A name shares it with the streams that follow it.
pub(super) struct ContextInForce(RwLock<GreenContext>);

impl ContextInForce {
    pub(super) fn new(context: GreenContext) -> Self {
        Self(RwLock::new(context))
    }

    /// Returns it under a guard, while which lives no other is put into force.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, GreenContext> {
        self.0.read()
    }

    /// Waits for all readers, and keeps new ones waiting while the guard lives.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, GreenContext> {
        self.0.write()
    }
}
