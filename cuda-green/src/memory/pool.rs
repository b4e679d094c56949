//! A pool of device memory with a limit that holds exactly.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cuda_green_sys::{
    CUdeviceptr, CUmemAllocationType, CUmemLocation, CUmemLocationType, CUmemPool_attribute,
    CUmemPoolProps, CUmemoryPool, CUresult, CUstream, CUstream_flags, CudaVersion,
};

use super::{GpuBuffer, MemoryPressure};
use crate::{CudaDevice, Driver, Error, Result};

/// A pool of device memory with a limit in bytes. Cheap to clone; all clones are the same pool.
///
/// The limit is kept in this crate's own accounting, to the byte: what fits is granted (as far as the
/// device has memory), what does not is refused. Behind it stands the driver's stream-ordered pool where
/// there is one (CUDA 11.2 and the device permitting), plain allocation otherwise.
///
/// Buffers keep their pool alive and may outlive every context.
#[derive(Clone)]
pub struct GpuMemoryPool {
    inner: Arc<Inner>,
}

struct Inner {
    device: CudaDevice,
    limit: u64,
    used: AtomicU64,
    high_water: AtomicU64,
    backing: Backing,
}

/// Where the memory comes from.
enum Backing {
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

impl GpuMemoryPool {
    /// A pool on a device of the process's driver.
    ///
    /// # Errors
    /// Those of [`CudaDevice::init`] and [`GpuMemoryPool::on`].
    pub fn new(device_id: u32, limit_bytes: u64) -> Result<Self> {
        Self::on(&CudaDevice::init(device_id)?, limit_bytes)
    }

    /// A pool on a device. `u64::MAX` is no limit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit of 0; [`Error::Driver`].
    pub fn on(device: &CudaDevice, limit_bytes: u64) -> Result<Self> {
        if limit_bytes == 0 {
            return Err(Error::InvalidArgument {
                name: "limit_bytes",
                value: "0".into(),
                reason: "no buffer would fit; u64::MAX is no limit",
            });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                device: device.clone(),
                limit: limit_bytes,
                used: AtomicU64::new(0),
                high_water: AtomicU64::new(0),
                backing: Backing::create(device, limit_bytes)?,
            }),
        })
    }

    /// Whether memory can be had at all: a driver loads, and it sees a GPU. Meant for the start of a
    /// program; most of its time is the driver's own `cuInit`.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::NoGpu`], [`Error::Driver`].
    pub fn check_availability() -> Result<()> {
        Driver::load()?.device_count().map(drop)
    }

    /// Allocates, and waits until the memory is there. Aligned to at least 256 bytes; the contents are
    /// whatever was there before.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for 0 bytes; [`Error::OutOfMemory`] over the limit, or where the device
    /// has no more; [`Error::Driver`].
    #[doc(alias = "cuMemAllocFromPoolAsync")]
    pub fn allocate(&self, size: usize) -> Result<GpuBuffer> {
        if size == 0 {
            return Err(Error::InvalidArgument {
                name: "size",
                value: "0".into(),
                reason: "a buffer has at least one byte",
            });
        }
        self.reserve(size as u64)?;
        match self.inner.backing.allocate(&self.inner.device, size) {
            Ok(address) => Ok(GpuBuffer::new(self.clone(), address, size)),
            Err(error) => {
                self.release(size as u64);
                Err(match error {
                    Error::Driver {
                        code: CUresult::CUDA_ERROR_OUT_OF_MEMORY,
                        ..
                    } => self.out_of_memory(size as u64),
                    error => error,
                })
            }
        }
    }

    /// Gives a buffer back, as dropping it does, and says whether that went well.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] for another pool's buffer, which is then dropped; [`Error::Driver`].
    #[doc(alias = "cuMemFreeAsync")]
    pub fn deallocate(&self, buffer: GpuBuffer) -> Result<()> {
        if Arc::ptr_eq(&self.inner, &buffer.pool().inner) {
            buffer.free()
        } else {
            Err(Error::ForeignBuffer)
        }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.inner.limit
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// Bytes left under the limit.
    pub fn available(&self) -> u64 {
        self.inner.limit - self.used()
    }

    /// The most bytes that were ever in use at once.
    pub fn high_water_mark(&self) -> u64 {
        self.inner.high_water.load(Ordering::Relaxed)
    }

    /// How full the pool is.
    pub fn pressure_level(&self) -> MemoryPressure {
        MemoryPressure::of(self.used(), self.inner.limit)
    }

    /// The pool's device.
    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    /// Takes bytes from the limit, all or none.
    fn reserve(&self, size: u64) -> Result<()> {
        let fits = |used: u64| {
            used.checked_add(size)
                .filter(|sum| *sum <= self.inner.limit)
        };
        match self
            .inner
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(before) => {
                self.inner
                    .high_water
                    .fetch_max(before + size, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err(self.out_of_memory(size)),
        }
    }

    fn release(&self, size: u64) {
        self.inner.used.fetch_sub(size, Ordering::Relaxed);
    }

    #[cold]
    fn out_of_memory(&self, asked: u64) -> Error {
        Error::OutOfMemory {
            asked,
            available: self.available(),
            limit: self.limit(),
        }
    }

    /// Frees what a buffer of this pool had.
    pub(super) fn free(&self, address: CUdeviceptr, size: usize) -> Result<()> {
        let freed = self.inner.backing.free(&self.inner.device, address);
        // Also where the driver refused: the memory is the driver's then, and no buffer has it any more.
        self.release(size as u64);
        freed
    }
}

impl Backing {
    fn create(device: &CudaDevice, limit: u64) -> Result<Self> {
        let driver = device.driver();
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

    fn allocate(&self, device: &CudaDevice, size: usize) -> Result<CUdeviceptr> {
        let driver = device.driver();
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
            Self::Plain => device.with_primary(|| {
                // SAFETY: the output is valid, and a context of the device is current.
                let result = unsafe { driver.api().cuMemAlloc_v2(&mut address, size) };
                driver.check("cuMemAlloc", result)
            })?,
        }
        Ok(address)
    }

    fn free(&self, device: &CudaDevice, address: CUdeviceptr) -> Result<()> {
        let driver = device.driver();
        match *self {
            Self::Ordered { stream, .. } => {
                // SAFETY: the address is of this pool, and its buffer ends here.
                let result = unsafe { driver.api().cuMemFreeAsync(address, stream) };
                driver.check("cuMemFreeAsync", result)
            }
            Self::Plain => device.with_primary(|| {
                // SAFETY: the address is of `cuMemAlloc`, and its buffer ends here.
                let result = unsafe { driver.api().cuMemFree_v2(address) };
                driver.check("cuMemFree", result)
            }),
        }
    }

    fn destroy(&self, device: &CudaDevice) {
        let Self::Ordered { pool, stream } = *self else {
            return;
        };
        let driver = device.driver();
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
        // SAFETY: the pool is live, and every buffer of it is gone, since each holds it.
        driver.check_in_drop("cuMemPoolDestroy", unsafe {
            driver.api().cuMemPoolDestroy(pool)
        });
    }
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

impl Drop for Inner {
    fn drop(&mut self) {
        self.backing.destroy(&self.device);
    }
}

impl fmt::Debug for GpuMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuMemoryPool")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}
