//! The tree of limits: the bytes charged to each limit, under one lock.

use std::sync::Arc;

use super::pressure::{DueCalls, PressureGauge, Watcher};
use crate::sync::{Mutex, MutexGuard};

/// A charge that does not fit, with the tightest limit above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitExceeded {
    pub(crate) asked: u64,
    pub(crate) available: u64,
    pub(crate) limit: u64,
}

/// A thread's part of an account: credit that it can spend without the tree, and the payload of the account's user.
pub(crate) struct AccountShard<T> {
    pub(crate) credit: u64,
    pub(crate) payload: T,
}

/// A value alone on its cache lines, so that threads do not slow each other down by false sharing.
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

pub(crate) type AccountShards<T> = Vec<CachePadded<Mutex<AccountShard<T>>>>;

/// The limits that a charge is charged to, by index, from the innermost upwards.
pub(crate) type Chain = Vec<usize>;

/// The figures of a limit at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitFigures {
    pub(crate) limit: u64,
    /// Exact: the credit of shards is not included.
    pub(crate) used: u64,
    /// Bytes left under this limit and all above it.
    pub(crate) available: u64,
    pub(crate) high: u64,
    pub(crate) reserved: u64,
    pub(crate) refusals: u64,
}

/// One limit.
struct Level {
    parent: Option<usize>,
    /// A reservation: the whole limit was charged to the limits above when it was created.
    prepaid: bool,
    limit: u64,
    /// Bytes in use, and the credit of shards.
    charged: u64,
    high: u64,
    /// Bytes of prepaid children.
    reserved: u64,
    refusals: u64,
    pressure: PressureGauge,
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
            pressure: PressureGauge::new(0, limit),
        }
    }
}

/// All limits of a tree, and the accounts that charge them.
pub(crate) struct LimitTree<T> {
    levels: Vec<Option<Level>>,
    /// The shards of each account, with the index of the limit that it charges.
    shards: Vec<(usize, Arc<AccountShards<T>>)>,
}

