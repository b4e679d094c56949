//! Model slots: named models in one budget, loaded when needed and evicted when others need the room.

mod load;
mod state;
mod status;
mod waits;

use std::{fmt, ops::Deref, sync::Arc};

use load::drop_models;
pub use state::{EvictionPolicy, ModelNeeds};
use state::{Loaded, Slot, State};
pub use status::{SlotStatus, SlotsStatus};

use super::{GpuMemoryPool, PoolMetrics};
use crate::{
    error::{Error, Result},
    sync::native::{Condvar, Mutex, MutexGuard},
};

/// Named models in one memory pool, in a bounded number of slots.
///
/// A model is loaded by a function of the caller's, which gets a pool of exactly the bytes that were asked
/// for. It stays until it is evicted, and is never evicted while it is pinned or a [`ModelLease`] is held.
/// A slot counts as free once the model's buffers are back and the driver's count says so.
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
/// drop(minilm); // it stays loaded, until another needs the room
/// slots.get_or_load("e5", needs, |pool| pool.allocate(4 << 30))?;
/// assert!(!slots.contains("minilm"));
/// # Ok(())
/// # }
/// ```
pub struct ModelSlots<M> {
    pool: GpuMemoryPool,
    capacity: usize,
    policy: EvictionPolicy,
    state: Mutex<State<M>>,
    changed: Condvar,
}

impl<M> ModelSlots<M> {
    /// A number that no other live slots have.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// A model in use: it is not evicted as long as this is held.
pub struct ModelLease<M>(Arc<Loaded<M>>);

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
    /// So many slots in a pool; the least recently used goes first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no slots.
    pub fn new(pool: GpuMemoryPool, capacity: usize) -> Result<Self> {
        Self::with_policy(pool, capacity, EvictionPolicy::default())
    }

    /// The same with another policy.
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
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The model, if it is loaded.
    pub fn get(&self, name: &str) -> Option<ModelLease<M>> {
        let mut state = self.state();
        let loaded = state.slots.get(name)?.loaded.clone()?;
        state.touch(name);
        state.hits += 1;
        Some(ModelLease(loaded))
    }

    /// Whether the model is loaded, without counting as a use.
    pub fn contains(&self, name: &str) -> bool {
        let state = self.state();
        state
            .slots
            .get(name)
            .is_some_and(|slot| slot.loaded.is_some())
    }

    /// Keeps the model from being evicted until it is unpinned as often.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn pin(&self, name: &str) -> Result<()> {
        self.with_loaded(name, |slot| slot.pins += 1)
    }

    /// Undoes one [`ModelSlots::pin`]; of a model that is not pinned, nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn unpin(&self, name: &str) -> Result<()> {
        self.with_loaded(name, |slot| slot.pins = slot.pins.saturating_sub(1))
    }

    /// Counts as a use of the model.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`].
    pub fn touch(&self, name: &str) -> Result<()> {
        self.with_loaded(name, |_| ())?;
        self.state().touch(name);
        Ok(())
    }

    /// Unloads a model, gives its memory to the system, and tells how many bytes of the budget that freed.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`]; [`Error::ModelInUse`]; [`Error::MemoryNotBack`] where the model's buffers are
    /// still held elsewhere: their bytes stay taken until they are dropped.
    pub fn evict(&self, name: &str) -> Result<u64> {
        let (loaded, bytes) = {
            let mut state = self.state();
            let slot = state.slots.get(name).ok_or_else(|| no_such(name))?;
            let (holders, bytes) = (slot.holders(), slot.needs.bytes);
            if holders > 0 {
                return Err(Error::ModelInUse {
                    name: name.to_owned(),
                    holders,
                });
            }
            (state.take(name).ok_or_else(|| no_such(name))?, bytes)
        };
        drop_models(vec![loaded])?;
        self.pool.trim()?;
        Ok(bytes)
    }

    /// All slots, as they are now.
    pub fn status(&self) -> SlotsStatus {
        let state = self.state();
        let slots = state.slots.iter().map(|(name, slot)| SlotStatus {
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
            hits: state.hits,
            loads: state.loads,
            evictions: state.evictions,
            failures: state.failures,
        }
    }

    /// The pool that the models are in.
    pub fn pool(&self) -> &GpuMemoryPool {
        &self.pool
    }

    fn with_loaded(&self, name: &str, action: impl FnOnce(&mut Slot<M>)) -> Result<()> {
        let mut state = self.state();
        let slot = state
            .slots
            .get_mut(name)
            .filter(|slot| slot.loaded.is_some())
            .ok_or_else(|| no_such(name))?;
        action(slot);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock()
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
