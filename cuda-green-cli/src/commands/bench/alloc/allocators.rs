//! The allocators under test: ours, the driver's stream-ordered pool, and `cuMemAlloc`.

use std::ptr;

use cuda_green::{CudaDevice, GpuBuffer, GpuMemoryPool, sys};
use sys::{Api, CUdeviceptr, CUmemoryPool, CUstream};

use crate::commands::bench::raw::ok;

/// One allocator under test.
pub trait Allocator: Sync {
    type Block;
    fn take(&self, size: usize) -> anyhow::Result<Self::Block>;
    fn give(&self, block: Self::Block) -> anyhow::Result<()>;
}

pub struct Ours(pub GpuMemoryPool);

impl Allocator for Ours {
    type Block = GpuBuffer;
    fn take(&self, size: usize) -> anyhow::Result<Self::Block> {
        Ok(self.0.allocate(size)?)
    }
    fn give(&self, block: Self::Block) -> anyhow::Result<()> {
        drop(block);
        Ok(())
    }
}

/// The driver's own pool, which releases nothing before the end.
pub struct RawPool<'a> {
    device: &'a CudaDevice,
    pool: CUmemoryPool,
    stream: CUstream,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread.
unsafe impl Sync for RawPool<'_> {}

impl<'a> RawPool<'a> {
    pub fn new(device: &'a CudaDevice) -> anyhow::Result<Self> {
        let properties = sys::CUmemPoolProps {
            allocType: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            location: sys::CUmemLocation {
                type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                __bindgen_anon_1: sys::CUmemLocation_st__bindgen_ty_1 { id: device.raw() },
            },
            ..Default::default()
        };
        // If a later step fails, dropping this destroys what was made before.
        let mut made = Self {
            device,
            pool: ptr::null_mut(),
            stream: ptr::null_mut(),
        };
        let mut threshold = u64::MAX;
        let api = device.driver().api();
        // SAFETY: the outputs are valid; the context is retained by the device; the attribute is a 64-bit
        // number.
        unsafe {
            ok(api.cuCtxSetCurrent(device.raw_primary_context()?))?;
            ok(api.cuMemPoolCreate(&mut made.pool, &properties))?;
            ok(api.cuMemPoolSetAttribute(
                made.pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                ptr::from_mut(&mut threshold).cast(),
            ))?;
            ok(api.cuStreamCreateWithPriority(&mut made.stream, 1, 0))?;
        }
        Ok(made)
    }

    fn api(&self) -> &Api {
        self.device.driver().api()
    }

    /// Returns the bytes that the pool has from the device; with `high`, the peak.
    pub fn reserved(&self, high: bool) -> anyhow::Result<u64> {
        let mut bytes = 0u64;
        let attribute = if high {
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH
        } else {
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        };
        // SAFETY: the pool is live, and the attribute a 64-bit number.
        ok(unsafe {
            self.api()
                .cuMemPoolGetAttribute(self.pool, attribute, ptr::from_mut(&mut bytes).cast())
        })?;
        Ok(bytes)
    }

    /// Gives all memory back to the device and resets the peak.
    pub fn reset(&self) -> anyhow::Result<()> {
        let mut zero = 0u64;
        // SAFETY: pool and stream are live; the attribute is a 64-bit number that may be set to zero.
        unsafe {
            ok(self.api().cuStreamSynchronize(self.stream))?;
            ok(self.api().cuMemPoolTrimTo(self.pool, 0))?;
            ok(self.api().cuMemPoolSetAttribute(
                self.pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH,
                ptr::from_mut(&mut zero).cast(),
            ))
        }
    }
}

impl Allocator for RawPool<'_> {
    type Block = CUdeviceptr;
    fn take(&self, size: usize) -> anyhow::Result<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: pool and stream are live, and the output is valid.
        ok(unsafe {
            self.api()
                .cuMemAllocFromPoolAsync(&mut address, size, self.pool, self.stream)
        })?;
        Ok(address)
    }
    fn give(&self, address: CUdeviceptr) -> anyhow::Result<()> {
        // SAFETY: the address is of this pool, and nothing uses it.
        ok(unsafe { self.api().cuMemFreeAsync(address, self.stream) })
    }
}

impl Drop for RawPool<'_> {
    fn drop(&mut self) {
        // SAFETY: what is not null is live, and all that came from the pool was freed. A failure here
        // could not be handled.
        unsafe {
            if !self.stream.is_null() {
                let _ = self.api().cuStreamSynchronize(self.stream);
                let _ = self.api().cuStreamDestroy_v2(self.stream);
            }
            if !self.pool.is_null() {
                let _ = self.api().cuMemPoolDestroy(self.pool);
            }
        }
    }
}

/// `cuMemAlloc`, with a context already current.
pub struct Plain<'a>(pub &'a Api);

impl Allocator for Plain<'_> {
    type Block = CUdeviceptr;
    fn take(&self, size: usize) -> anyhow::Result<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: a context is current, and the output is valid.
        ok(unsafe { self.0.cuMemAlloc_v2(&mut address, size) })?;
        Ok(address)
    }
    fn give(&self, address: CUdeviceptr) -> anyhow::Result<()> {
        // SAFETY: the address is of `cuMemAlloc`, and nothing uses it.
        ok(unsafe { self.0.cuMemFree_v2(address) })
    }
}
