//! The table of slots: the models in them, and the choice of the next to evict.

use std::{collections::BTreeMap, sync::Arc};

use super::events::{ModelEvent, emit};
use crate::{
    error::{Error, Result},
    memory::{GpuMemoryPool, Latencies},
};

/// The choice of the idle model to evict first when another needs its room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EvictionPolicy {
    /// The one unused for the longest time.
    #[default]
    LeastRecentlyUsed,
    /// The one of the lowest priority; among those, the one unused for the longest time.
    LowestPriority,
    /// The smallest that makes enough room alone; if none does, the largest.
    BestFit,
}

/// The needs of a model. End a literal with `..ModelNeeds::default()`, so that later versions can add fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ModelNeeds {
    /// The most bytes it uses, which are charged to the budget while it is loaded. Other models are evicted for it only
    /// if the device can have room for all of these bytes, so a model that asks for far more than it uses is refused
    /// too early.
    pub bytes: u64,
    /// Under [`EvictionPolicy::LowestPriority`], models of higher priority stay longer.
    pub priority: i32,
}

/// The slots in use, and the counts of all slots.
pub(super) struct SlotTable<M> {
    pub(super) slots: BTreeMap<String, ModelSlot<M>>,
    /// Counts uses, to order them.
    pub(super) clock: u64,
    pub(super) hits: u64,
    pub(super) loads: Latencies,
    pub(super) evictions: u64,
    pub(super) failures: u64,
}

/// A slot in use.
pub(super) struct ModelSlot<M> {
    pub(super) needs: ModelNeeds,
    /// None while a thread is loading it.
    pub(super) loaded: Option<Arc<LoadedModel<M>>>,
    pub(super) pins: usize,
    pub(super) last_used: u64,
}

/// A model with the pool that its memory is reserved in.
pub(super) struct LoadedModel<M> {
    pub(super) model: M, // dropped before its pool
    pub(super) pool: GpuMemoryPool,
    pub(super) name: String,
}

impl<M> Default for SlotTable<M> {
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

impl<M> ModelSlot<M> {
    /// Returns the number of leases held.
    pub(super) fn leases(&self) -> usize {
        self.loaded
            .as_ref()
            .map_or(0, |loaded| Arc::strong_count(loaded) - 1)
    }

    /// Returns the number of pins, leases and loads that keep the model from being evicted.
    pub(super) fn holders(&self) -> usize {
        self.pins + self.leases() + usize::from(self.loaded.is_none())
    }
}

impl<M> SlotTable<M> {
    /// Makes a model the one used last.
    pub(super) fn touch(&mut self, name: &str) {
        self.clock += 1;
        if let Some(slot) = self.slots.get_mut(name) {
            slot.last_used = self.clock;
        }
    }

    fn idle(&self) -> impl Iterator<Item = (&String, &ModelSlot<M>)> {
        self.slots.iter().filter(|(_, slot)| slot.holders() == 0)
    }

    /// Returns the bytes of the budget that idle models hold.
    pub(super) fn evictable(&self) -> u64 {
        self.idle().map(|(_, slot)| slot.needs.bytes).sum()
    }

    /// Returns the bytes of the device that idle models use, which may be less than they need at most.
    pub(super) fn evictable_on_device(&self) -> u64 {
        let loaded = self.idle().filter_map(|(_, slot)| slot.loaded.as_ref());
        loaded.map(|loaded| loaded.pool.used()).sum()
    }

    /// Returns the model to evict next, and its bytes.
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

    /// Takes a model out of its slot, and counts an eviction.
    pub(super) fn evict(&mut self, name: &str) -> Option<Arc<LoadedModel<M>>> {
        let slot = self.slots.remove(name)?;
        self.evictions += 1;
        slot.loaded
    }
}

/// Drops models that have no other holder, and checks that their buffers are freed.
pub(super) fn drop_models<M>(models: Vec<Arc<LoadedModel<M>>>) -> Result<()> {
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
