//! The accounting: limits in bytes, one within another, that hold exactly from any number of threads.
//!
//! A budget is a `tree` of limits under one lock. What a thread frees stays in a purse at hand, up to a
//! small cap, and pays for the next allocation without that lock; each purse has a lock and a cache line of
//! its own. Before anything is refused, all purses of the tree are held at once and emptied into it, so a
//! refusal is decided on the exact sums of one moment: what fits is never refused, what does not fit is
//! never granted. (Charging each level in turn and rolling back would refuse what fits, when another
//! thread's charge is about to be rolled back.)
//!
//! Locks are taken in one order: the tree, then purses. Who holds a purse never asks for the tree.
//!
//! A purse carries something of its user's, `T`, under the same lock: the pools keep their free lists there.

use std::sync::Arc;

use super::{
    pressure::{Due, Watcher},
    tree::{Figures, Padded, Purse, Purses, Refused, Tree, lock},
};
use crate::sync::{Mutex, MutexGuard};

/// What a purse keeps at most: this part of the tightest limit above it.
pub(crate) const PURSE_SHARE: u64 = 1024;

/// And never more than this many bytes.
const PURSE_MAX: u64 = 16 << 20;

fn cap(limit: u64) -> u64 {
    (limit / PURSE_SHARE).min(PURSE_MAX)
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
    _parent: Option<Arc<Node<T>>>,
    cap: u64,
}

impl<T> Node<T> {
    /// Does something to the tree, and calls whoever is to hear of it once the lock is free again.
    fn change<R>(&self, action: impl FnOnce(&mut Tree<T>, &mut Due) -> R) -> R {
        let mut due = Due::default();
        let result = action(&mut lock(&self.tree), &mut due);
        due.call();
        result
    }
}

impl<T> Drop for Node<T> {
    fn drop(&mut self) {
        self.change(|tree, due| tree.end(self.index, due));
    }
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
        Self {
            node: Arc::new(Node {
                tree: Arc::new(Mutex::new(Tree::new(limit))),
                index: 0,
                _parent: None,
                cap: cap(limit),
            }),
        }
    }

    /// A limit within this one. The limits of children may add up to more than this one.
    pub(crate) fn child(&self, limit: u64) -> Self {
        let index = lock(&self.node.tree).child(self.node.index, limit);
        self.below(index, self.node.cap.min(cap(limit)))
    }

    /// A limit within this one whose bytes are taken from it now, so that they are there later.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Self, Refused> {
        let node = &self.node;
        let index = node.change(|tree, due| tree.reserve(node.index, bytes, due))?;
        Ok(self.below(index, cap(bytes)))
    }

    fn below(&self, index: usize, cap: u64) -> Self {
        Self {
            node: Arc::new(Node {
                tree: self.node.tree.clone(),
                index,
                _parent: Some(self.node.clone()),
                cap,
            }),
        }
    }

    /// Calls back when the level of pressure changes.
    pub(crate) fn watch(&self, watcher: Watcher) {
        lock(&self.node.tree).watch(self.node.index, watcher);
    }

    pub(crate) fn figures(&self) -> Figures {
        lock(&self.node.tree).figures(self.node.index)
    }
}

/// Purses that draw on one level: who allocates.
pub(crate) struct Account<T> {
    budget: Budget<T>,
    purses: Arc<Purses<T>>,
}

impl<T> Account<T> {
    /// As many purses as there are things to keep in them; at least one.
    pub(crate) fn new(budget: &Budget<T>, kept: impl IntoIterator<Item = T>) -> Self {
        let purses: Purses<T> = kept
            .into_iter()
            .map(|kept| Padded(Mutex::new(Purse { credit: 0, kept })))
            .collect();
        let purses = Arc::new(purses);
        lock(&budget.node.tree).join(budget.node.index, &purses);
        Self {
            budget: budget.clone(),
            purses,
        }
    }

    pub(crate) fn budget(&self) -> &Budget<T> {
        &self.budget
    }

    /// All purses, which do not keep the budget that they draw on.
    pub(crate) fn purses(&self) -> &Arc<Purses<T>> {
        &self.purses
    }

    /// How many purses there are.
    pub(crate) fn len(&self) -> usize {
        self.purses.len()
    }

    /// A purse by its number, which counts round.
    #[inline]
    pub(crate) fn purse(&self, number: usize) -> MutexGuard<'_, Purse<T>> {
        let purses = &**self.purses;
        // Nearly always there, and a division takes longer than all the rest.
        let purse = purses.get(number);
        lock(&purse.unwrap_or_else(|| &purses[number % purses.len()]).0)
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
        node.change(|tree, due| {
            let chain = tree.chain(node.index);
            {
                let mut purse = self.purse(number);
                // Another thread of this purse may have filled it meanwhile.
                let needed = bytes.saturating_sub(purse.credit);
                if tree.charge_beside_purses(&chain, needed, due) {
                    purse.credit = purse.credit.saturating_sub(bytes);
                    return Ok(());
                }
            }
            tree.charge_exactly(&chain, bytes, due)
        })
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
        node.change(|tree, due| {
            let mut purse = self.purse(number);
            let excess = purse.credit.saturating_sub(node.cap);
            purse.credit -= excess;
            tree.discharge(&tree.chain(node.index), excess, due);
        });
    }
}

impl<T> Drop for Account<T> {
    fn drop(&mut self) {
        let node = &self.budget.node;
        node.change(|tree, due| tree.leave(node.index, &self.purses, due));
    }
}
