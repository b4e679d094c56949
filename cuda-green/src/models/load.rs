//! The load of a model, after making room for it.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{
    ModelLease, ModelNeeds, ModelSlots,
    events::{ModelEvent, emit},
    load_cycles::{ActiveLoad, LoadWait},
    slot_table::{LoadedModel, ModelSlot, SlotTable, drop_models},
};
use crate::{
    error::{Error, Result},
    memory::GpuMemoryPool,
};

impl<M> ModelSlots<M> {
    /// Returns the model, after loading it if it is not loaded. If several threads ask for it, one loads it and the
    /// others wait; if that load fails, the next of them tries. If room is short, idle models are evicted in the order
    /// of the policy. None is evicted if even all of them would not make enough room, in the budget or on the device
    /// for all bytes that the model may still allocate by its needs.
    ///
    /// `load` runs with no lock held. It may be called again after an eviction, if it runs out of memory. It may load
    /// other models. The model that it returns must not keep buffers of the pool elsewhere, or its memory is never
    /// freed. Models evicted for a load do not come back if it fails, so check first what can fail for other reasons,
    /// such as a missing file.
    ///
    /// # Errors
    /// [`Error::NoRoomForModel`]; [`Error::DeviceOutOfMemory`] if the device could not hold the model even with all
    /// idle ones evicted; [`Error::ModelWaitsForItself`] if `load` asks for its own model, or for one whose load waits
    /// for this one; [`Error::InvalidArgument`] for 0 bytes; the errors of `load`.
    pub fn get_or_load(
        &self,
        name: &str,
        needs: ModelNeeds,
        mut load: impl FnMut(&GpuMemoryPool) -> Result<M>,
    ) -> Result<ModelLease<M>> {
        if needs.bytes == 0 {
            return Err(Error::InvalidArgument {
                name: "bytes",
                value: "0".into(),
                reason: "a model needs at least one byte",
            });
        }
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
                        let _waiting = LoadWait::begin(self.address(), name)
                            .map_err(|models| Error::ModelWaitsForItself { models })?;
                        state = self
                            .changed
                            .wait(state)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                    None => break,
                }
            }
            start = Instant::now();
            // The device has no room for it, whatever is evicted.
            let total = self.pool.device().total_memory();
            if needs.bytes > total {
                state.failures += 1;
                return Err(Error::DeviceOutOfMemory {
                    asked: needs.bytes,
                    free: self.pool.device().free_memory().ok(),
                    total,
                });
            }
            match self.make_room(&mut state, name, needs.bytes) {
                Ok(evicted) => evicted,
                Err(error) => {
                    state.failures += 1;
                    return Err(error);
                }
            }
        };
        let mut evictions = evicted.len();
        // From here on the slot is this thread's, and is removed again unless it is filled.
        let mut slot = LoadingSlot {
            slots: self,
            name,
            bytes: needs.bytes,
            done: false,
            loading: Some(ActiveLoad::begin(self.address(), name)),
        };
        let pool = loop {
            // If bytes of an evicted model are still held elsewhere, the reservation below fails, or does without them.
            if let Err(error) = drop_models(std::mem::take(&mut evicted)) {
                log::warn!("evicting models for {name}: {error}");
            }
            match self.pool.reserve(needs.bytes) {
                Ok(pool) => break pool,
                // Other threads took the room meanwhile.
                Err(Error::OutOfMemory { .. }) => {
                    evicted = self.evict_for(&mut self.state(), name, needs.bytes, evictions)?;
                    evictions += evicted.len();
                }
                Err(error) => return Err(error),
            }
        };
        let model = loop {
            match load(&pool) {
                Err(error @ Error::DeviceOutOfMemory { .. }) => {
                    // It fits the budget, and the device has no more: evict an idle model, unless even all of them
                    // would not make room for the bytes that are still to be allocated.
                    let evicted = {
                        let mut state = self.state();
                        if self.check_device(&state, pool.available()).is_err() {
                            return Err(error);
                        }
                        self.evict_one(&mut state, name, needs.bytes, evictions)?
                    };
                    evictions += 1;
                    if let Err(error) = drop_models(vec![evicted]) {
                        log::warn!("evicting a model for {name}: {error}");
                    }
                    self.pool.trim()?;
                }
                result => break result?,
            }
        };
        let loaded = Arc::new(LoadedModel {
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
        slot.done = true;
        drop(state);
        drop(slot);
        emit(ModelEvent::Loaded {
            model: name,
            bytes: needs.bytes,
            took,
        });
        Ok(ModelLease(loaded))
    }

    /// Takes a slot for a model, and returns the models evicted for it. It neither drops them nor charges bytes: both
    /// may run callbacks, and the lock is held.
    fn make_room(
        &self,
        state: &mut SlotTable<M>,
        name: &str,
        bytes: u64,
    ) -> Result<Vec<Arc<LoadedModel<M>>>> {
        let mut evicted = self.evict_for(state, name, bytes, 0)?;
        // All slots are taken only if none was evicted, so a refusal here has evicted none.
        if state.slots.len() >= self.capacity {
            self.check_device(state, bytes)?;
            evicted.push(self.evict_one(state, name, bytes, 0)?);
        }
        let slot = ModelSlot {
            needs: ModelNeeds { bytes, priority: 0 },
            loaded: None,
            pins: 0,
            last_used: state.clock,
        };
        state.slots.insert(name.to_owned(), slot);
        Ok(evicted)
    }

    /// Evicts as many idle models as make room for `bytes`, or none if that is not possible. `before` is the number
    /// evicted for this load already.
    fn evict_for(
        &self,
        state: &mut SlotTable<M>,
        name: &str,
        bytes: u64,
        before: usize,
    ) -> Result<Vec<Arc<LoadedModel<M>>>> {
        let mut missing = bytes.saturating_sub(self.pool.available());
        if state.evictable() < missing {
            return Err(self.no_room(state, name, bytes, before));
        }
        if missing > 0 {
            self.check_device(state, bytes)?;
        }
        let mut evicted = Vec::new();
        while missing > 0 {
            let Some((victim, size)) = state.victim(self.policy, missing) else {
                break;
            };
            evicted.extend(state.evict(&victim));
            missing = missing.saturating_sub(size);
        }
        Ok(evicted)
    }

    /// Evicts one idle model.
    fn evict_one(
        &self,
        state: &mut SlotTable<M>,
        name: &str,
        bytes: u64,
        before: usize,
    ) -> Result<Arc<LoadedModel<M>>> {
        let victim = state.victim(self.policy, 0);
        victim
            .and_then(|(victim, _)| state.evict(&victim))
            .ok_or_else(|| self.no_room(state, name, bytes, before))
    }

    /// Checks that the device would have this many bytes if all idle models were evicted.
    fn check_device(&self, state: &SlotTable<M>, bytes: u64) -> Result<()> {
        let device = self.pool.device();
        let free = device.free_memory()?;
        let most = free
            .saturating_add(self.pool.idle_bytes()?)
            .saturating_add(state.evictable_on_device());
        if most >= bytes {
            return Ok(());
        }
        Err(Error::DeviceOutOfMemory {
            asked: bytes,
            free: Some(free),
            total: device.total_memory(),
        })
    }

    #[cold]
    fn no_room(&self, state: &SlotTable<M>, name: &str, asked: u64, evicted: usize) -> Error {
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
            evicted,
        }
    }
}

/// A slot that a thread is filling; removed again if the load fails or panics.
struct LoadingSlot<'a, M> {
    slots: &'a ModelSlots<M>,
    name: &'a str,
    bytes: u64,
    done: bool,
    loading: Option<ActiveLoad>,
}

impl<M> Drop for LoadingSlot<'_, M> {
    fn drop(&mut self) {
        // Before other threads may load it.
        self.loading = None;
        if !self.done {
            let mut state = self.slots.state();
            state.slots.remove(self.name);
            state.failures += 1;
            drop(state);
            emit(ModelEvent::LoadFailed {
                model: self.name,
                bytes: self.bytes,
            });
        }
        self.slots.changed.notify_all();
    }
}
