//! Where a pool's memory comes from: the driver's stream-ordered pools, or plain allocation.
//!
//! With an explicit stream, the calls of stream-ordered pools need no current context (measured on an H200,
//! driver 580); plain allocation does.

use cuda_green_sys::{
    CUdeviceptr, CUmemAllocationType, CUmemLocation, CUmemLocationType, CUmemPool_attribute,
    CUmemPoolProps, CUmemoryPool, CUresult, CUstream, CUstream_flags, CudaVersion,
};

use crate::{CudaDevice, Error, Result};

pub(crate) enum Backing {
    /// A stream-ordered pool, and the stream on which it is used.
    Ordered {
        pool: CUmemoryPool,
        stream: CUstream,
    },
    /// `cuMemAlloc` and `cuMemFree`.
    Plain,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread.
unsafe impl Send for Backing {}
// SAFETY: as above; the driver's pool and stream calls are thread-safe.
unsafe impl Sync for Backing {}

impl Backing {
    pub(crate) fn create(device: &CudaDevice, limit: u64) -> Result<Self> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        let properties = CUmemPoolProps {
            allocType: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            location: CUmemLocation {
                type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                __bindgen_anon_1: cuda_green_sys::CUmemLocation_st__bindgen_ty_1 {
                    id: device.raw(),
                },
            },
            maxSize: backstop(driver.version(), limit),
            ..Default::default()
        };
        let mut pool = std::ptr::null_mut();
        // SAFETY: the properties were zeroed but for what is set; the output is valid.
        let result = unsafe { driver.api().cuMemPoolCreate(&mut pool, &properties) };
        match driver.check("cuMemPoolCreate", result) {
            Ok(()) => {}
            // Some devices and platforms have no pools although the driver has the call.
            Err(Error::MissingEntryPoint(_))
            | Err(Error::Driver {
                code: CUresult::CUDA_ERROR_NOT_SUPPORTED,
                ..
            }) => return Ok(Self::Plain),
            Err(error) => return Err(error),
        }
        let mut backing = Self::Ordered {
            pool,
            stream: std::ptr::null_mut(),
        };
        match backing.prepare(device, pool) {
            Ok(()) => Ok(backing),
            Err(error) => {
                backing.destroy(device);
                Err(error)
            }
        }
    }

    /// Keeps freed memory in the pool, and makes the stream that it is used on.
    fn prepare(&mut self, device: &CudaDevice, pool: CUmemoryPool) -> Result<()> {
        let driver = device.driver();
        let mut threshold = u64::MAX;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is live, and this attribute is a 64-bit number.
        let result = unsafe {
            driver.api().cuMemPoolSetAttribute(
                pool,
                attribute,
                std::ptr::from_mut(&mut threshold).cast(),
            )
        };
        driver.check("cuMemPoolSetAttribute", result)?;
        let mut stream = std::ptr::null_mut();
        device.with_primary(|| {
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING.0;
            // SAFETY: the output is valid, and the stream's context is current.
            let result = unsafe {
                driver
                    .api()
                    .cuStreamCreateWithPriority(&mut stream, flags, 0)
            };
            driver.check("cuStreamCreateWithPriority", result)
        })?;
        *self = Self::Ordered { pool, stream };
        Ok(())
    }

