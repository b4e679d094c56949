//! The names of a manager, and what stands behind each.
//!
//! Nothing of a client's runs under the lock: a client's ids are compared, shown, copied and dropped outside of it, from
//! a list of them that is shared.

use std::sync::PoisonError;

use super::generation::Entry;
use crate::{
    error::{Error, Result},
    partition::{GreenContext, Later},
    sync::{Arc, RwLock},
};

/// All names of a manager. Changed by whoever holds the manager's lock of changes, and by nobody else.
pub(super) struct Names<Id> {
    state: RwLock<State<Id>>,
    /// Whether ids are this crate's own, whose comparison calls nobody, so that it may run under the lock.
    are_own: bool,
}

struct State<Id> {
    ids: Ids<Id>,
    entries: Vec<Entry<Id>>,
}

/// The ids at one moment, in the order of their entries.
pub(super) type Ids<Id> = Arc<Vec<Arc<Id>>>;

/// Why a name did not end.
pub(super) enum NotEnded {
    /// So many use one of its contexts.
    InUse(usize),
    Error(Error),
}

/// A step towards fewer contexts.
pub(super) enum Retired {
    /// A context that nobody uses, taken out.
    Context(GreenContext),
    /// Something that kept one in use was given up; once that is dropped, the next step may find it idle.
    GaveUp,
    /// There is nothing that nobody uses.
    Nothing,
}

impl<Id> Names<Id> {
    /// No names yet; whether their ids are to be this crate's own.
    pub(super) fn new(are_own: bool) -> Self {
        Self {
            state: RwLock::new(State {
                ids: Arc::default(),
                entries: Vec::new(),
            }),
            are_own,
        }
    }

    /// The ids as they are now.
    pub(super) fn ids(&self) -> Ids<Id> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&state.ids)
    }

    /// Looks at the entries. For a moment: a change waits for it.
    pub(super) fn read<T>(&self, action: impl FnOnce(&[Entry<Id>]) -> T) -> T {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        action(&state.entries)
    }

    /// Changes entries. For a moment: whoever looks one up waits for it.
    pub(super) fn write<T>(&self, action: impl FnOnce(&mut [Entry<Id>]) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        action(&mut state.entries)
    }

    /// Looks at the entry of the first id that fits.
    pub(super) fn find<T>(
        &self,
        fits: impl Fn(&Id) -> bool,
        action: impl FnOnce(&Entry<Id>) -> T,
    ) -> Option<T> {
        if self.are_own {
            let fits = |entry: &&Entry<Id>| fits(&entry.id);
            return self.read(|entries| entries.iter().find(fits).map(action));
        }
        let ids = self.ids();
        let (index, id) = ids.iter().enumerate().find(|(_, id)| fits(id))?;
        self.read(|entries| {
            let is_it = |entry: &&Entry<Id>| Arc::ptr_eq(&entry.id, id);
            // Where others went meanwhile, it has another place.
            let entry = entries.get(index).filter(is_it);
            entry.or_else(|| entries.iter().find(is_it)).map(action)
        })
    }

    pub(super) fn add(&self, entries: impl IntoIterator<Item = Entry<Id>>) {
        self.change(|all| all.extend(entries));
    }

    /// Takes a name out for good, unless anyone uses one of its contexts.
    pub(super) fn take_out(&self, index: usize) -> Result<Entry<Id>, NotEnded> {
        self.change(|entries| {
            let entry = &entries[index];
            // No other can appear meanwhile, since they come from here.
            let holders = entry.holders();
            if holders > 0 {
                return Err(NotEnded::InUse(holders));
            }
            for generation in &entry.generations {
                match generation.context.is_current() {
                    Ok(false) => {}
                    Ok(true) => return Err(NotEnded::Error(Error::ContextIsCurrent)),
                    Err(error) => return Err(NotEnded::Error(error)),
                }
            }
            Ok(entries.remove(index))
        })
    }

    /// Takes out the oldest context that is not in force, not wanted and not used; or has given up what kept it in
    /// use. `wanted` are the pieces, of each entry, of contexts that stay. No other lock is held but that of
    /// changes: who uses what is to be given up may be looking something up in the manager.
    pub(super) fn retire(&self, wanted: &[Vec<Vec<usize>>], later: &mut Later) -> Result<Retired> {
        let candidates: Vec<(usize, Vec<usize>)> = self.read(|entries| {
            let entries = entries.iter().enumerate();
            let of_entry = |(index, entry): (usize, &Entry<Id>)| {
                let wanted = wanted.get(index).map_or(&[][..], Vec::as_slice);
                let retired = entry.retired().filter(|pieces| !wanted.contains(pieces));
                let retired = retired.map(|pieces| (index, pieces.clone()));
                retired.collect::<Vec<_>>()
            };
            entries.flat_map(of_entry).collect()
        });
        for (index, pieces) in candidates {
            let context = self.read(|entries| {
                let entry = &entries[index];
                let generation = entry.find(&pieces);
                generation.map(|generation| entry.generations[generation].context.clone())
            });
            let gave_up = context.map_or(Ok(false), |context| context.give_up(later))?;
            if gave_up {
                return Ok(Retired::GaveUp);
            }
            if let Some(idle) = self.write(|entries| entries[index].take_idle(&pieces))? {
                return Ok(Retired::Context(idle));
            }
        }
        Ok(Retired::Nothing)
    }

    fn change<T>(&self, action: impl FnOnce(&mut Vec<Entry<Id>>) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let done = action(&mut state.entries);
        if state.entries.len() != state.ids.len() {
            let ids = state.entries.iter().map(|entry| Arc::clone(&entry.id));
            // The list that was ends no id: what was taken out, the caller has.
            state.ids = Arc::new(ids.collect());
        }
        done
    }
}