impl<T> LimitTree<T> {
    /// Creates a tree of one limit, whose index is 0.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            levels: vec![Some(Level::new(None, limit, false))],
            shards: Vec::new(),
        }
    }

    /// Adds a limit within another, and returns its index.
    pub(crate) fn child(&mut self, parent: usize, limit: u64) -> usize {
        self.add(Level::new(Some(parent), limit, false))
    }

    /// Adds a limit within another whose bytes are charged to that other now, and returns its index.
    pub(crate) fn reserve(
        &mut self,
        parent: usize,
        bytes: u64,
        due: &mut DueCalls,
    ) -> Result<usize, LimitExceeded> {
        self.charge_exactly(&self.chain(parent), bytes, due)?;
        if let Some(level) = self.level_mut(parent) {
            level.reserved += bytes;
        }
        Ok(self.add(Level::new(Some(parent), bytes, true)))
    }

    /// Removes a limit, and discharges what was reserved for it.
    pub(crate) fn remove(&mut self, index: usize, due: &mut DueCalls) {
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

    /// Adds the shards of an account that charges a limit.
    pub(crate) fn join(&mut self, index: usize, shards: &Arc<AccountShards<T>>) {
        self.shards.push((index, shards.clone()));
    }

    /// Removes the shards of an account, and discharges their credit.
    pub(crate) fn leave(
        &mut self,
        index: usize,
        shards: &Arc<AccountShards<T>>,
        due: &mut DueCalls,
    ) {
        let chain = self.chain(index);
        for shard in shards.iter() {
            let credit = std::mem::take(&mut shard.0.lock().credit);
            self.discharge(&chain, credit, due);
        }
        self.shards.retain(|(_, other)| !Arc::ptr_eq(other, shards));
    }

    /// Returns the limits that a charge to this one is charged to, from it upwards.
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

    /// Charges bytes if they fit beside the credit of shards, else nothing. Returns whether they fit.
    pub(crate) fn charge_beside_credit(
        &mut self,
        chain: &[usize],
        bytes: u64,
        due: &mut DueCalls,
    ) -> bool {
        let fits = bytes <= self.room(chain).0;
        if fits {
            self.charge(chain, bytes, due);
        }
        fits
    }

    /// Charges bytes if they fit at all, for which the credit of all shards is discharged first. The caller must hold
    /// no shard.
    pub(crate) fn charge_exactly(
        &mut self,
        chain: &[usize],
        bytes: u64,
        due: &mut DueCalls,
    ) -> Result<(), LimitExceeded> {
        self.discharge_credit(due);
        let (available, limit) = self.room(chain);
        if bytes > available {
            if let Some(level) = chain.first().and_then(|index| self.level_mut(*index)) {
                level.refusals += 1;
            }
            return Err(LimitExceeded {
                asked: bytes,
                available,
                limit,
            });
        }
        self.charge(chain, bytes, due);
        Ok(())
    }

    /// Discharges the credit of all shards, with all of them locked at once, so that the sums are those of one moment.
    /// Bytes refunded later do not affect this decision, and only they can be charged meanwhile, because the tree is
    /// locked.
    fn discharge_credit(&mut self, due: &mut DueCalls) {
        let shards = self.shards.clone();
        let mut held: Vec<(usize, MutexGuard<'_, AccountShard<T>>)> = shards
            .iter()
            .flat_map(|(index, shards)| shards.iter().map(|shard| (*index, shard.0.lock())))
            .collect();
        for (index, shard) in &mut held {
            let credit = std::mem::take(&mut shard.credit);
            if credit > 0 {
                self.discharge(&self.chain(*index), credit, due);
            }
        }
    }

    /// Undoes a charge of this many bytes.
    pub(crate) fn discharge(&mut self, chain: &[usize], bytes: u64, due: &mut DueCalls) {
        for index in chain {
            if let Some(level) = self.level_mut(*index) {
                level.charged -= bytes;
                level.pressure.follow(level.charged, level.limit, due);
            }
        }
    }

    /// Calls `watcher` each time the pressure on a limit changes.
    pub(crate) fn watch(&mut self, index: usize, watcher: Watcher) {
        if let Some(level) = self.level_mut(index) {
            level.pressure.watch(watcher);
        }
    }

    /// Returns the figures of a limit, with all shards locked at once.
    pub(crate) fn figures(&self, index: usize) -> LimitFigures {
        let held: Vec<_> = self
            .shards
            .iter()
            .flat_map(|(index, shards)| shards.iter().map(|shard| (*index, shard.0.lock())))
            .filter(|(_, shard)| shard.credit > 0)
            .map(|(index, shard)| (self.chain(index), shard))
            .collect();
        let used = |index: usize| {
            let credit: u64 = held
                .iter()
                .filter(|(chain, _)| chain.contains(&index))
                .map(|(_, shard)| shard.credit)
                .sum();
            self.level(index).map_or(0, |level| level.charged - credit)
        };
        let Some(level) = self.level(index) else {
            return LimitFigures::default(); // unreachable: the caller keeps the limit alive
        };
        let available = self
            .chain(index)
            .into_iter()
            .filter_map(|index| Some(self.level(index)?.limit - used(index)))
            .min();
        LimitFigures {
            limit: level.limit,
            used: used(index),
            available: available.unwrap_or(0),
            high: level.high,
            reserved: level.reserved,
            refusals: level.refusals,
        }
    }

    fn charge(&mut self, chain: &[usize], bytes: u64, due: &mut DueCalls) {
        for index in chain {
            if let Some(level) = self.level_mut(*index) {
                level.charged += bytes;
                level.high = level.high.max(level.charged);
                level.pressure.follow(level.charged, level.limit, due);
            }
        }
    }

    /// Returns the bytes left under the tightest limit of the chain, and that limit.
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
