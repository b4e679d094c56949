//! The accounting: limits in bytes, one within another, that hold exactly from any number of threads.
//!
//! A budget is a tree of limits under one lock. What a thread frees stays in a purse at hand, up to a small
//! cap, and pays for the next allocation without that lock; each purse has a lock and a cache line of its
//! own. Before anything is refused, all purses of the tree are held at once and emptied into it, so a
//! refusal is decided on the exact sums of one moment: what fits is never refused, what does not fit is
//! never granted. (Charging each level in turn and rolling back would refuse what fits, when another
//! thread's charge is about to be rolled back.)
//!
//! Locks are taken in one order: the tree, then purses. Who holds a purse never asks for the tree.
//!
//! A purse carries something of its user's, `T`, under the same lock: the pools keep their free lists there.

use std::sync::{Arc, PoisonError};

use super::{
    MemoryPressure,
    sync::{Mutex, MutexGuard},
};

/// What a purse keeps at most: this part of the tightest limit above it.
pub(crate) const PURSE_SHARE: u64 = 1024;

/// And never more than this many bytes.
const PURSE_MAX: u64 = 16 << 20;

/// How far use must fall below a threshold before the level counts as left: this part of the limit.
const HYSTERESIS_SHARE: u64 = 50;

/// A request that does not fit, with the tightest of the limits above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) asked: u64,
    pub(crate) available: u64,
    pub(crate) limit: u64,
}

/// A limit's level of pressure has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureChange {
    /// The level before.
    pub from: MemoryPressure,
    /// The level now.
    pub to: MemoryPressure,
    /// Bytes in use, those that threads have at hand included.
    pub used: u64,
    /// The limit in bytes.
    pub limit: u64,
}

pub(crate) type Watcher = Arc<dyn Fn(PressureChange) + Send + Sync>;

/// Calls that are due once no lock is held.
#[must_use]
pub(crate) struct Due(Vec<(Watcher, PressureChange)>);

impl Due {
    fn nothing() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn call(self) {
        for (watcher, change) in self.0 {
            watcher(change);
        }
    }
}

/// Bytes that a thread has at hand, and what the user keeps beside them.
pub(crate) struct Purse<T> {
    credit: u64,
    pub(crate) kept: T,
}

/// Alone on its cache lines, or threads would slow each other down.
#[repr(align(128))]
struct Padded<T>(T);

type Purses<T> = Vec<Padded<Mutex<Purse<T>>>>;

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
    reported: MemoryPressure,
    watchers: Vec<Watcher>,
}

struct Tree<T> {
    levels: Vec<Option<Level>>,
    /// The purses that draw on a level.
    purses: Vec<(usize, Arc<Purses<T>>)>,
}

impl<T> Tree<T> {
    /// The levels that pay for a charge at this one, from it upwards.
    fn chain(&self, index: usize) -> Vec<usize> {
        let mut chain = Vec::with_capacity(4);
        let mut next = Some(index);
        while let Some(index) = next {
            let Some(level) = self.levels.get(index).and_then(Option::as_ref) else {
                break;
            };
            chain.push(index);
            next = level.parent.filter(|_| !level.prepaid);
        }
        chain
    }

    fn level(&self, index: usize) -> Option<&Level> {
        self.levels.get(index)?.as_ref()
    }

    fn level_mut(&mut self, index: usize) -> Option<&mut Level> {
        self.levels.get_mut(index)?.as_mut()
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

    fn charge(&mut self, chain: &[usize], bytes: u64, due: &mut Due) {
        for index in chain {
            let Some(level) = self.level_mut(*index) else {
                continue;
            };
            level.charged += bytes;
            level.high = level.high.max(level.charged);
            let now = MemoryPressure::of(level.charged, level.limit);
            if now > level.reported {
                level.report(now, due);
            }
        }
    }

    fn discharge(&mut self, chain: &[usize], bytes: u64, due: &mut Due) {
        for index in chain {
            let Some(level) = self.level_mut(*index) else {
                continue;
            };
            level.charged -= bytes;
            let margin = level.limit / HYSTERESIS_SHARE;
            let now = MemoryPressure::of(level.charged.saturating_add(margin), level.limit);
            if now < level.reported {
                level.report(now, due);
            }
        }
    }

    /// Empties every purse into the tree while all are held, and then runs `decide`, with them still held.
    fn gathered<R>(&mut self, due: &mut Due, decide: impl FnOnce(&mut Self, &mut Due) -> R) -> R {
        let purses = self.purses.clone();
        let mut held: Vec<(usize, MutexGuard<'_, Purse<T>>)> = purses
            .iter()
            .flat_map(|(index, purses)| purses.iter().map(|purse| (*index, lock(&purse.0))))
            .collect();
        for (index, purse) in &mut held {
            let credit = std::mem::take(&mut purse.credit);
            if credit > 0 {
                let chain = self.chain(*index);
                self.discharge(&chain, credit, due);
            }
        }
        decide(self, due)
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
            reported: MemoryPressure::of(0, limit),
            watchers: Vec::new(),
        }
    }

    fn report(&mut self, now: MemoryPressure, due: &mut Due) {
        let change = PressureChange {
            from: self.reported,
            to: now,
            used: self.charged,
            limit: self.limit,
        };
        self.reported = now;
        due.0.extend(
            self.watchers
                .iter()
                .map(|watcher| (watcher.clone(), change)),
        );
    }
}

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

/// A level of a tree of limits. Clones are the same level; it ends with the last of them and of what is
/// below it.
pub(crate) struct Budget<T> {
    node: Arc<Node<T>>,
}

struct Node<T> {
    tree: Arc<Mutex<Tree<T>>>,
    index: usize,
    /// Keeps the levels above.
    parent: Option<Arc<Node<T>>>,
    cap: u64,
}

impl<T> Clone for Budget<T> {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
        }
    }
}

