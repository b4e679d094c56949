//! The load of a model, after making room for it.

use std::{sync::Arc, time::Instant};

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
        let (slot, evicted) = match self.find_or_take_slot(name, needs.bytes)? {
            Found::Loaded(lease) => return Ok(lease),
            Found::Slot { slot, evicted } => (slot, evicted),
        };
        let mut evictions = evicted.len();
        let pool = self.reserve(name, needs.bytes, evicted, &mut evictions)?;
        let model = self.run(name, needs.bytes, &pool, &mut load, &mut evictions)?;
        Ok(ModelLease(slot.fill(model, pool, needs)))
    }

    /// Finds the model, after waiting for a load of it, or takes a slot for it and evicts models that are in the way.
    fn find_or_take_slot<'a>(&'a self, name: &'a str, bytes: u64) -> Result<Found<'a, M>> {
        let mut table = self.table();
        loop {
            match table.slots.get(name).map(|slot| slot.loaded.clone()) {
                Some(Some(loaded)) => {
                    table.touch(name);
                    table.hits += 1;
                    return Ok(Found::Loaded(ModelLease(loaded)));
                }
                Some(None) => {
                    let _waiting = LoadWait::begin(self.address(), name)
                        .map_err(|models| Error::ModelWaitsForItself { models })?;
                    table = self.changed.wait(table);
                }
                None => break,
            }
        }
        let start = Instant::now();
        let evicted = match self.take_slot(&mut table, name, bytes) {
            Ok(evicted) => evicted,
            Err(error) => {
                table.failures += 1;
                return Err(error);
            }
        };
        drop(table);
        let slot = LoadingSlot {
            slots: self,
            name,
            bytes,
            start,
            filled: false,
            loading: Some(ActiveLoad::begin(self.address(), name)),
        };
        Ok(Found::Slot { slot, evicted })
    }

    /// Drops the evicted models and reserves the bytes of a model, with further evictions while other threads are
    /// faster.
    fn reserve(
        &self,
        name: &str,
        bytes: u64,
        mut evicted: Vec<Arc<LoadedModel<M>>>,
        evictions: &mut usize,
    ) -> Result<GpuMemoryPool> {
        loop {
            // If bytes of an evicted model are still held elsewhere, the reservation fails, or does without them.
            if let Err(error) = drop_models(std::mem::take(&mut evicted)) {
                log::warn!("evicting models for {name}: {error}");
            }
            match self.pool.reserve(bytes) {
                // Other threads took the room meanwhile.
                Err(Error::OutOfMemory { .. }) => {
                    evicted = self.evict_for(&mut self.table(), name, bytes, *evictions)?;
                    *evictions += evicted.len();
                }
                result => return result,
            }
        }
    }

    /// Runs the caller's function, again after an eviction each time the device has no more memory.
    fn run(
        &self,
        name: &str,
        bytes: u64,
        pool: &GpuMemoryPool,
        load: &mut impl FnMut(&GpuMemoryPool) -> Result<M>,
        evictions: &mut usize,
    ) -> Result<M> {
        loop {
            match load(pool) {
                Err(error @ Error::DeviceOutOfMemory { .. }) => {
                    // It fits the budget, and the device has no more: evict an idle model, unless even all of them
                    // would not make room for the bytes that are still to be allocated.
                    let evicted = {
                        let mut table = self.table();
                        if self.check_device(&table, pool.available()).is_err() {
                            return Err(error);
                        }
                        self.evict_one(&mut table, name, bytes, *evictions)?
                    };
                    *evictions += 1;
                    if let Err(error) = drop_models(vec![evicted]) {
                        log::warn!("evicting a model for {name}: {error}");
                    }
                    self.pool.trim()?;
                }
                result => return result,
            }
        }
    }

    /// Takes a slot for a model, and returns the models evicted for it. It neither drops them nor charges bytes: both
    /// may run callbacks, and the lock is held.
    fn take_slot(
        &self,
        table: &mut SlotTable<M>,
        name: &str,
        bytes: u64,
    ) -> Result<Vec<Arc<LoadedModel<M>>>> {
        let total = self.pool.device().total_memory();
        if bytes > total {
            // The device never has room for it, whatever is evicted.
            return Err(Error::DeviceOutOfMemory {
                asked: bytes,
                free: self.pool.device().free_memory().ok(),
                total,
            });
        }
        let mut evicted = self.evict_for(table, name, bytes, 0)?;
        // All slots are taken only if none was evicted, so a refusal here has evicted none.
        if table.slots.len() >= self.capacity {
            self.check_device(table, bytes)?;
            evicted.push(self.evict_one(table, name, bytes, 0)?);
        }
        let slot = ModelSlot {
            needs: ModelNeeds { bytes, priority: 0 },
            loaded: None,
            pins: 0,
            last_used: table.clock,
        };
        table.slots.insert(name.to_owned(), slot);
        Ok(evicted)
    }

    /// Evicts as many idle models as make room for `bytes`, or none if that is not possible. `before` is the number
    /// evicted for this load already.
    fn evict_for(
        &self,
        table: &mut SlotTable<M>,
        name: &str,
        bytes: u64,
        before: usize,
    ) -> Result<Vec<Arc<LoadedModel<M>>>> {
        let mut missing = bytes.saturating_sub(self.pool.available());
        if table.evictable() < missing {
            return Err(self.no_room(table, name, bytes, before));
        }
        if missing > 0 {
            self.check_device(table, bytes)?;
        }
        let mut evicted = Vec::new();
        while missing > 0 {
            let Some((victim, size)) = table.victim(self.policy, missing) else {
                break;
            };
            evicted.extend(table.evict(&victim));
            missing = missing.saturating_sub(size);
        }
        Ok(evicted)
    }

    /// Evicts one idle model.
    fn evict_one(
        &self,
        table: &mut SlotTable<M>,
        name: &str,
        bytes: u64,
        before: usize,
    ) -> Result<Arc<LoadedModel<M>>> {
        let victim = table.victim(self.policy, 0);
        victim
            .and_then(|(victim, _)| table.evict(&victim))
            .ok_or_else(|| self.no_room(table, name, bytes, before))
    }

    /// Checks that the device would have this many bytes if all idle models were evicted.
    fn check_device(&self, table: &SlotTable<M>, bytes: u64) -> Result<()> {
        let device = self.pool.device();
        let free = device.free_memory()?;
        let most = free
            .saturating_add(self.pool.idle_bytes()?)
            .saturating_add(table.evictable_on_device());
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
    fn no_room(&self, table: &SlotTable<M>, name: &str, asked: u64, evicted: usize) -> Error {
        let evictable = table.evictable();
        let others = table.slots.iter().filter(|(other, _)| *other != name);
        let all: u64 = others.map(|(_, slot)| slot.needs.bytes).sum();
        Error::NoRoomForModel {
            name: name.to_owned(),
            asked,
            available: self.pool.available(),
            free_slots: self.capacity.saturating_sub(table.slots.len()),
            evictable,
            held: all - evictable,
            evicted,
        }
    }
}

