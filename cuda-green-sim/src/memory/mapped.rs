//! Virtual memory: memory without addresses, addresses without memory, and mappings between them.

use std::collections::{BTreeMap, HashMap};

use cuda_green_sys::CUresult;

use super::{PointerInfo, pages::Pages};
use crate::{
    c_args::Answer,
    leaks::{self, MadeAt},
};

/// The step of sizes and addresses. As far as is known, it is the same on every device since compute capability 7.0;
/// not measured here.
pub(crate) const GRANULARITY: u64 = 2 << 20;

/// The kind of access to mapped memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Only to query it.
    Ask,
    Read,
    Write,
}

/// Memory without an address.
struct Physical {
    device: usize,
    len: u64,
    pages: Pages,
    /// Released by the client, but kept while it is mapped.
    released: bool,
    made_at: MadeAt,
}

struct Mapping {
    len: u64,
    physical: u64,
    /// The access that the device has; none at first.
    access: Access,
}

struct Reservation {
    len: u64,
    made_at: MadeAt,
}

#[derive(Default)]
pub(crate) struct Mapped {
    physical: HashMap<u64, Physical>,
    reservations: BTreeMap<u64, Reservation>,
    mappings: BTreeMap<u64, Mapping>,
}

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

impl Mapped {
    pub(super) fn each_live(
        &self,
        present: &dyn Fn(usize) -> bool,
        visit: &mut dyn FnMut(&'static str, MadeAt),
    ) {
        for found in self.physical.values().filter(|found| present(found.device)) {
            visit(leaks::PHYSICAL, found.made_at);
        }
        for found in self.reservations.values() {
            visit(leaks::RESERVATION, found.made_at);
        }
    }

    /// Adds memory whose bytes the caller has already charged to the device.
    pub(crate) fn create(&mut self, handle: u64, device: usize, len: u64) {
        self.physical.insert(
            handle,
            Physical {
                device,
                len,
                pages: Pages::default(),
                released: false,
                made_at: MadeAt::now(),
            },
        );
    }

    /// Releases the client's memory. Returns its device and size if it is no longer used.
    pub(crate) fn release(&mut self, handle: u64) -> Result<Option<(usize, u64)>, CUresult> {
        let found = self.physical.get_mut(&handle);
        let found = found.filter(|found| !found.released).ok_or(INVALID)?;
        found.released = true;
        Ok(self.forget_unused(handle))
    }

    fn forget_unused(&mut self, handle: u64) -> Option<(usize, u64)> {
        let used = |mapping: &Mapping| mapping.physical == handle;
        if self.mappings.values().any(used) || !self.physical.get(&handle)?.released {
            return None;
        }
        let gone = self.physical.remove(&handle)?;
        Some((gone.device, gone.len))
    }

    pub(crate) fn reserve(&mut self, address: u64, len: u64) {
        let made_at = MadeAt::now();
        self.reservations
            .insert(address, Reservation { len, made_at });
    }

    /// Frees a reservation as a whole, with nothing mapped in it.
    pub(crate) fn free(&mut self, address: u64, len: u64) -> Answer {
        let found = self.reservations.get(&address);
        if found.is_none_or(|found| found.len != len)
            || self
                .mappings
                .range(address..address.saturating_add(len))
                .next()
                .is_some()
        {
            return Err(INVALID);
        }
        self.reservations.remove(&address);
        Ok(())
    }

    /// Returns the size of memory that the client has not released.
    pub(crate) fn len_of(&self, handle: u64) -> Result<u64, CUresult> {
        let found = self.physical.get(&handle).filter(|found| !found.released);
        found.map(|found| found.len).ok_or(INVALID)
    }

    /// Returns whether a range is in one reservation.
    fn is_reserved(&self, address: u64, len: u64) -> bool {
        let reserved = self.reservations.range(..=address).next_back();
        let end = address.checked_add(len);
        reserved.is_some_and(|(base, found)| end.is_some_and(|end| end <= base + found.len))
    }

    /// Returns whether nothing is mapped in a range.
    fn is_bare(&self, address: u64, len: u64) -> bool {
        let end = address.saturating_add(len);
        let before = self.mappings.range(..end).next_back();
        before.is_none_or(|(base, mapping)| base + mapping.len <= address)
    }

    /// Maps all of a memory.
    pub(crate) fn map(&mut self, address: u64, handle: u64) -> Answer {
        let len = self.len_of(handle)?;
        if !self.is_reserved(address, len) || !self.is_bare(address, len) {
            return Err(INVALID);
        }
        self.mappings.insert(
            address,
            Mapping {
                len,
                physical: handle,
                access: Access::Ask,
            },
        );
        Ok(())
    }

    /// Returns whether a range is made of whole mappings.
    fn is_whole(&self, address: u64, len: u64) -> bool {
        let mut at = address;
        let Some(end) = address.checked_add(len) else {
            return false;
        };
        while at < end {
            match self.mappings.get(&at) {
                Some(mapping) => at += mapping.len,
                None => return false,
            }
        }
        len > 0 && at == end
    }

    /// Removes whole mappings. Returns the device and size of each memory that is no longer used.
    pub(crate) fn unmap(&mut self, address: u64, len: u64) -> Result<Vec<(usize, u64)>, CUresult> {
        if self.is_reserved(address, len) && self.is_bare(address, len) {
            return Ok(Vec::new());
        }
        if !self.is_whole(address, len) {
            return Err(INVALID);
        }
        let there = self.mappings.range(address..address + len);
        let there: Vec<(u64, u64)> = there.map(|(at, found)| (*at, found.physical)).collect();
        for (at, _) in &there {
            self.mappings.remove(at);
        }
        let handles = there.into_iter().map(|(_, handle)| handle);
        Ok(handles
            .filter_map(|handle| self.forget_unused(handle))
            .collect())
    }

    /// Sets a device's access to whole mappings of its own memory.
    pub(crate) fn set_access(
        &mut self,
        address: u64,
        len: u64,
        device: usize,
        access: Access,
    ) -> Answer {
        if !self.is_whole(address, len) {
            return Err(INVALID);
        }
        let physical = &self.physical;
        let mut of_device = self
            .mappings
            .range(address..address + len)
            .map(|(_, found)| {
                let memory = physical.get(&found.physical);
                memory.is_some_and(|memory| memory.device == device)
            });
        if !of_device.all(|of_device| of_device) {
            // These devices are not peers.
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        for (_, mapping) in self.mappings.range_mut(address..address + len) {
            mapping.access = access;
        }
        Ok(())
    }

    /// Returns the parts of a range: memory, offset in it, and length. `None` if a part is not mapped, or not for
    /// this access.
    pub(super) fn parts(
        &self,
        address: u64,
        len: u64,
        access: Access,
    ) -> Option<Vec<(u64, u64, u64)>> {
        let end = address.checked_add(len)?;
        let mut parts = Vec::new();
        let mut at = address;
        loop {
            let (base, mapping) = self.mappings.range(..=at).next_back()?;
            let offset = at - base;
            if offset >= mapping.len || mapping.access < access {
                return None;
            }
            let part = (mapping.len - offset).min(end - at);
            parts.push((mapping.physical, offset, part));
            at += part;
            if at >= end {
                return Some(parts);
            }
        }
    }

    pub(super) fn pages(&self, handle: u64) -> Option<&Pages> {
        self.physical.get(&handle).map(|found| &found.pages)
    }

    pub(super) fn pages_mut(&mut self, handle: u64) -> Option<&mut Pages> {
        self.physical.get_mut(&handle).map(|found| &mut found.pages)
    }

    pub(super) fn pointer_info(&self, address: u64, handle: u64) -> Option<PointerInfo> {
        let (base, mapping) = self.mappings.range(..=address).next_back()?;
        Some(PointerInfo {
            on_host: false,
            device: self.physical.get(&handle)?.device,
            base: *base,
            len: mapping.len,
            pool: None,
        })
    }
}
