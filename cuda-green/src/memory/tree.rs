//! The tree of limits: what is charged to each of them, under one lock.

use std::sync::Arc;

use super::pressure::{Due, Gauge, Watcher};
use crate::sync::{Mutex, MutexGuard};

/// A request that does not fit, with the tightest of the limits above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) asked: u64,
    pub(crate) available: u64,
    pub(crate) limit: u64,
}

/// Bytes that a thread has at hand, and what the user keeps beside them.
pub(crate) struct Purse<T> {
    pub(crate) credit: u64,
    pub(crate) kept: T,
}

/// Alone on its cache lines, or threads would slow each other down.
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

pub(crate) type Purses<T> = Vec<Padded<Mutex<Purse<T>>>>;

/// The levels that pay for a charge, from one of them upwards.
pub(crate) type Chain = Vec<usize>;

/// The figures of a level at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) limit: u64,
    /// Exact: purses not included.
    pub(crate) used: u64,
    /// Under this limit and all above it.
    pub(crate) available: u64,
    pub(crate) high: u64,
    pub(crate) reserved: u64,
    pub(crate) refusals: u64,
}

struct Level {
    parent: Option<usize>,
    /// The parents were charged with the whole limit when this was made.
    prepaid: bool,
    limit: u64,
    /// Bytes in use, and those in purses.
    charged: u64,
    high: u64,
    /// Bytes of prepaid children.
    reserved: u64,
    refusals: u64,
    pressure: Gauge,
}

impl Level {
    fn new(parent: Option<usize>, limit: u64, prepaid: bool) -> Self {
        Self {
            parent,
            prepaid,
            limit,
            charged: 0,
            high: 0,
            reserved: 0,
            refusals: 0,
            pressure: Gauge::new(0, limit),
        }
    }
}

pub(crate) struct Tree<T> {
    levels: Vec<Option<Level>>,
    /// The purses that draw on a level.
    purses: Vec<(usize, Arc<Purses<T>>)>,
}

