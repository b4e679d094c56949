//! The partition behind one name: its generations, and which of them is in force.

use super::{
    generation::{ContextInForce, Generation, Pieces},
    gpu::GreenContext,
};
use crate::{
    error::{Error, Result},
    sync::{Arc, RwLockWriteGuard},
};

/// One name of a manager.
pub(crate) struct NamedPartition<Id> {
    id: Arc<Id>,
    /// The context in force, as followers of the name see it.
    followed: Arc<ContextInForce>,
    /// The pieces that it was created with, which it owns to its end, or to a change of a plan among processes.
    own_pieces: Pieces,
    /// The index of the generation in force.
    in_force: usize,
    /// The oldest first. Those not in force stay for the next time: a green context over other pieces takes long to
    /// make and little to keep.
    generations: Vec<Generation>,
}

impl<Id> NamedPartition<Id> {
    pub(crate) fn new(id: Arc<Id>, context: GreenContext, pieces: Pieces) -> Self {
        Self {
            id,
            followed: Arc::new(ContextInForce::new(context.clone())),
            own_pieces: pieces.clone(),
            in_force: 0,
            generations: vec![Generation { pieces, context }],
        }
    }

    pub(crate) fn id(&self) -> &Arc<Id> {
        &self.id
    }

    /// Returns the context in force.
    pub(crate) fn context(&self) -> &GreenContext {
        &self.generations[self.in_force].context
    }

    /// Returns the pieces in force.
    pub(crate) fn pieces(&self) -> &[usize] {
        &self.generations[self.in_force].pieces
    }

    /// Returns the pieces that it was created with.
    pub(crate) fn own_pieces(&self) -> &[usize] {
        &self.own_pieces
    }

    pub(crate) fn followed(&self) -> &Arc<ContextInForce> {
        &self.followed
    }

    pub(crate) fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Returns the index of the generation in force.
    pub(crate) fn in_force(&self) -> usize {
        self.in_force
    }

    /// Returns the index of the generation over exactly these pieces, if there is one.
    pub(crate) fn find(&self, pieces: &[usize]) -> Option<usize> {
        self.generations
            .iter()
            .position(|generation| generation.pieces == pieces)
    }

    /// Adds a generation, which is not in force yet.
    pub(crate) fn add_generation(&mut self, generation: Generation) {
        self.generations.push(generation);
    }

    /// Puts a generation into force, for followers too, whom the guard keeps waiting.
    pub(crate) fn put_in_force(
        &mut self,
        generation: usize,
        followed: &mut RwLockWriteGuard<'_, GreenContext>,
    ) {
        **followed = self.generations[generation].context.clone();
        self.in_force = generation;
    }

    /// Counts the users of any of its contexts, apart from this partition itself. A guard that was forgotten holds
    /// nothing, but its thread still has the context current.
    pub(crate) fn holders(&self) -> usize {
        // Followers first: one of them may come to hold a context yet, and lets go of the name last.
        let followers = Arc::strong_count(&self.followed) - 1;
        let of_contexts: usize = self
            .generations
            .iter()
            .map(|generation| generation.context.holders() - 1)
            .sum();
        // One of the handles counted is that of `followed`.
        let holders = followers + of_contexts - 1;
        if holders > 0 {
            return holders;
        }
        let contexts = self.generations.iter();
        contexts
            .map(|generation| generation.context.use_count())
            .sum()
    }

    /// Returns the number of green contexts behind all generations, siblings included.
    pub(crate) fn green_contexts(&self) -> usize {
        let contexts = self.generations.iter();
        contexts
            .map(|generation| generation.context.green_contexts())
            .sum()
    }

    /// Returns the largest number of green contexts behind any generation.
    pub(crate) fn most_siblings(&self) -> usize {
        let contexts = self.generations.iter();
        let siblings = contexts.map(|generation| generation.context.green_contexts());
        siblings.max().unwrap_or_default()
    }

    /// Returns the pieces of each retired context, the oldest first.
    pub(crate) fn retired(&self) -> impl Iterator<Item = &Pieces> {
        let generations = self.generations.iter().enumerate();
        let retired = generations.filter(|(index, _)| *index != self.in_force);
        retired.map(|(_, generation)| &generation.pieces)
    }

    /// Takes out the context over these pieces, unless it is in force or used.
    pub(crate) fn take_idle(&mut self, pieces: &[usize]) -> Result<Option<GreenContext>> {
        let Some(index) = self.find(pieces).filter(|index| *index != self.in_force) else {
            return Ok(None);
        };
        let context = &self.generations[index].context;
        if context.holders() > 1 || context.use_count() > 0 || context.is_current()? {
            return Ok(None);
        }
        if index < self.in_force {
            self.in_force -= 1;
        }
        Ok(Some(self.generations.remove(index).context))
    }

    /// Makes the pieces in force its own.
    pub(crate) fn own_what_is_in_force(&mut self) {
        self.own_pieces = self.pieces().to_vec();
    }

    /// Waits for the work of all its contexts and destroys them.
    pub(crate) fn close(self) -> Result<()> {
        drop(self.followed);
        let mut result = Ok(());
        for Generation { context, .. } in self.generations {
            result = result.and(context.close().map_err(Error::from));
        }
        result
    }
}
