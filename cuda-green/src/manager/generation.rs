//! What stands behind a name: the context in force, and the others it can be exchanged for.

use std::{
    fmt::Debug,
    sync::{PoisonError, Weak},
};

use crate::{
    Error, GreenContext, Result,
    sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// One name of a manager.
pub(super) struct Entry<Id> {
    pub(super) id: Id,
    pub(super) slot: Arc<Slot>,
    /// The pieces that it was created with, which are its own for good.
    pub(super) base: Vec<usize>,
    /// The generation in force.
    pub(super) current: usize,
    /// All that are kept, the oldest first. They are kept for the next time: a green context over other
    /// pieces is dear to make and cheap to keep.
    pub(super) generations: Vec<Generation>,
}

/// Takes a name out for good, unless anyone uses one of its contexts.
pub(super) fn take_out<Id: Copy + Eq + Debug>(
    contexts: &mut Vec<Entry<Id>>,
    id: Id,
) -> Result<Entry<Id>> {
    let index = contexts
        .iter()
        .position(|entry| entry.id == id)
        .ok_or_else(|| Error::NoSuchContext {
            id: format!("{id:?}"),
        })?;
    // No other can appear meanwhile, since they come from here.
    let holders = contexts[index].holders();
    if holders > 0 {
        return Err(Error::ContextInUse {
            id: format!("{id:?}"),
            holders,
        });
    }
    for generation in &contexts[index].generations {
        if generation.context.is_current()? {
            return Err(Error::ContextIsCurrent);
        }
    }
    Ok(contexts.remove(index))
}

/// A context under a name, over some of the layout's pieces.
pub(super) struct Generation {
    /// Indices into the layout's pieces, in order.
    pub(super) pieces: Vec<usize>,
    pub(super) context: GreenContext,
}

/// The context in force under a name. Shared with what follows the name.
pub(crate) struct Slot {
    in_force: RwLock<GreenContext>,
    followers: Mutex<Vec<Weak<dyn Follower>>>,
}

/// What follows a name, and keeps something in each context that it was used in.
pub(crate) trait Follower: Send + Sync {
    /// Gives up what it keeps in a context that is not in force, so that this can end; what is a client's comes
    /// back.
    fn give_up(&self, context: &GreenContext) -> Result<GivenUp>;
}

/// What is to be dropped with no lock of the manager's held: a client's own, whose end may call the manager.
pub(crate) type GivenUp = Vec<Box<dyn Send>>;

/// A step towards fewer contexts.
pub(super) enum Idle {
    /// A context that nobody uses, taken out.
    Context(GreenContext),
    /// What kept one in use, perhaps with others; once that is dropped, the next step may find it idle.
    GivenUp(GivenUp),
}

impl Slot {
    pub(super) fn new(context: GreenContext) -> Self {
        Self {
            in_force: RwLock::new(context),
            followers: Mutex::new(Vec::new()),
        }
    }

    /// Reads it; while the guard lives, no other is put into force.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, GreenContext> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds off everyone who reads it.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, GreenContext> {
        self.in_force
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks this follower, too, to give up contexts that are to end.
    pub(crate) fn follow(&self, follower: Weak<dyn Follower>) {
        let mut followers = self.followers();
        if !followers.iter().any(|other| other.ptr_eq(&follower)) {
            followers.retain(|follower| follower.strong_count() > 0);
            followers.push(follower);
        }
    }

    fn give_up(&self, context: &GreenContext) -> Result<GivenUp> {
        let followers = self.followers().clone();
        let live = followers.iter().filter_map(Weak::upgrade);
        let given_up = live.map(|follower| follower.give_up(context));
        Ok(given_up
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Weak<dyn Follower>>> {
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Id> Entry<Id> {
    pub(super) fn new(id: Id, context: GreenContext, pieces: Vec<usize>) -> Self {
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
        contexts.map(|generation| generation.context.taken()).sum()
    }

    /// Takes out the oldest context that is neither in force nor used, and is over other pieces than these; or
    /// what keeps it in use, where that can be given up.
    pub(super) fn take_idle(&mut self, wanted: &[Vec<usize>]) -> Result<Option<Idle>> {
        for (index, Generation { pieces, context }) in self.generations.iter().enumerate() {
            if index == self.current || wanted.contains(pieces) {
                continue;
            }
            let given_up = self.slot.give_up(context)?;
            if !given_up.is_empty() {
                return Ok(Some(Idle::GivenUp(given_up)));
            }
            if context.holders() > 1 || context.taken() > 0 || context.is_current()? {
                continue;
            }
            if index < self.current {
                self.current -= 1;
            }
            let idle = self.generations.remove(index).context;
            return Ok(Some(Idle::Context(idle)));
        }
        Ok(None)
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