/// The outcome of the search for a model.
enum Found<'a, M> {
    Loaded(ModelLease<M>),
    Slot {
        slot: LoadingSlot<'a, M>,
        /// Models evicted for it, to be dropped with no lock held.
        evicted: Vec<Arc<LoadedModel<M>>>,
    },
}

/// A slot that this thread is filling. Dropped before it is filled, it is removed again: the load failed or panicked.
struct LoadingSlot<'a, M> {
    slots: &'a ModelSlots<M>,
    name: &'a str,
    bytes: u64,
    /// When the load began.
    start: Instant,
    filled: bool,
    loading: Option<ActiveLoad>,
}

impl<M> LoadingSlot<'_, M> {
    /// Puts a model into the slot.
    fn fill(mut self, model: M, pool: GpuMemoryPool, needs: ModelNeeds) -> Arc<LoadedModel<M>> {
        let name = self.name;
        let loaded = Arc::new(LoadedModel {
            model,
            pool,
            name: name.to_owned(),
        });
        let took = self.start.elapsed();
        {
            let mut table = self.slots.table();
            if let Some(slot) = table.slots.get_mut(name) {
                slot.needs = needs;
                slot.loaded = Some(Arc::clone(&loaded));
            }
            table.loads.note(took);
            table.touch(name);
        }
        self.filled = true;
        drop(self);
        emit(ModelEvent::Loaded {
            model: name,
            bytes: needs.bytes,
            took,
        });
        loaded
    }
}

impl<M> Drop for LoadingSlot<'_, M> {
    fn drop(&mut self) {
        // Before other threads may load it.
        self.loading = None;
        if !self.filled {
            {
                let mut table = self.slots.table();
                table.slots.remove(self.name);
                table.failures += 1;
            }
            emit(ModelEvent::LoadFailed {
                model: self.name,
                bytes: self.bytes,
            });
        }
        self.slots.changed.notify_all();
    }
}