impl<T> Budget<T> {
    pub(crate) fn new(limit: u64) -> Self {
        let tree = Tree {
            levels: vec![Some(Level::new(None, limit, false))],
            purses: Vec::new(),
        };
        Self {
            node: Arc::new(Node {
                tree: Arc::new(Mutex::new(tree)),
                index: 0,
                parent: None,
                cap: cap(limit),
            }),
        }
    }

    /// A limit within this one. The limits of children may add up to more than this one.
    pub(crate) fn child(&self, limit: u64) -> Self {
        let index = lock(&self.node.tree).add(Level::new(Some(self.node.index), limit, false));
        self.below(index, self.node.cap.min(cap(limit)))
    }

    /// A limit within this one whose bytes are taken from it now, so that they are there later.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Self, Refused> {
        let mut due = Due::nothing();
        let made = {
            let mut tree = lock(&self.node.tree);
            let chain = tree.chain(self.node.index);
            tree.gathered(&mut due, |tree, due| {
                let (available, limit) = tree.room(&chain);
                if bytes > available {
                    tree.refused(&chain);
                    return Err(Refused {
                        asked: bytes,
                        available,
                        limit,
                    });
                }
                tree.charge(&chain, bytes, due);
                if let Some(level) = tree.level_mut(self.node.index) {
                    level.reserved += bytes;
                }
                Ok(tree.add(Level::new(Some(self.node.index), bytes, true)))
            })
        };
        due.call();
        made.map(|index| self.below(index, cap(bytes)))
    }

    fn below(&self, index: usize, cap: u64) -> Self {
        Self {
            node: Arc::new(Node {
                tree: self.node.tree.clone(),
                index,
                parent: Some(self.node.clone()),
                cap,
            }),
        }
    }

    /// Calls back when the level of pressure changes. It rises at once, and falls when use is a fiftieth of
    /// the limit below the threshold.
    pub(crate) fn watch(&self, watcher: Watcher) {
        if let Some(level) = lock(&self.node.tree).level_mut(self.node.index) {
            level.watchers.push(watcher);
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        let tree = lock(&self.node.tree);
        let held: Vec<_> = tree
            .purses
            .iter()
            .flat_map(|(index, purses)| purses.iter().map(|purse| (*index, lock(&purse.0))))
            .filter(|(_, purse)| purse.credit > 0)
            .map(|(index, purse)| (tree.chain(index), purse))
            .collect();
        let used = |index: usize| {
            let at_hand: u64 = held
                .iter()
                .filter(|(chain, _)| chain.contains(&index))
                .map(|(_, purse)| purse.credit)
                .sum();
            tree.level(index).map_or(0, |level| level.charged - at_hand)
        };
        let Some(level) = tree.level(self.node.index) else {
            return Figures::default(); // the node keeps its level, so it is there
        };
        let available = tree
            .chain(self.node.index)
            .into_iter()
            .filter_map(|index| Some(tree.level(index)?.limit - used(index)))
            .min();
        Figures {
            limit: level.limit,
            used: used(self.node.index),
            available: available.unwrap_or(0),
            high: level.high,
            reserved: level.reserved,
            refusals: level.refusals,
        }
    }
}

impl<T> Tree<T> {
    fn refused(&mut self, chain: &[usize]) {
        if let Some(level) = chain.first().and_then(|index| self.level_mut(*index)) {
            level.refusals += 1;
        }
    }
}

