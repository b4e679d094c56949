//! Device memory, pinned host memory and pools: addresses, contents and accounting.
//!
//! Contents are kept in pages that exist once something is written, so that allocating 8 GiB costs
//! nothing. Memory that was never written reads as zero. An address is never given out twice, so that
//! a use after free is always found.

pub(crate) mod mapped;
mod pages;
mod pools;

use std::{
    alloc::Layout,
    collections::{BTreeMap, HashMap},
    ptr::NonNull,
};

use cuda_green_sys::CUresult;

use self::{
    mapped::{Access, Mapped},
    pages::Pages,
};
use crate::{
    injection::Fill,
    live::{self, MadeAt},
    raw::Answer,
};
pub(crate) use pools::Pool;

/// The first device address: above everything a host process can map, so that host and device
/// addresses never meet.
const FIRST_ADDRESS: u64 = 0x000d_0000_0000_0000;

/// Alignment of every allocation, and the step in which memory is accounted for.
const ALIGNMENT: u64 = 512;

/// What eight green contexts cost, of which one takes the place of one that was destroyed before (measured
/// on an H200, driver 580: 38 MiB). That leaves what seven take.
const GREEN_CONTEXT_BYTES: u64 = (38_u64 << 20).div_ceil(7);

/// An access to memory that is not allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at address {address:#x} are not in one allocation")]
#[non_exhaustive]
pub struct Fault {
    /// The first byte of the access.
    pub address: u64,
    /// Its length in bytes.
    pub len: u64,
}

struct Allocation {
    len: u64,
    device: usize,
    pool: Option<u64>,
    pages: Pages,
    made_at: MadeAt,
}

/// One pinned block of host memory: the driver's, or the client's own.
struct HostBlock {
    start: NonNull<u8>,
    len: usize,
    /// What the driver allocated it with; `None` where it is the client's own.
    layout: Option<Layout>,
    device: usize,
    made_at: MadeAt,
}

// SAFETY: the block is plain memory, which is the driver's or was lent to it by the client until it is
// unregistered; every access goes through the lock around `Memory`, except the client's own, which is the
// client's business as with a real driver.
unsafe impl Send for HostBlock {}

struct DeviceMemory {
    total: u64,
    used: u64,
    /// Green contexts that live, and places for them that are paid for.
    greens: u64,
    green_places: u64,
    /// What can be had of it: all, unless a fault was injected.
    ceiling: u64,
}

pub(crate) struct Memory {
    devices: Vec<DeviceMemory>,
    allocations: BTreeMap<u64, Allocation>,
    pools: HashMap<u64, Pool>,
    host: BTreeMap<u64, HostBlock>,
    pub(crate) mapped: Mapped,
    next: u64,
}

impl Memory {
    pub(crate) fn new(totals: impl IntoIterator<Item = u64>) -> Self {
        Self {
            devices: totals
                .into_iter()
                .map(|total| DeviceMemory {
                    total,
                    used: 0,
                    greens: 0,
                    green_places: 0,
                    ceiling: total,
                })
                .collect(),
            allocations: BTreeMap::new(),
            pools: HashMap::new(),
            host: BTreeMap::new(),
            mapped: Mapped::default(),
            next: FIRST_ADDRESS,
        }
    }

