//! Which models are in slots, and which idle one goes next.

use std::{collections::BTreeMap, sync::Arc};

use super::events::{ModelEvent, emit};
use crate::{
    error::{Error, Result},
    memory::{GpuMemoryPool, Latencies},
};

/// Which idle model goes first when another needs its room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// The one that was used the longest ago.
    #[default]
    LeastRecentlyUsed,
    /// The one of the lowest priority; among those, the one used the longest ago.
    LowestPriority,
    /// The smallest that makes enough room by itself; if none does, the largest.
    BestFit,
}

/// What a model needs. In a literal, `..ModelNeeds::default()` takes in what later versions add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ModelNeeds {
    /// Bytes, at most: they are taken from the budget while it is loaded. Others are evicted for it only where the
    /// device can have room for all of them, so a model that says far more than it takes is refused too early.
    pub bytes: u64,
    /// Higher stays longer under [`EvictionPolicy::LowestPriority`].
    pub priority: i32,
}

pub(super) struct State<M> {
    pub(super) slots: BTreeMap<String, Slot<M>>,
    pub(super) clock: u64,
    pub(super) hits: u64,
    pub(super) loads: Latencies,
    pub(super) evictions: u64,
    pub(super) failures: u64,
}

pub(super) struct Slot<M> {
    pub(super) needs: ModelNeeds,
    /// None: a thread is loading it.
    pub(super) loaded: Option<Arc<Loaded<M>>>,
    pub(super) pins: usize,
    pub(super) last_used: u64,
}

pub(super) struct Loaded<M> {
    pub(super) model: M, // dropped before its pool
    pub(super) pool: GpuMemoryPool,
    pub(super) name: String,
}

impl<M> Default for State<M> {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            clock: 0,
            hits: 0,
            loads: Latencies::default(),
            evictions: 0,
            failures: 0,
        }
    }
}

impl<M> Slot<M> {
    pub(super) fn leases(&self) -> usize {
        self.loaded
            .as_ref()
            .map_or(0, |loaded| Arc::strong_count(loaded) - 1)
    }

    pub(super) fn holders(&self) -> usize {
        self.pins + self.leases() + usize::from(self.loaded.is_none())
    }
}

impl<M> State<M> {
    pub(super) fn touch(&mut self, name: &str) {
        self.clock += 1;
        if let Some(slot) = self.slots.get_mut(name) {
            slot.last_used = self.clock;
        }
    }

    fn idle(&self) -> impl Iterator<Item = (&String, &Slot<M>)> {
        self.slots.iter().filter(|(_, slot)| slot.holders() == 0)
    }

    pub(super) fn evictable(&self) -> u64 {
        self.idle().map(|(_, slot)| slot.needs.bytes).sum()
    }

    /// Bytes of the device that idle models have, which may be less than they need at most.
    pub(super) fn evictable_on_device(&self) -> u64 {
        let loaded = self.idle().filter_map(|(_, slot)| slot.loaded.as_ref());
        loaded.map(|loaded| loaded.pool.used()).sum()
    }

    /// The next to go, and its bytes.
    pub(super) fn victim(&self, policy: EvictionPolicy, missing: u64) -> Option<(String, u64)> {
        let found = match policy {
            EvictionPolicy::LeastRecentlyUsed => self.idle().min_by_key(|(_, slot)| slot.last_used),
            EvictionPolicy::LowestPriority => self
                .idle()
                .min_by_key(|(_, slot)| (slot.needs.priority, slot.last_used)),
            EvictionPolicy::BestFit => self
                .idle()
                .filter(|(_, slot)| slot.needs.bytes >= missing)
                .min_by_key(|(_, slot)| (slot.needs.bytes, slot.last_used))
                .or_else(|| self.idle().max_by_key(|(_, slot)| slot.needs.bytes)),
        };
        found.map(|(name, slot)| (name.clone(), slot.needs.bytes))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Arc<Loaded<M>>> {
        let slot = self.slots.remove(name)?;
        self.evictions += 1;
        slot.loaded
    }
}

/// Drops models that nobody else holds, and sees that their buffers are gone.
pub(super) fn drop_models<M>(models: Vec<Arc<Loaded<M>>>) -> Result<()> {
    let mut left = 0;
    for model in models {
        let (pool, name) = (model.pool.clone(), model.name.clone());
        drop(model);
        left += pool.used();
        emit(ModelEvent::Evicted {
            model: &name,
            bytes: pool.limit(),
        });
    }
    if left > 0 {
        return Err(Error::MemoryNotBack { bytes: left });
    }
    Ok(())
}
