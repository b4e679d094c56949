//! Device memory, pinned host memory and pools: addresses and accounting. The contents are in the files below this
//! one.
//!
//! Contents are kept in pages that exist once something is written, so allocating 8 GiB costs nothing. Memory that
//! was never written reads as zero. No address is used twice, so a use after free is always detected.

mod contents;
mod host;
pub(crate) mod mapped;
mod pages;
mod pools;
mod words;

use std::collections::{BTreeMap, HashMap};

use cuda_green_sys::CUresult;

use self::{host::HostBlock, mapped::Mapped, pages::Pages};
use crate::{
    c_args::Answer,
    injection::Fill,
    leaks::{self, MadeAt},
};
pub(crate) use contents::PointerInfo;
pub(crate) use pools::Pool;
pub(crate) use words::Word;

/// The first device address: above everything that a host process can map, so that host and device addresses never
/// overlap.
const FIRST_ADDRESS: u64 = 0x000d_0000_0000_0000;

/// The end of the addresses.
const LAST_ADDRESS: u64 = 1 << 57;

/// Alignment of every allocation, and the step of accounting.
const ALIGNMENT: u64 = 512;

/// The memory of a green context, from what eight cost of which one replaced a destroyed one (measured on an H200,
/// driver 580: 38 MiB). So this is the cost of seven.
const GREEN_CONTEXT_BYTES: u64 = (38_u64 << 20).div_ceil(7);

/// An access to memory that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at address {address:#x} {kind}")]
#[non_exhaustive]
pub struct Fault {
    /// The first byte of the access.
    pub address: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The reason.
    pub kind: FaultKind,
}

/// The reason why an access to memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// The memory is not allocated, or the range is not in one allocation.
    #[error("are not in one allocation")]
    NotAllocated,
    /// The address of a number is not a multiple of its size.
    #[error("are not aligned")]
    Misaligned,
    /// An atomic update of the host's memory, which over PCIe is not atomic for the host.
    #[error("belong to the host, for which a kernel's update is not atomic")]
    HostUpdate,
    /// The kernel was stopped: see [`Launch::is_stopped`](crate::Launch::is_stopped). It is no fault of the kernel.
    #[error("are out of reach of a kernel that was stopped")]
    Stopped,
}

impl FaultKind {
    pub(crate) fn at(self, address: u64, len: u64) -> Fault {
        Fault {
            address,
            len,
            kind: self,
        }
    }
}

struct Allocation {
    len: u64,
    device: usize,
    pool: Option<u64>,
    pages: Pages,
    made_at: MadeAt,
}

struct DeviceMemory {
    total: u64,
    used: u64,
    /// Live green contexts, and the largest number that lived at once, whose memory stays taken.
    greens: u64,
    green_places: u64,
    /// The memory that can be allocated: all, unless a fault was injected.
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

    /// Calls `visit` with every live object on a device that is not lost: its kind and the call that made it.
    pub(crate) fn each_live(
        &self,
        present: &dyn Fn(usize) -> bool,
        visit: &mut dyn FnMut(&'static str, MadeAt),
    ) {
        for allocation in self.allocations.values().filter(|a| present(a.device)) {
            visit(leaks::ALLOCATION, allocation.made_at);
        }
        let pools = self.pools.values().filter(|pool| present(pool.device));
        for pool in pools.filter(|pool| pool.is_the_clients()) {
            visit(leaks::POOL, pool.made_at);
        }
        for block in self.host.values().filter(|block| present(block.device)) {
            let kind = match block.layout {
                Some(_) => leaks::HOST,
                None => leaks::REGISTRATION,
            };
            visit(kind, block.made_at);
        }
        self.mapped.each_live(present, visit);
    }

    /// Returns the bytes of the live device allocations, as they were requested.
    pub(crate) fn live_bytes(&self, present: &dyn Fn(usize) -> bool) -> u64 {
        let there = self.allocations.values().filter(|a| present(a.device));
        there.map(|a| a.len).sum()
    }

    /// Returns the free and total bytes of a device.
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

    /// Takes a green context's memory, which is not released when the context ends (measured on an H200, driver 580).
    /// It is assumed that the next context reuses it: otherwise a program that creates and destroys contexts would
    /// run out of memory.
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

    /// Limits the memory of each device from now on.
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
        // A gap follows each allocation, so that an access beyond its end is detected.
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

    /// Returns the device of an allocation.
    pub(crate) fn device_of(&self, address: u64) -> Option<usize> {
        self.allocations.get(&address).map(|found| found.device)
    }

    /// Frees memory of `allocate` or a pool; the asynchronous call takes either, too (measured on an H200, driver
    /// 580). A null address is no error.
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

    /// Frees everything that belongs to a device's primary context; pools belong to the device and stay. Returns the
    /// calls that made what the client had not freed.
    pub(crate) fn sweep(&mut self, device: usize) -> Vec<MadeAt> {
        let left: Vec<(u64, MadeAt)> = self
            .allocations
            .iter()
            .filter(|(_, a)| a.device == device && a.pool.is_none())
            .map(|(address, allocation)| (*address, allocation.made_at))
            .collect();
        for (address, _) in &left {
            // It was found above, so this cannot fail.
            let _ = self.free(*address);
        }
        left.into_iter().map(|(_, made_at)| made_at).collect()
    }

    /// Reserves an unused range of addresses.
    pub(crate) fn take_addresses(&mut self, len: u64, alignment: u64) -> Result<u64, CUresult> {
        let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let address = self.next.checked_next_multiple_of(alignment).ok_or(full)?;
        self.next = address
            .checked_add(accounted(len)?)
            .and_then(|end| end.checked_add(ALIGNMENT))
            // No device has this many addresses; beyond them, later sums would wrap.
            .filter(|end| *end < LAST_ADDRESS)
            .ok_or(full)?;
        Ok(address)
    }
}

/// Returns the cost of an allocation.
fn accounted(len: u64) -> Result<u64, CUresult> {
    len.checked_next_multiple_of(ALIGNMENT)
        // This is larger than any address space, and keeps the next address from wrapping.
        .filter(|len| *len < 1 << 50)
        .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)
}

#[cfg(test)]
mod tests;