    /// Tells each thing that lives on a device that is there, by its kind and the call that made it.
    pub(crate) fn each_live(
        &self,
        present: &dyn Fn(usize) -> bool,
        tell: &mut dyn FnMut(&'static str, MadeAt),
    ) {
        for allocation in self.allocations.values().filter(|a| present(a.device)) {
            tell(live::ALLOCATION, allocation.made_at);
        }
        let pools = self.pools.values().filter(|pool| present(pool.device));
        for pool in pools.filter(|pool| pool.is_the_clients()) {
            tell(live::POOL, pool.made_at);
        }
        for block in self.host.values().filter(|block| present(block.device)) {
            let kind = match block.layout {
                Some(_) => live::HOST,
                None => live::REGISTRATION,
            };
            tell(kind, block.made_at);
        }
        self.mapped.each_live(present, tell);
    }

    /// Bytes of the device allocations that live, as they were asked for.
    pub(crate) fn live_bytes(&self, present: &dyn Fn(usize) -> bool) -> u64 {
        let there = self.allocations.values().filter(|a| present(a.device));
        there.map(|a| a.len).sum()
    }

    /// Free and total bytes of a device.
    pub(crate) fn info(&self, device: usize) -> (u64, u64) {
        let memory = &self.devices[device];
        (memory.total - memory.used, memory.total)
    }

    /// Takes bytes out of a device's memory without an address.
    pub(crate) fn charge(&mut self, device: usize, bytes: u64) -> Answer {
        let memory = &mut self.devices[device];
        let used = memory
            .used
            .checked_add(bytes)
            .filter(|used| *used <= memory.ceiling)
            .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        memory.used = used;
        Ok(())
    }

    /// Takes a green context's memory, which is not given back when the context ends (measured on an
    /// H200, driver 580). That the next one takes it over is assumed: without it, memory would run out
    /// where contexts come and go.
    pub(crate) fn take_green_context(&mut self, device: usize) -> Answer {
        let memory = &mut self.devices[device];
        if memory.greens == memory.green_places {
            self.charge(device, GREEN_CONTEXT_BYTES)?;
            self.devices[device].green_places += 1;
        }
        self.devices[device].greens += 1;
        Ok(())
    }

    pub(crate) fn leave_green_context(&mut self, device: usize) {
        let memory = &mut self.devices[device];
        memory.greens = memory.greens.saturating_sub(1);
    }

    /// From now on, no more than this can be had of each device.
    pub(crate) fn limit(&mut self, fill: Fill) {
        for memory in &mut self.devices {
            memory.ceiling = fill.of(memory.total).min(memory.total);
        }
    }

    pub(crate) fn discharge(&mut self, device: usize, bytes: u64) {
        let memory = &mut self.devices[device];
        memory.used = memory.used.saturating_sub(bytes);
    }

    /// Allocates device memory; zero bytes are refused, as measured.
    pub(crate) fn allocate(&mut self, device: usize, len: u64) -> Result<u64, CUresult> {
        if len == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        self.charge(device, accounted(len)?)?;
        Ok(self.place(device, len, None))
    }

    fn place(&mut self, device: usize, len: u64, pool: Option<u64>) -> u64 {
        let address = self.next;
        // A gap follows each allocation, so that running over its end is found.
        self.next += len.next_multiple_of(ALIGNMENT) + ALIGNMENT;
        self.allocations.insert(
            address,
            Allocation {
                len,
                device,
                pool,
                pages: Pages::default(),
                made_at: MadeAt::now(),
            },
        );
        address
    }

    /// The device of an allocation.
    pub(crate) fn device_of(&self, address: u64) -> Option<usize> {
        self.allocations.get(&address).map(|found| found.device)
    }

    /// Frees what `allocate` or a pool gave out; the asynchronous call takes either, too (measured on an
    /// H200, driver 580). A null address is no error.
    pub(crate) fn free(&mut self, address: u64) -> Answer {
        if address == 0 {
            return Ok(());
        }
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        let Some(allocation) = self.allocations.remove(&address) else {
            return Err(invalid);
        };
        let bytes = accounted(allocation.len)?;
        match allocation.pool {
            None => self.discharge(allocation.device, bytes),
            Some(id) => {
                self.free_to_pool(id, allocation.len, bytes);
            }
        }
        Ok(())
    }

    /// Frees everything that belongs to a device's primary context; pools belong to the device and
    /// stay. Gives the calls that made what the client had not freed.
    pub(crate) fn sweep(&mut self, device: usize) -> Vec<MadeAt> {
        let left: Vec<(u64, MadeAt)> = self
            .allocations
            .iter()
            .filter(|(_, a)| a.device == device && a.pool.is_none())
            .map(|(address, allocation)| (*address, allocation.made_at))
            .collect();
        for (address, _) in &left {
            // It was found just now, so this cannot fail.
            let _ = self.free(*address);
        }
        left.into_iter().map(|(_, made_at)| made_at).collect()
    }

    /// Takes a range of addresses that nobody else has.
    pub(crate) fn take_addresses(&mut self, len: u64, alignment: u64) -> Result<u64, CUresult> {
        let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let address = self.next.checked_next_multiple_of(alignment).ok_or(full)?;
        self.next = address
            .checked_add(accounted(len)?)
            .and_then(|end| end.checked_add(ALIGNMENT))
            .ok_or(full)?;
        Ok(address)
    }

    /// Whether the range lies in one allocation, in one pinned block of the host, or in addresses that are
    /// mapped one after the other.
    pub(crate) fn check(&self, address: u64, len: u64) -> Result<(), Fault> {
        self.places(address, len, Access::Read).map(drop)
    }

    /// Where a range lies: the parts that it is made of, in order, and how long each is.
    fn places(&self, address: u64, len: u64, access: Access) -> Result<Vec<(Place, usize)>, Fault> {
        let fault = Fault { address, len };
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

    /// What an address is in, as `cuPointerGetAttribute` tells it.
    pub(crate) fn about(&self, address: u64) -> Option<About> {
        let places = self.places(address, 1, Access::Ask).ok()?;
        Some(match places.first()?.0 {
            Place::Host { .. } => {
                let (base, block) = self.host.range(..=address).next_back()?;
                About {
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
                    About {
                        on_host: false,
                        device: found.device,
                        base,
                        len: found.len,
                        pool: found.pool,
                    }
                }
                Store::Physical(handle) => self.mapped.about(address, handle)?,
            },
        })
    }

    /// Takes in memory of the client's own, up to `unregister`. Two registrations must not overlap.
    pub(crate) fn register(&mut self, device: usize, start: NonNull<u8>, len: usize) -> Answer {
        let address = start.as_ptr().expose_provenance() as u64;
        let end = address.saturating_add(len as u64);
        let before = self.host.range(..end).next_back();
        let over = before.filter(|(base, block)| *base + block.len as u64 > address);
        match over.map(|(_, block)| block.layout) {
            None => {}
            // The driver's own memory is pinned already (measured on an H200, driver 580).
            Some(Some(_)) => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
            Some(None) => return Err(CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED),
        }
        self.host.insert(
            address,
            HostBlock {
                start,
                len,
                layout: None,
                device,
                made_at: MadeAt::now(),
            },
        );
        Ok(())
    }

    /// By its start. An address within a block, or of the driver's own, is a wrong value (measured on an H200,
    /// driver 580).
    pub(crate) fn unregister(&mut self, address: u64) -> Answer {
        match self.host.range(..=address).next_back() {
            Some((base, block)) if *base == address && block.layout.is_none() => {
                self.host.remove(&address);
                Ok(())
            }
            Some((base, block)) if address - base < block.len as u64 => {
                Err(CUresult::CUDA_ERROR_INVALID_VALUE)
            }
            _ => Err(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED),
        }
    }

    /// Allocates real host memory, zeroed and aligned to a page.
    pub(crate) fn allocate_host(&mut self, device: usize, len: usize) -> Result<u64, CUresult> {
        let layout = Layout::from_size_align(len.max(1), 4096)
            .map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
            .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        let address = start.as_ptr().expose_provenance() as u64;
        self.host.insert(
            address,
            HostBlock {
                start,
                len: layout.size(),
                layout: Some(layout),
                device,
                made_at: MadeAt::now(),
            },
        );
        Ok(address)
    }

    /// Frees pinned memory. What is never freed stays allocated for good, even after the driver is
    /// gone, because the client may still hold a pointer to it.
    pub(crate) fn free_host(&mut self, address: u64) -> Answer {
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        let layout = self.host.get(&address).and_then(|block| block.layout);
        let layout = layout.ok_or(invalid)?;
        let block = self.host.remove(&address).ok_or(invalid)?;
        // SAFETY: the block came from the allocator with this layout, and leaves the map here, so it
        // is freed once.
        unsafe { std::alloc::dealloc(block.start.as_ptr(), layout) };
        Ok(())
    }

    /// Forgets a device's pinned blocks, whose context is gone, without freeing them. Gives the calls that
    /// made them.
    pub(crate) fn abandon_host(&mut self, device: usize) -> Vec<MadeAt> {
        let mut made = Vec::new();
        self.host.retain(|_, block| {
            let stays = block.device != device;
            if !stays {
                made.push(block.made_at);
            }
            stays
        });
        made
    }
}

enum Place {
    Device { store: Store, offset: u64 },
    Host { at: *mut u8 },
}

/// Where device memory has its contents.
#[derive(Clone, Copy)]
enum Store {
    Allocation(u64),
    Physical(u64),
}

/// What an address is in.
pub(crate) struct About {
    pub(crate) on_host: bool,
    pub(crate) device: usize,
    pub(crate) base: u64,
    pub(crate) len: u64,
    pub(crate) pool: Option<u64>,
}

/// What an allocation costs.
fn accounted(len: u64) -> Result<u64, CUresult> {
    len.checked_next_multiple_of(ALIGNMENT)
        // Larger than any address space: also keeps the next address from wrapping.
        .filter(|len| *len < 1 << 50)
        .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::{pages::PAGE, pools::POOL_STEP, *};
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn contents_are_lazy_and_exact() {
        let mut memory = Memory::new([16 * GIB]);
        let address = memory.allocate(0, 8 * GIB).unwrap();
        let mut bytes = [1; 4];
        memory.read(address + 5 * GIB, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
        memory.write(address + PAGE - 2, &[1, 2, 3, 4]).unwrap();
        memory.read(address + PAGE - 2, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        memory.fill(address, 7, 3 * PAGE).unwrap();
        memory.read(address + PAGE - 2, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4]);
        assert!(memory.read(address + 8 * GIB - 2, &mut bytes).is_err());
        memory.free(address).unwrap();
        assert!(memory.read(address, &mut bytes).is_err());
        assert_eq!(memory.info(0), (16 * GIB, 16 * GIB));
        assert_eq!(memory.live_bytes(&|_| true), 0);
        memory.each_live(&|_| true, &mut |kind, _| panic!("a {kind} is left"));
    }

    /// Bytes that a pool of this limit gives out in blocks of 1 MiB, as measured on an H200, driver 580.
    #[test]
    fn pool_limits_are_the_measured_ones() {
        for (asked, given) in [
            (1, 32),
            (31, 32),
            (32, 32),
            (33, 64),
            (64, 64),
            (100, 128),
            (256, 256),
        ] {
            let mut memory = Memory::new([GIB]);
            memory.create_pool(1, 0, asked * MIB);
            let mut blocks = 0;
            while memory.allocate_from_pool(1, MIB).is_ok() {
                blocks += 1;
            }
            assert_eq!(blocks, given, "{asked} MiB");
        }
    }

    #[test]
    fn a_destroyed_pool_gives_its_memory_back_at_the_last_free() {
        let mut memory = Memory::new([GIB]);
        memory.create_pool(1, 0, 0);
        let address = memory.allocate_from_pool(1, 5).unwrap();
        assert_eq!(memory.info(0).0, GIB - POOL_STEP);
        memory.destroy_pool(1).unwrap();
        assert!(memory.allocate_from_pool(1, 5).is_err());
        assert_eq!(memory.info(0).0, GIB - POOL_STEP);
        memory.free(address).unwrap();
        assert_eq!(memory.info(0).0, GIB);
    }

    proptest! {
        #[test]
        fn bytes_come_back_as_they_were_written(
            writes in prop::collection::vec((0_u64..200_000, prop::collection::vec(any::<u8>(), 0..300)), 1..20),
        ) {
            let mut memory = Memory::new([GIB]);
            let base = memory.allocate(0, 200_300).unwrap();
            let mut model = vec![0_u8; 200_300];
            for (offset, bytes) in &writes {
                memory.write(base + offset, bytes).unwrap();
                model[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
            }
            let mut all = vec![1; model.len()];
            memory.read(base, &mut all).unwrap();
            prop_assert_eq!(all, model);
        }
    }
}
