//! Loading a model, and making room for it first.

use std::{sync::Arc, time::Instant};

use super::{
    super::{
        GpuMemoryPool,
        trace::{Happening, tell},
    },
    ModelLease, ModelNeeds, ModelSlots,
    state::{Loaded, Slot, State},
    waits::{Loading, Waiting},
};
use crate::error::{Error, Result};

impl<M> ModelSlots<M> {
    /// The model, loaded if it is not there. If several threads ask for it, one loads it and the others wait;
    /// should that fail, the next of them tries. Where room is short, idle models are evicted as the policy
    /// says, but none where all of them would not make enough: neither in the budget, nor on the device for all that
    /// the model is still to allocate by its needs.
    ///
    /// The function runs with no lock held and may be called again after an eviction, if it runs out of
    /// memory. What it returns must not keep buffers of the pool elsewhere, or its memory never comes back. It may
    /// load other models. Models that were evicted for it do not come back if it fails: look for what can fail by
    /// itself, a missing file, before.
    ///
    /// # Errors
    /// [`Error::NoRoomForModel`]; [`Error::DeviceOutOfMemory`] where the device could not hold the model though all idle
    /// ones were evicted; [`Error::ModelWaitsForItself`] where the function asks for its own model, or
    /// for one whose load waits for this one; [`Error::InvalidArgument`] for no bytes; those of the function.
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
                        let _waiting = Waiting::begin(self.address(), name)
                            .map_err(|models| Error::ModelWaitsForItself { models })?;
                        state = self.changed.wait(state);
                    }
                    None => break,
                }
            }
            start = Instant::now();
            // Whatever is evicted, the device never has room for it.
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
        // From here on the slot is this thread's, and goes again unless it is filled.
        let mut claim = Claim {
            slots: self,
            name,
            bytes: needs.bytes,
            done: false,
            loading: Some(Loading::begin(self.address(), name)),
        };
        let pool = loop {
            // Bytes of an evicted model that somebody still holds are missing below, or they are not needed.
            if let Err(error) = drop_models(std::mem::take(&mut evicted)) {
                log::warn!("evicting models for {name}: {error}");
            }
            match self.pool.reserve(needs.bytes) {
                Ok(pool) => break pool,
                // Others took it meanwhile.
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
                    // It fits the budget, and the device has no more: an idle model has to go, unless all of them
                    // together would not be enough for what it has not allocated yet.
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
        let mut evicted = self.evict_for(state, name, bytes, 0)?;
        // Full only if none was evicted, so a refusal here has evicted none.
        if state.slots.len() >= self.capacity {
            self.check_device(state, bytes)?;
            evicted.push(self.evict_one(state, name, bytes, 0)?);
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

    /// Takes out as many idle models as make room for so many bytes, or none if that is not possible. `before` is how many
    /// went for this load already.
    fn evict_for(
        &self,
        state: &mut State<M>,
        name: &str,
        bytes: u64,
        before: usize,
    ) -> Result<Vec<Arc<Loaded<M>>>> {
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
            evicted.extend(state.take(&victim));
            missing = missing.saturating_sub(size);
        }
        Ok(evicted)
    }

    fn evict_one(
        &self,
        state: &mut State<M>,
        name: &str,
        bytes: u64,
        before: usize,
    ) -> Result<Arc<Loaded<M>>> {
        let victim = state.victim(self.policy, 0);
        victim
            .and_then(|(victim, _)| state.take(&victim))
            .ok_or_else(|| self.no_room(state, name, bytes, before))
    }

    /// Refuses where the device would not have so many bytes though all idle models were evicted.
    fn check_device(&self, state: &State<M>, bytes: u64) -> Result<()> {
        let device = self.pool.device();
        let free = device.free_memory()?;
        let most = free
            .saturating_add(self.pool.idle()?)
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
    fn no_room(&self, state: &State<M>, name: &str, asked: u64, evicted: usize) -> Error {
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

/// Drops models that nobody else holds, and sees that their buffers are gone.
pub(super) fn drop_models<M>(models: Vec<Arc<Loaded<M>>>) -> Result<()> {
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
    loading: Option<Loading>,
}

impl<M> Drop for Claim<'_, M> {
    fn drop(&mut self) {
        // Before others may load it.
        self.loading = None;
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
