//! Contents of memory: finding the place of a range of addresses, reading and writing it.

use super::{Fault, FaultKind, Memory, mapped::Access, pages::Pages};

impl Memory {
    /// Returns whether the range lies in one allocation, in one pinned block of the host, or in addresses that are
    /// mapped one after the other.
    pub(crate) fn check(&self, address: u64, len: u64) -> Result<(), Fault> {
        self.places(address, len, Access::Read).map(drop)
    }

    /// Returns the parts of a range in order, each with its length.
    pub(super) fn places(
        &self,
        address: u64,
        len: u64,
        access: Access,
    ) -> Result<Vec<(Place, usize)>, Fault> {
        let fault = FaultKind::NotAllocated.at(address, len);
        let inside = |base: u64, size: u64| {
            let offset = address.checked_sub(base)?;
            (offset.checked_add(len)? <= size).then_some(offset)
        };
        if let Some((base, allocation)) = self.allocations.range(..=address).next_back()
            && let Some(offset) = inside(*base, allocation.len)
        {
            let store = Store::Allocation(*base);
            return Ok(vec![(Place::Device { store, offset }, len as usize)]);
        }
        if let Some((base, block)) = self.host.range(..=address).next_back()
            && let Some(offset) = inside(*base, block.len as u64)
        {
            let at = block.start.as_ptr().wrapping_add(offset as usize);
            return Ok(vec![(Place::Host { at }, len as usize)]);
        }
        let parts = self.mapped.parts(address, len, access).ok_or(fault)?;
        let place = |(handle, offset, len): (u64, u64, u64)| {
            let store = Store::Physical(handle);
            (Place::Device { store, offset }, len as usize)
        };
        Ok(parts.into_iter().map(place).collect())
    }

    fn pages(&self, store: Store) -> Option<&Pages> {
        match store {
            Store::Allocation(base) => self.allocations.get(&base).map(|found| &found.pages),
            Store::Physical(handle) => self.mapped.pages(handle),
        }
    }

    fn pages_mut(&mut self, store: Store) -> Option<&mut Pages> {
        match store {
            Store::Allocation(base) => self
                .allocations
                .get_mut(&base)
                .map(|found| &mut found.pages),
            Store::Physical(handle) => self.mapped.pages_mut(handle),
        }
    }

    /// Reads simulated memory.
    pub(crate) fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Fault> {
        let mut to = to;
        for (place, len) in self.places(address, to.len() as u64, Access::Read)? {
            let (part, rest) = to.split_at_mut(len);
            to = rest;
            match place {
                Place::Device { store, offset } => {
                    if let Some(pages) = self.pages(store) {
                        pages.read(offset, part);
                    }
                }
                // SAFETY: the range lies in a pinned block, which lives until it leaves the map.
                Place::Host { at } => unsafe {
                    at.copy_to_nonoverlapping(part.as_mut_ptr(), len);
                },
            }
        }
        Ok(())
    }

    /// Writes simulated memory.
    pub(crate) fn write(&mut self, address: u64, from: &[u8]) -> Result<(), Fault> {
        let mut from = from;
        for (place, len) in self.places(address, from.len() as u64, Access::Write)? {
            let (part, rest) = from.split_at(len);
            from = rest;
            match place {
                Place::Device { store, offset } => {
                    if let Some(pages) = self.pages_mut(store) {
                        pages.write(offset, part);
                    }
                }
                // SAFETY: as in `read`.
                Place::Host { at } => unsafe {
                    at.copy_from_nonoverlapping(part.as_ptr(), len);
                },
            }
        }
        Ok(())
    }

    /// Sets memory to a byte; whole pages of it cost nothing.
    pub(crate) fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), Fault> {
        for (place, len) in self.places(address, len, Access::Write)? {
            match place {
                Place::Device { store, offset } => {
                    if let Some(pages) = self.pages_mut(store) {
                        pages.fill(offset, byte, len);
                    }
                }
                // SAFETY: as in `read`.
                Place::Host { at } => unsafe { at.write_bytes(byte, len) },
            }
        }
        Ok(())
    }

    /// Returns the memory that an address lies in, as `cuPointerGetAttribute` reports it.
    pub(crate) fn pointer_info(&self, address: u64) -> Option<PointerInfo> {
        let places = self.places(address, 1, Access::Ask).ok()?;
        Some(match places.first()?.0 {
            Place::Host { .. } => {
                let (base, block) = self.host.range(..=address).next_back()?;
                PointerInfo {
                    on_host: true,
                    device: block.device,
                    base: *base,
                    len: block.len as u64,
                    pool: None,
                }
            }
            Place::Device { store, .. } => match store {
                Store::Allocation(base) => {
                    let found = self.allocations.get(&base)?;
                    PointerInfo {
                        on_host: false,
                        device: found.device,
                        base,
                        len: found.len,
                        pool: found.pool,
                    }
                }
                Store::Physical(handle) => self.mapped.pointer_info(address, handle)?,
            },
        })
    }
}

pub(super) enum Place {
    Device { store: Store, offset: u64 },
    Host { at: *mut u8 },
}

/// The place of device memory's contents.
#[derive(Clone, Copy)]
pub(super) enum Store {
    Allocation(u64),
    Physical(u64),
}

/// The memory that an address lies in.
pub(crate) struct PointerInfo {
    pub(crate) on_host: bool,
    pub(crate) device: usize,
    pub(crate) base: u64,
    pub(crate) len: u64,
    pub(crate) pool: Option<u64>,
}