impl<T> Drop for Node<T> {
    fn drop(&mut self) {
        let mut due = Due::nothing();
        {
            let mut tree = lock(&self.tree);
            let ended = tree.levels.get_mut(self.index).and_then(Option::take);
            if let (Some(level), Some(parent)) = (ended, &self.parent)
                && level.prepaid
            {
                let chain = tree.chain(parent.index);
                tree.discharge(&chain, level.limit, &mut due);
                if let Some(above) = tree.level_mut(parent.index) {
                    above.reserved -= level.limit;
                }
            }
        }
        due.call();
    }
}

fn cap(limit: u64) -> u64 {
    (limit / PURSE_SHARE).min(PURSE_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Purses that draw on one level: who allocates.
pub(crate) struct Account<T> {
    budget: Budget<T>,
    purses: Arc<Purses<T>>,
}

impl<T> Account<T> {
    /// As many purses as there are things to keep in them.
    pub(crate) fn new(budget: &Budget<T>, kept: impl IntoIterator<Item = T>) -> Self {
        let purses: Purses<T> = kept
            .into_iter()
            .map(|kept| Padded(Mutex::new(Purse { credit: 0, kept })))
            .collect();
        let purses = Arc::new(purses);
        lock(&budget.node.tree)
            .purses
            .push((budget.node.index, purses.clone()));
        Self {
            budget: budget.clone(),
            purses,
        }
    }

    pub(crate) fn budget(&self) -> &Budget<T> {
        &self.budget
    }

    /// How many purses there are.
    pub(crate) fn len(&self) -> usize {
        self.purses.len()
    }

    /// A purse by its number, which counts round.
    #[inline]
    pub(crate) fn purse(&self, number: usize) -> MutexGuard<'_, Purse<T>> {
        lock(&self.purses[number % self.purses.len()].0)
    }

    /// Takes bytes, and gives the purse with its lock held.
    ///
    /// # Errors
    /// The bytes fit under some limit no more: nothing was taken.
    #[inline]
    pub(crate) fn take(
        &self,
        number: usize,
        bytes: u64,
    ) -> Result<MutexGuard<'_, Purse<T>>, Refused> {
        let mut purse = self.purse(number);
        if let Some(left) = purse.credit.checked_sub(bytes) {
            purse.credit = left;
            return Ok(purse);
        }
        drop(purse);
        self.take_from_tree(number, bytes)?;
        Ok(self.purse(number))
    }

    #[cold]
    fn take_from_tree(&self, number: usize, bytes: u64) -> Result<(), Refused> {
        let node = &self.budget.node;
        let mut due = Due::nothing();
        let taken = {
            let mut tree = lock(&node.tree);
            let chain = tree.chain(node.index);
            let mut purse = self.purse(number);
            // Another thread of this purse may have filled it meanwhile.
            let needed = bytes.saturating_sub(purse.credit);
            if needed <= tree.room(&chain).0 {
                purse.credit = purse.credit.saturating_sub(bytes);
                tree.charge(&chain, needed, &mut due);
                Ok(())
            } else {
                drop(purse);
                tree.gathered(&mut due, |tree, due| {
                    let (available, limit) = tree.room(&chain);
                    if bytes > available {
                        tree.refused(&chain);
                        return Err(Refused {
                            asked: bytes,
                            available,
                            limit,
                        });
                    }
                    tree.charge(&chain, bytes, due);
                    Ok(())
                })
            }
        };
        due.call();
        taken
    }

    /// Gives bytes back, and runs something on what the purse keeps.
    #[inline]
    pub(crate) fn give<R>(&self, number: usize, bytes: u64, keep: impl FnOnce(&mut T) -> R) -> R {
        let mut purse = self.purse(number);
        let kept = keep(&mut purse.kept);
        purse.credit += bytes;
        if purse.credit > self.budget.node.cap {
            drop(purse);
            self.give_to_tree(number);
        }
        kept
    }

    #[cold]
    fn give_to_tree(&self, number: usize) {
        let node = &self.budget.node;
        let mut due = Due::nothing();
        {
            let mut tree = lock(&node.tree);
            let chain = tree.chain(node.index);
            let mut purse = self.purse(number);
            let excess = purse.credit.saturating_sub(node.cap);
            purse.credit -= excess;
            tree.discharge(&chain, excess, &mut due);
        }
        due.call();
    }
}

impl<T> Drop for Account<T> {
    fn drop(&mut self) {
        let node = &self.budget.node;
        let mut due = Due::nothing();
        {
            let mut tree = lock(&node.tree);
            let chain = tree.chain(node.index);
            for number in 0..self.purses.len() {
                let credit = std::mem::take(&mut self.purse(number).credit);
                tree.discharge(&chain, credit, &mut due);
            }
            tree.purses
                .retain(|(_, purses)| !Arc::ptr_eq(purses, &self.purses));
        }
        due.call();
    }
}
