//! Pinned host memory: the driver's, and registered memory of the client.

use std::{alloc::Layout, ptr::NonNull};

use cuda_green_sys::CUresult;

use super::Memory;
use crate::{c_args::Answer, leaks::MadeAt};

/// One pinned block of host memory, of the driver or the client.
pub(super) struct HostBlock {
    pub(super) start: NonNull<u8>,
    pub(super) len: usize,
    /// The layout with which the driver allocated it; `None` for the client's memory.
    pub(super) layout: Option<Layout>,
    pub(super) device: usize,
    pub(super) made_at: MadeAt,
}

// SAFETY: the block is plain memory, which is the driver's or was lent to it by the client until it is
// unregistered; every access goes through the lock around `Memory`, except the client's own, which is the
// client's business as with a real driver.
unsafe impl Send for HostBlock {}
// SAFETY: as above; under the read lock, the driver's own accesses are atomic.
unsafe impl Sync for HostBlock {}

/// Returns whether all of a range is readable memory of this process, as far as the system knows.
#[cfg(target_os = "linux")]
fn is_mapped(address: u64, len: u64) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return true;
    };
    let mut next = address;
    let end = address.saturating_add(len);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        let bounds = range.split_once('-').and_then(|(first, last)| {
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(first)?, number(last)?))
        });
        if let Some((first, last)) = bounds
            && first <= next
            && next < last
            && rights.starts_with('r')
        {
            next = last;
            if next >= end {
                return true;
            }
        }
    }
    false
}

#[cfg(not(target_os = "linux"))]
fn is_mapped(_: u64, _: u64) -> bool {
    true
}

impl Memory {
    /// Pins the client's memory, until `unregister`. Two registrations must not overlap.
    pub(crate) fn register(&mut self, device: usize, start: NonNull<u8>, len: usize) -> Answer {
        let address = start.as_ptr().expose_provenance() as u64;
        let end = address
            .checked_add(len as u64)
            .filter(|_| isize::try_from(len).is_ok() && is_mapped(address, len as u64))
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let before = self.host.range(..end).next_back();
        let over = before.filter(|(base, block)| *base + block.len as u64 > address);
        match over.map(|(_, block)| block.layout) {
            None => {}
            // The driver's memory is pinned already (measured on an H200, driver 580).
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

    /// Unpins a block by its start. An address inside a block, or of the driver's memory, is a wrong value (measured
    /// on an H200, driver 580).
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

    /// Frees pinned memory. Memory that is never freed stays allocated even after the driver is gone, because the
    /// client may still hold a pointer to it.
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

    /// Forgets a device's pinned blocks, whose context is gone, without freeing them. Returns the calls that made
    /// them.
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
