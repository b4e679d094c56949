//! Accounts: threads charge bytes to a limit, exactly, from any number of threads.
//!
//! A limit is a node of a [`LimitTree`], which has one lock. Bytes that a thread refunds stay as credit in its shard
//! of the account, up to a small cap, and pay for its next charge without that lock. Each shard has its own lock and
//! its own cache line. Before a charge is refused, all shards of the tree are locked at once and their credit goes to
//! the tree. So a refusal is decided on exact sums of one moment: a charge that fits is never refused, one that does
//! not fit is never granted. (Charging each level in turn and rolling back would refuse a charge that fits while
//! another thread's charge is being rolled back.)
//!
//! Lock order: the tree, then shards. Never lock the tree while holding a shard.
//!
//! Without credit, a pair of allocation and free on 16 threads takes 16 to 20 µs instead of 0.1 µs (measured on an
//! H200, driver 580: all threads wait for the tree's lock).
//!
//! A shard carries a payload `T` of its user under the same lock: pools keep a thread's cached blocks there, so that
//! an allocation takes one lock for both.

use std::sync::Arc;

use super::{
    limit_tree::{
        AccountShard, AccountShards, CachePadded, LimitExceeded, LimitFigures, LimitTree,
    },
    pressure::{DueCalls, Watcher},
};
use crate::sync::{Mutex, MutexGuard};

/// A shard keeps at most this part of the tightest limit above it as credit.
pub(crate) const CREDIT_SHARE: u64 = 1024;

/// The most bytes that a shard keeps as credit, however large the limit.
const CREDIT_MAX: u64 = 16 << 20;

fn credit_cap(limit: u64) -> u64 {
    (limit / CREDIT_SHARE).min(CREDIT_MAX)
}

/// A limit in a tree of limits. Clones are the same limit; it ends with the last clone, child and account.
pub(crate) struct Limit<T> {
    node: Arc<LimitNode<T>>,
}

struct LimitNode<T> {
    tree: Arc<Mutex<LimitTree<T>>>,
    index: usize,
    /// Keeps the limits above alive.
    _parent: Option<Arc<LimitNode<T>>>,
    /// The most bytes that a shard of an account of this limit keeps as credit.
    credit_cap: u64,
}

impl<T> LimitNode<T> {
    /// Changes the tree, and calls the watchers that are due once the lock is released.
    fn change<R>(&self, action: impl FnOnce(&mut LimitTree<T>, &mut DueCalls) -> R) -> R {
        let mut due = DueCalls::default();
        let result = action(&mut self.tree.lock(), &mut due);
        due.call();
        result
    }
}

impl<T> Drop for LimitNode<T> {
    fn drop(&mut self) {
        self.change(|tree, due| tree.remove(self.index, due));
    }
}

impl<T> Clone for Limit<T> {
    fn clone(&self) -> Self {
        Self {
            node: self.node.clone(),
        }
    }
}

impl<T> Limit<T> {
    /// Creates a limit with no other above it.
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            node: Arc::new(LimitNode {
                tree: Arc::new(Mutex::new(LimitTree::new(bytes))),
                index: 0,
                _parent: None,
                credit_cap: credit_cap(bytes),
            }),
        }
    }

    /// Creates a limit within this one. The limits of children may add up to more than this one.
    pub(crate) fn child(&self, bytes: u64) -> Self {
        let index = self.node.tree.lock().child(self.node.index, bytes);
        self.below(index, self.node.credit_cap.min(credit_cap(bytes)))
    }

    /// Creates a limit within this one and charges its bytes to this one now, so that they are there later.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Self, LimitExceeded> {
        let node = &self.node;
        let index = node.change(|tree, due| tree.reserve(node.index, bytes, due))?;
        Ok(self.below(index, credit_cap(bytes)))
    }

    fn below(&self, index: usize, credit_cap: u64) -> Self {
        Self {
            node: Arc::new(LimitNode {
                tree: self.node.tree.clone(),
                index,
                _parent: Some(self.node.clone()),
                credit_cap,
            }),
        }
    }

    /// Calls `watcher` each time the level of pressure changes.
    pub(crate) fn watch(&self, watcher: Watcher) {
        self.node.tree.lock().watch(self.node.index, watcher);
    }

    /// Returns the figures of one moment.
    pub(crate) fn figures(&self) -> LimitFigures {
        self.node.tree.lock().figures(self.node.index)
    }
}