    /// Allocates, and waits until the memory may be used in every stream.
    pub(crate) fn allocate(&self, device: &CudaDevice, size: usize) -> Result<CUdeviceptr> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        let mut address = 0;
        match *self {
            Self::Ordered { pool, stream } => {
                // SAFETY: pool and stream are live, the output is valid.
                let result = unsafe {
                    driver
                        .api()
                        .cuMemAllocFromPoolAsync(&mut address, size, pool, stream)
                };
                driver.check("cuMemAllocFromPoolAsync", result)?;
                // The memory may be used in any stream once this one has come to the allocation.
                // SAFETY: the stream is live.
                let result = unsafe { driver.api().cuStreamSynchronize(stream) };
                if let Err(error) = driver.check("cuStreamSynchronize", result) {
                    driver.check_in_drop("cuMemFreeAsync", {
                        // SAFETY: allocated above, and known to nobody else.
                        unsafe { driver.api().cuMemFreeAsync(address, stream) }
                    });
                    return Err(error);
                }
            }
            Self::Plain => return allocate_plain(device, size),
        }
        Ok(address)
    }

    /// Frees what [`Backing::allocate`] gave, and what no stream uses any more.
    pub(crate) fn free(&self, device: &CudaDevice, address: CUdeviceptr) -> Result<()> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        match *self {
            Self::Ordered { stream, .. } => {
                // SAFETY: the address is of this pool, and its buffer ends here.
                let result = unsafe { driver.api().cuMemFreeAsync(address, stream) };
                driver.check("cuMemFreeAsync", result)
            }
            Self::Plain => free_plain(device, address),
        }
    }

    /// Waits until what was freed is back in the driver's pool, and makes the pool give back all it can.
    pub(crate) fn trim(&self, device: &CudaDevice) -> Result<()> {
        let Self::Ordered { pool, stream } = *self else {
            return Ok(());
        };
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        // SAFETY: the stream is live.
        let result = unsafe { driver.api().cuStreamSynchronize(stream) };
        driver.check("cuStreamSynchronize", result)?;
        // SAFETY: the pool is live.
        let result = unsafe { driver.api().cuMemPoolTrimTo(pool, 0) };
        driver.check("cuMemPoolTrimTo", result)
    }

    /// Bytes that the driver counts as given out by its pool; none where there is no pool.
    pub(crate) fn used(&self, device: &CudaDevice) -> Result<Option<u64>> {
        let Self::Ordered { pool, .. } = *self else {
            return Ok(None);
        };
        let mut bytes = 0u64;
        // SAFETY: the pool is live, and this attribute is a 64-bit number.
        let result = unsafe {
            device.driver().api().cuMemPoolGetAttribute(
                pool,
                CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
                std::ptr::from_mut(&mut bytes).cast(),
            )
        };
        device.driver().check("cuMemPoolGetAttribute", result)?;
        Ok(Some(bytes))
    }

    pub(crate) fn destroy(&self, device: &CudaDevice) {
        let Self::Ordered { pool, stream } = *self else {
            return;
        };
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        if !stream.is_null() {
            // SAFETY: both are live, and this is their end. Frees that are still queued must have run
            // before the stream goes, or the pool would keep their memory.
            let results = unsafe {
                [
                    (
                        "cuStreamSynchronize",
                        driver.api().cuStreamSynchronize(stream),
                    ),
                    ("cuStreamDestroy", driver.api().cuStreamDestroy_v2(stream)),
                ]
            };
            for (call, result) in results {
                driver.check_in_drop(call, result);
            }
        }
        // SAFETY: the pool is live, and all that came from it was freed before.
        driver.check_in_drop("cuMemPoolDestroy", unsafe {
            driver.api().cuMemPoolDestroy(pool)
        });
    }
}

/// Outside of every pool.
pub(crate) fn allocate_plain(device: &CudaDevice, size: usize) -> Result<CUdeviceptr> {
    let mut address = 0;
    let _allowed = device.driver().beside_captures();
    device.with_primary(|| {
        // SAFETY: the output is valid, and a context of the device is current.
        let result = unsafe { device.driver().api().cuMemAlloc_v2(&mut address, size) };
        device.driver().check("cuMemAlloc", result)
    })?;
    Ok(address)
}

pub(crate) fn free_plain(device: &CudaDevice, address: CUdeviceptr) -> Result<()> {
    let _allowed = device.driver().beside_captures();
    // SAFETY: the address is of `cuMemAlloc`, and its only owner gives it up. No context needs to be
    // current for this (measured on an H200, driver 580).
    let result = unsafe { device.driver().api().cuMemFree_v2(address) };
    device.driver().check("cuMemFree", result)
}

/// The driver's own limit for a pool, as a backstop behind the exact one; 0 is none.
///
/// It must never refuse what fits, and the driver counts in coarse steps (32 MiB, measured) and rounds
/// each allocation up, so it stands an eighth and two steps higher. The field is in the headers from 12.4
/// on; older drivers want it zero.
fn backstop(driver: CudaVersion, limit: u64) -> usize {
    const STEP: u64 = 32 << 20;
    if driver < CudaVersion::new(12, 4) {
        return 0;
    }
    let with_slack = limit
        .checked_add(limit / 8 + 2 * STEP)
        .and_then(|size| size.checked_next_multiple_of(STEP));
    with_slack
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= 1 << 50)
        .unwrap_or(0)
}