impl<T> Tree<T> {
    /// One limit, whose index is 0.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            levels: vec![Some(Level::new(None, limit, false))],
            purses: Vec::new(),
        }
    }

    /// A limit within another; gives its index.
    pub(crate) fn child(&mut self, parent: usize, limit: u64) -> usize {
        self.add(Level::new(Some(parent), limit, false))
    }

    /// The same, with its bytes taken from the other now.
    pub(crate) fn reserve(
        &mut self,
        parent: usize,
        bytes: u64,
        due: &mut Due,
    ) -> Result<usize, Refused> {
        self.charge_exactly(&self.chain(parent), bytes, due)?;
        if let Some(level) = self.level_mut(parent) {
            level.reserved += bytes;
        }
        Ok(self.add(Level::new(Some(parent), bytes, true)))
    }

    /// Takes a limit out; what was reserved for it goes back.
    pub(crate) fn end(&mut self, index: usize, due: &mut Due) {
        let ended = self.levels.get_mut(index).and_then(Option::take);
        if let Some(level) = ended
            && level.prepaid
            && let Some(parent) = level.parent
        {
            self.discharge(&self.chain(parent), level.limit, due);
            if let Some(above) = self.level_mut(parent) {
                above.reserved -= level.limit;
            }
        }
    }

    /// Adds purses that draw on a limit.
    pub(crate) fn join(&mut self, index: usize, purses: &Arc<Purses<T>>) {
        self.purses.push((index, purses.clone()));
    }

    /// Takes them out again, and what is in them.
    pub(crate) fn leave(&mut self, index: usize, purses: &Arc<Purses<T>>, due: &mut Due) {
        let chain = self.chain(index);
        for purse in purses.iter() {
            let credit = std::mem::take(&mut lock(&purse.0).credit);
            self.discharge(&chain, credit, due);
        }
        self.purses.retain(|(_, other)| !Arc::ptr_eq(other, purses));
    }

    /// The levels that pay for a charge at this one, from it upwards.
    pub(crate) fn chain(&self, index: usize) -> Chain {
        let mut chain = Vec::with_capacity(4);
        let mut next = Some(index);
        while let Some(index) = next {
            let Some(level) = self.level(index) else {
                break;
            };
            chain.push(index);
            next = level.parent.filter(|_| !level.prepaid);
        }
        chain
    }

    /// Charges bytes if they fit beside what purses hold; if not, nothing.
    pub(crate) fn charge_beside_purses(
        &mut self,
        chain: &[usize],
        bytes: u64,
        due: &mut Due,
    ) -> bool {
        let fits = bytes <= self.room(chain).0;
        if fits {
            self.charge(chain, bytes, due);
        }
        fits
    }

    /// Charges bytes if they fit at all. No purse may be held.
    pub(crate) fn charge_exactly(
        &mut self,
        chain: &[usize],
        bytes: u64,
        due: &mut Due,
    ) -> Result<(), Refused> {
        self.empty_purses(due);
        let (available, limit) = self.room(chain);
        if bytes > available {
            if let Some(level) = chain.first().and_then(|index| self.level_mut(*index)) {
                level.refusals += 1;
            }
            return Err(Refused {
                asked: bytes,
                available,
                limit,
            });
        }
        self.charge(chain, bytes, due);
        Ok(())
    }

    /// Takes what is in all purses, all of them held at once: so the sums are those of one moment. What is
    /// freed after it is freed after the decision; nothing can be taken past the tree, which is locked, but
    /// what was freed after.
    fn empty_purses(&mut self, due: &mut Due) {
        let purses = self.purses.clone();
        let mut held: Vec<(usize, MutexGuard<'_, Purse<T>>)> = purses
            .iter()
            .flat_map(|(index, purses)| purses.iter().map(|purse| (*index, lock(&purse.0))))
            .collect();
        for (index, purse) in &mut held {
            let credit = std::mem::take(&mut purse.credit);
            if credit > 0 {
                self.discharge(&self.chain(*index), credit, due);
            }
        }
    }

    pub(crate) fn discharge(&mut self, chain: &[usize], bytes: u64, due: &mut Due) {
        for index in chain {
            if let Some(level) = self.level_mut(*index) {
                level.charged -= bytes;
                level.pressure.follow(level.charged, level.limit, due);
            }
        }
    }

    pub(crate) fn watch(&mut self, index: usize, watcher: Watcher) {
        if let Some(level) = self.level_mut(index) {
            level.pressure.watch(watcher);
        }
    }

    pub(crate) fn figures(&self, index: usize) -> Figures {
        let held: Vec<_> = self
            .purses
            .iter()
            .flat_map(|(index, purses)| purses.iter().map(|purse| (*index, lock(&purse.0))))
            .filter(|(_, purse)| purse.credit > 0)
            .map(|(index, purse)| (self.chain(index), purse))
            .collect();
        let used = |index: usize| {
            let at_hand: u64 = held
                .iter()
                .filter(|(chain, _)| chain.contains(&index))
                .map(|(_, purse)| purse.credit)
                .sum();
            self.level(index).map_or(0, |level| level.charged - at_hand)
        };
        let Some(level) = self.level(index) else {
            return Figures::default(); // whoever asks keeps the level, so it is there
        };
        let available = self
            .chain(index)
            .into_iter()
            .filter_map(|index| Some(self.level(index)?.limit - used(index)))
            .min();
        Figures {
            limit: level.limit,
            used: used(index),
            available: available.unwrap_or(0),
            high: level.high,
            reserved: level.reserved,
            refusals: level.refusals,
        }
    }

    fn charge(&mut self, chain: &[usize], bytes: u64, due: &mut Due) {
        for index in chain {
            if let Some(level) = self.level_mut(*index) {
                level.charged += bytes;
                level.high = level.high.max(level.charged);
                level.pressure.follow(level.charged, level.limit, due);
            }
        }
    }

    /// Bytes left under the tightest limit of the chain, and that limit.
    fn room(&self, chain: &[usize]) -> (u64, u64) {
        chain
            .iter()
            .filter_map(|index| self.level(*index))
            .map(|level| (level.limit - level.charged, level.limit))
            .min_by_key(|(room, _)| *room)
            .unwrap_or((0, 0))
    }

    fn level(&self, index: usize) -> Option<&Level> {
        self.levels.get(index)?.as_ref()
    }

    fn level_mut(&mut self, index: usize) -> Option<&mut Level> {
        self.levels.get_mut(index)?.as_mut()
    }

    fn add(&mut self, level: Level) -> usize {
        if let Some(index) = self.levels.iter().position(Option::is_none) {
            self.levels[index] = Some(level);
            index
        } else {
            self.levels.push(Some(level));
            self.levels.len() - 1
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
