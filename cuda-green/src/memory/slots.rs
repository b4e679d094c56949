//! Model slots: named models in one budget, loaded when needed and evicted when others need the room.

mod state;
mod status;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub use state::{EvictionPolicy, ModelNeeds};
use state::{Loaded, Slot, State};
pub use status::{SlotStatus, SlotsStatus};

use super::{
    GpuMemoryPool, PoolMetrics,
    trace::{Happening, tell},
};
use crate::{Error, Result};

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

    /// The model, loaded if it is not there. If several threads ask for it, one loads it and the others wait;
    /// should that fail, the next of them tries. Where room is short, idle models are evicted as the policy
    /// says, but none in vain.
    ///
    /// The function runs with no lock held and may be called again after an eviction, if it runs out of
    /// memory. What it returns must not keep buffers of the pool elsewhere, or its memory never comes back.
    ///
    /// # Errors
    /// [`Error::NoRoomForModel`]; those of the function.
    pub fn get_or_load(
        &self,
        name: &str,
        needs: ModelNeeds,
        mut load: impl FnMut(&GpuMemoryPool) -> Result<M>,
    ) -> Result<ModelLease<M>> {
        let start;
        let mut evicted = {
            let mut state = self.state();
            loop {
                match state.slots.get(name).map(|slot| slot.loaded.clone()) {
                    Some(Some(loaded)) => {
                        state.touch(name);
                        state.hits += 1;
                        return Ok(ModelLease(loaded));
                    }
                    Some(None) => {
                        state = self
                            .changed
                            .wait(state)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                    None => break,
                }
            }
            start = Instant::now();
            match self.make_room(&mut state, name, needs.bytes) {
                Ok(evicted) => evicted,
                Err(error) => {
                    state.failures += 1;
                    return Err(error);
                }
            }
        };
        // From here on the slot is this thread's, and goes again unless it is filled.
        let mut claim = Claim {
            slots: self,
            name,
            bytes: needs.bytes,
            done: false,
        };
        let pool = loop {
            drop_models(std::mem::take(&mut evicted))?;
            match self.pool.reserve(needs.bytes) {
                Ok(pool) => break pool,
                // Others took it meanwhile.
                Err(Error::OutOfMemory { .. }) => {
                    evicted = self.evict_for(&mut self.state(), name, needs.bytes)?;
                }
                Err(error) => return Err(error),
            }
        };
        let model = loop {
            match load(&pool) {
                Err(Error::OutOfMemory { asked, .. }) if pool.available() >= asked => {
                    // It fits the budget, so the device has no more: an idle model has to go.
                    let evicted = self.evict_one(&mut self.state(), name, needs.bytes)?;
                    drop_models(vec![evicted])?;
                    self.pool.trim()?;
                }
                result => break result?,
            }
        };
        let loaded = Arc::new(Loaded {
            model,
            pool,
            name: name.to_owned(),
        });
        let took = start.elapsed();
        let mut state = self.state();
        if let Some(slot) = state.slots.get_mut(name) {
            slot.needs = needs;
            slot.loaded = Some(loaded.clone());
        }
        state.loads.note(took);
        state.touch(name);
        claim.done = true;
        drop(state);
        drop(claim);
        tell(Happening::Loaded {
            model: name,
            bytes: needs.bytes,
            took,
        });
        Ok(ModelLease(loaded))
    }

    /// Claims a slot, and says which models have to go first. Drops none and takes no bytes, since both may
    /// call back, and the lock is held.
    fn make_room(
        &self,
        state: &mut State<M>,
        name: &str,
        bytes: u64,
    ) -> Result<Vec<Arc<Loaded<M>>>> {
        let mut evicted = self.evict_for(state, name, bytes)?;
        // Full only if none was evicted, so a refusal here has evicted none.
        if state.slots.len() >= self.capacity {
            evicted.push(self.evict_one(state, name, bytes)?);
        }
        let slot = Slot {
            needs: ModelNeeds { bytes, priority: 0 },
            loaded: None,
            pins: 0,
            last_used: state.clock,
        };
        state.slots.insert(name.to_owned(), slot);
        Ok(evicted)
    }

    /// Takes out as many idle models as make room for so many bytes, or none if that is not possible.
    fn evict_for(
        &self,
        state: &mut State<M>,
        name: &str,
        bytes: u64,
    ) -> Result<Vec<Arc<Loaded<M>>>> {
        let mut missing = bytes.saturating_sub(self.pool.available());
        if state.evictable() < missing {
            return Err(self.no_room(state, name, bytes));
        }
        let mut evicted = Vec::new();
        while missing > 0 {
            let Some((victim, size)) = state.victim(self.policy, missing) else {
                break;
            };
            evicted.extend(state.take(&victim));
            missing = missing.saturating_sub(size);
        }
        Ok(evicted)
    }

    fn evict_one(&self, state: &mut State<M>, name: &str, bytes: u64) -> Result<Arc<Loaded<M>>> {
        let victim = state.victim(self.policy, 0);
        victim
            .and_then(|(victim, _)| state.take(&victim))
            .ok_or_else(|| self.no_room(state, name, bytes))
    }

    #[cold]
    fn no_room(&self, state: &State<M>, name: &str, asked: u64) -> Error {
        let evictable = state.evictable();
        let others = state.slots.iter().filter(|(other, _)| *other != name);
        let all: u64 = others.map(|(_, slot)| slot.needs.bytes).sum();
        Error::NoRoomForModel {
            name: name.to_owned(),
            asked,
            available: self.pool.available(),
            free_slots: self.capacity.saturating_sub(state.slots.len()),
            evictable,
            held: all - evictable,
        }
    }

    /// The model, if it is loaded.
    pub fn get(&self, name: &str) -> Option<ModelLease<M>> {
        let mut state = self.state();
        let loaded = state.slots.get(name)?.loaded.clone()?;
        state.touch(name);
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops models that nobody else holds, and sees that their buffers are gone.
fn drop_models<M>(models: Vec<Arc<Loaded<M>>>) -> Result<()> {
    let mut left = 0;
    for model in models {
        let (pool, name) = (model.pool.clone(), model.name.clone());
        drop(model);
        left += pool.used();
        tell(Happening::Evicted {
            model: &name,
            bytes: pool.limit(),
        });
    }
    if left > 0 {
        return Err(Error::MemoryNotBack { bytes: left });
    }
    Ok(())
}

/// A slot that a thread is filling; empty again if it fails or panics.
struct Claim<'a, M> {
    slots: &'a ModelSlots<M>,
    name: &'a str,
    bytes: u64,
    done: bool,
}

impl<M> Drop for Claim<'_, M> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.slots.state();
            state.slots.remove(self.name);
            state.failures += 1;
            drop(state);
            tell(Happening::LoadFailed {
                model: self.name,
                bytes: self.bytes,
            });
        }
        self.slots.changed.notify_all();
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
