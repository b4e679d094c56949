//! The slots, and the lease that keeps a model loaded.

use std::{fmt, ops::Deref, sync::Arc};

use super::{
    EvictionPolicy, SlotStatus, SlotsStatus,
    slot_table::{LoadedModel, ModelSlot, SlotTable, drop_models},
};
use crate::{
    error::{Error, Result},
    memory::{GpuMemoryPool, PoolMetrics},
    sync::native::{Condvar, Mutex, MutexGuard},
};

/// Named models in one memory pool, in a bounded number of slots.
///
/// A function of the caller loads a model, with a pool of exactly the bytes that the model needs. The model stays until
/// it is evicted, and is never evicted while it is pinned or a [`ModelLease`] is held. A slot counts as free once the
/// model's buffers are freed and the driver counts their bytes as free.
///
/// ```
/// use cuda_green::{Driver, GpuMemoryPool, ModelNeeds, ModelSlots};
///
/// # fn main() -> cuda_green::Result<()> {
/// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
/// let slots = ModelSlots::new(GpuMemoryPool::on(&device, 8 << 30)?, 13)?;
/// let needs = ModelNeeds { bytes: 5 << 30, priority: 0 };
/// let minilm = slots.get_or_load("minilm", needs, |pool| pool.allocate(5 << 30))?;
/// assert_eq!(minilm.len(), 5 << 30);
/// drop(minilm); // it stays loaded until another model needs the room
/// slots.get_or_load("e5", needs, |pool| pool.allocate(4 << 30))?;
/// assert!(!slots.contains("minilm"));
/// # Ok(())
/// # }
/// ```
pub struct ModelSlots<M> {
    pub(super) pool: GpuMemoryPool,
    pub(super) capacity: usize,
    pub(super) policy: EvictionPolicy,
    table: Mutex<SlotTable<M>>,
    pub(super) changed: Condvar,
}

impl<M> ModelSlots<M> {
    /// Returns a number that no other live slots have.
    pub(super) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// A lease of a loaded model, which is not evicted while the lease is held.
pub struct ModelLease<M>(pub(super) Arc<LoadedModel<M>>);

impl<M> Deref for ModelLease<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0.model
    }
}

impl<M> Clone for ModelLease<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> fmt::Debug for ModelLease<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelLease")
            .field("model", &self.0.name)
            .finish_non_exhaustive()
    }
}

impl<M> ModelSlots<M> {
    /// Creates `capacity` slots in a pool. The least recently used model is evicted first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a capacity of 0.
    pub fn new(pool: GpuMemoryPool, capacity: usize) -> Result<Self> {
        Self::with_policy(pool, capacity, EvictionPolicy::default())
    }

    /// Creates `capacity` slots in a pool, with a policy of eviction.
    ///
    /// # Errors
    /// As [`ModelSlots::new`].
    pub fn with_policy(
        pool: GpuMemoryPool,
        capacity: usize,
        policy: EvictionPolicy,
    ) -> Result<Self> {
        if capacity == 0 {
            return Err(Error::InvalidArgument {
                name: "capacity",
                value: "0".into(),
                reason: "no model would have a slot",
            });
        }
        Ok(Self {
            pool,
            capacity,
            policy,
            table: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Returns the model if it is loaded, and counts that as a use.
    pub fn get(&self, name: &str) -> Option<ModelLease<M>> {
        let mut table = self.table();
        let loaded = table.slots.get(name)?.loaded.clone()?;
        table.touch(name);
        table.hits += 1;
        Some(ModelLease(loaded))
    }

    /// Returns whether the model is loaded, without counting as a use.
    pub fn contains(&self, name: &str) -> bool {
        let table = self.table();
        table
            .slots
            .get(name)
            .is_some_and(|slot| slot.loaded.is_some())
    }

    /// Pins the model: it is not evicted until it is unpinned as many times.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn pin(&self, name: &str) -> Result<()> {
        self.with_loaded(name, |slot| slot.pins += 1)
    }

    /// Undoes one [`ModelSlots::pin`]. Does nothing if the model is not pinned.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn unpin(&self, name: &str) -> Result<()> {
        self.with_loaded(name, |slot| slot.pins = slot.pins.saturating_sub(1))
    }

    /// Counts a use of the model.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn touch(&self, name: &str) -> Result<()> {
        self.with_loaded(name, |_| ())?;
        self.table().touch(name);
        Ok(())
    }

    /// Unloads a model, returns its memory to the system, and returns the number of bytes of the budget that this
    /// freed.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`]; [`Error::ModelInUse`]; [`Error::MemoryNotBack`] if buffers of the model are still held
    /// elsewhere: their bytes stay in use until they are dropped.
    pub fn evict(&self, name: &str) -> Result<u64> {
        let (loaded, bytes) = {
            let mut table = self.table();
            let slot = table.slots.get(name).ok_or_else(|| no_such(name))?;
            let (holders, bytes) = (slot.holders(), slot.needs.bytes);
            if holders > 0 {
                return Err(Error::ModelInUse {
                    name: name.to_owned(),
                    holders,
                });
            }
            (table.evict(name).ok_or_else(|| no_such(name))?, bytes)
        };
        drop_models(vec![loaded])?;
        self.pool.trim()?;
        Ok(bytes)
    }

    /// Returns the status of all slots.
    pub fn status(&self) -> SlotsStatus {
        let table = self.table();
        let slots = table.slots.iter().map(|(name, slot)| SlotStatus {
            name: name.clone(),
            needs: slot.needs,
            memory: slot
                .loaded
                .as_ref()
                .map_or_else(PoolMetrics::default, |loaded| loaded.pool.metrics()),
            loaded: slot.loaded.is_some(),
            pins: slot.pins,
            leases: slot.leases(),
        });
        SlotsStatus {
            slots: slots.collect(),
            capacity: self.capacity,
            available: self.pool.available(),
            hits: table.hits,
            loads: table.loads,
            evictions: table.evictions,
            failures: table.failures,
        }
    }

    /// Returns the pool that the models are in.
    pub fn pool(&self) -> &GpuMemoryPool {
        &self.pool
    }

    fn with_loaded(&self, name: &str, action: impl FnOnce(&mut ModelSlot<M>)) -> Result<()> {
        let mut table = self.table();
        let slot = table
            .slots
            .get_mut(name)
            .filter(|slot| slot.loaded.is_some())
            .ok_or_else(|| no_such(name))?;
        action(slot);
        Ok(())
    }

    pub(super) fn table(&self) -> MutexGuard<'_, SlotTable<M>> {
        self.table.lock()
    }
}

#[cold]
fn no_such(name: &str) -> Error {
    Error::NoSuchModel {
        name: name.to_owned(),
    }
}

impl<M> fmt::Debug for ModelSlots<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSlots")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
