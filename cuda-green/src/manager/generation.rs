//! What stands behind a name: the context in force, and the others it can be exchanged for.

use crate::{
    error::{Error, Result},
    partition::GreenContext,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// One name of a manager.
pub(super) struct Entry<Id> {
    pub(super) id: Arc<Id>,
    pub(super) slot: Arc<Slot>,
    /// The pieces that it was created with, which are its own for good.
    pub(super) base: Vec<usize>,
    /// The generation in force.
    pub(super) current: usize,
    /// All that are kept, the oldest first. They are kept for the next time: a green context over other
    /// pieces is dear to make and cheap to keep.
    pub(super) generations: Vec<Generation>,
}

/// A context under a name, over some of the layout's pieces.
pub(super) struct Generation {
    /// Indices into the layout's pieces, in order.
    pub(super) pieces: Vec<usize>,
    pub(super) context: GreenContext,
}

/// The context in force under a name. Shared with what follows the name.
pub(crate) struct Slot(RwLock<GreenContext>);

impl Slot {
    pub(super) fn new(context: GreenContext) -> Self {
        Self(RwLock::new(context))
    }

    /// Reads it; while the guard lives, no other is put into force.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, GreenContext> {
        self.0.read()
    }

    /// Holds off everyone who reads it.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, GreenContext> {
        self.0.write()
    }
}

impl<Id> Entry<Id> {
    pub(super) fn new(id: Arc<Id>, context: GreenContext, pieces: Vec<usize>) -> Self {
        Self {
            id,
            slot: Arc::new(Slot::new(context.clone())),
            base: pieces.clone(),
            current: 0,
            generations: vec![Generation { pieces, context }],
        }
    }

    /// The context in force.
    pub(super) fn context(&self) -> &GreenContext {
        &self.generations[self.current].context
    }

    /// The pieces in force.
    pub(super) fn pieces(&self) -> &[usize] {
        &self.generations[self.current].pieces
    }

    /// The generation over exactly these pieces, if it was made.
    pub(super) fn find(&self, pieces: &[usize]) -> Option<usize> {
        self.generations
            .iter()
            .position(|generation| generation.pieces == pieces)
    }

    /// Who uses any of its contexts, beside this entry itself. A guard that was forgotten holds nothing
    /// any more, but its thread has the context current still.
    pub(super) fn holders(&self) -> usize {
        // The slot first: who has it may come to hold a context yet, and lets go of the slot last.
        let of_slot = Arc::strong_count(&self.slot) - 1;
        let of_contexts: usize = self
            .generations
            .iter()
            .map(|generation| generation.context.holders() - 1)
            .sum();
        // One of the handles counted is the slot's own.
        let holders = of_slot + of_contexts - 1;
        if holders > 0 {
            return holders;
        }
        let contexts = self.generations.iter();
        contexts
            .map(|generation| generation.context.use_count())
            .sum()
    }

    /// The pieces of each context that is not in force, the oldest first.
    pub(super) fn retired(&self) -> impl Iterator<Item = &Vec<usize>> {
        let generations = self.generations.iter().enumerate();
        let retired = generations.filter(|(index, _)| *index != self.current);
        retired.map(|(_, generation)| &generation.pieces)
    }

    /// Takes out the context over these pieces, unless it is in force or used.
    pub(super) fn take_idle(&mut self, pieces: &[usize]) -> Result<Option<GreenContext>> {
        let Some(index) = self.find(pieces).filter(|index| *index != self.current) else {
            return Ok(None);
        };
        let context = &self.generations[index].context;
        if context.holders() > 1 || context.use_count() > 0 || context.is_current()? {
            return Ok(None);
        }
        if index < self.current {
            self.current -= 1;
        }
        Ok(Some(self.generations.remove(index).context))
    }

    /// Waits for the work of all its contexts and destroys them.
    pub(super) fn close(self) -> Result<()> {
        drop(self.slot);
        let mut result = Ok(());
        for Generation { context, .. } in self.generations {
            result = result.and(context.close().map_err(Error::from));
        }
        result
    }
}