/// An account that charges one limit, in shards: a thread uses one shard.
pub(crate) struct Account<T> {
    limit: Limit<T>,
    shards: Arc<AccountShards<T>>,
}

impl<T> Account<T> {
    /// Creates an account with one shard for each payload; there must be at least one.
    pub(crate) fn new(limit: &Limit<T>, payloads: impl IntoIterator<Item = T>) -> Self {
        let shards: AccountShards<T> = payloads
            .into_iter()
            .map(|payload| CachePadded(Mutex::new(AccountShard { credit: 0, payload })))
            .collect();
        let shards = Arc::new(shards);
        limit.node.tree.lock().join(limit.node.index, &shards);
        Self {
            limit: limit.clone(),
            shards,
        }
    }

    pub(crate) fn limit(&self) -> &Limit<T> {
        &self.limit
    }

    /// Returns all shards. They do not keep the limit alive.
    pub(crate) fn shards(&self) -> &Arc<AccountShards<T>> {
        &self.shards
    }

    /// Returns the number of shards.
    pub(crate) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Locks a shard. An index past the last wraps around.
    #[inline]
    pub(crate) fn shard(&self, index: usize) -> MutexGuard<'_, AccountShard<T>> {
        let shards = &**self.shards;
        // The index is nearly always in range, and a division takes longer than all the rest.
        let shard = shards.get(index);
        let shard = shard.unwrap_or_else(|| &shards[index % shards.len()]);
        shard.0.lock()
    }

    /// Charges bytes, and returns the shard that paid with its lock held.
    ///
    /// # Errors
    /// The bytes do not fit under some limit: nothing was charged.
    #[inline]
    pub(crate) fn charge(
        &self,
        index: usize,
        bytes: u64,
    ) -> Result<MutexGuard<'_, AccountShard<T>>, LimitExceeded> {
        let mut shard = self.shard(index);
        if let Some(left) = shard.credit.checked_sub(bytes) {
            shard.credit = left;
            return Ok(shard);
        }
        drop(shard);
        self.charge_tree(index, bytes)?;
        Ok(self.shard(index))
    }

    #[cold]
    fn charge_tree(&self, index: usize, bytes: u64) -> Result<(), LimitExceeded> {
        let node = &self.limit.node;
        node.change(|tree, due| {
            let chain = tree.chain(node.index);
            {
                let mut shard = self.shard(index);
                // Another thread that uses this shard may have refunded meanwhile.
                let needed = bytes.saturating_sub(shard.credit);
                if tree.charge_beside_credit(&chain, needed, due) {
                    shard.credit = shard.credit.saturating_sub(bytes);
                    return Ok(());
                }
            }
            tree.charge_exactly(&chain, bytes, due)
        })
    }

    /// Refunds bytes, after running `action` on the shard's payload under the same lock.
    #[inline]
    pub(crate) fn refund<R>(
        &self,
        index: usize,
        bytes: u64,
        action: impl FnOnce(&mut T) -> R,
    ) -> R {
        let mut shard = self.shard(index);
        let result = action(&mut shard.payload);
        shard.credit += bytes;
        if shard.credit > self.limit.node.credit_cap {
            drop(shard);
            self.refund_tree(index);
        }
        result
    }

    #[cold]
    fn refund_tree(&self, index: usize) {
        let node = &self.limit.node;
        node.change(|tree, due| {
            let mut shard = self.shard(index);
            let excess = shard.credit.saturating_sub(node.credit_cap);
            shard.credit -= excess;
            tree.discharge(&tree.chain(node.index), excess, due);
        });
    }
}

impl<T> Drop for Account<T> {
    fn drop(&mut self) {
        let node = &self.limit.node;
        node.change(|tree, due| tree.leave(node.index, &self.shards, due));
    }
}
