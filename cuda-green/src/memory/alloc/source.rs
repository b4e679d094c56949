//! The source of an arena's memory: a stream-ordered pool of the driver, or plain allocation.
//!
//! With an explicit stream, the calls of stream-ordered pools need no current context (measured on an H200,
//! driver 580); plain allocation does.

use cuda_green_sys::{
    CUdeviceptr, CUmemAllocationType, CUmemLocation, CUmemLocationType, CUmemPool_attribute,
    CUmemPoolProps, CUmemoryPool, CUresult, CUstream, CUstream_flags, CudaVersion,
};

use crate::{
    device::CudaDevice,
    error::{Error, Result},
    sync::Mutex,
};

pub(crate) enum Source {
    StreamOrdered(DriverPool),
    /// `cuMemAlloc` and `cuMemFree`.
    Plain,
}

/// A stream-ordered pool of the driver, and the stream on which it is used.
pub(crate) struct DriverPool {
    pool: CUmemoryPool,
    /// Null before it is created and after it is destroyed.
    stream: CUstream,
    /// Allocations without an owner that the driver refused to free: they are freed with the next ones.
    owed: Mutex<Vec<CUdeviceptr>>,
}

// SAFETY: the handles are opaque tokens that the driver accepts from every thread.
unsafe impl Send for DriverPool {}
// SAFETY: as above; the driver's pool and stream calls are thread-safe.
unsafe impl Sync for DriverPool {}

impl Source {
    /// Creates a pool of the driver, with its own limit as a backstop; a plain source where the driver has no pools.
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
        // SAFETY: the properties not set above are zero; the output is valid.
        match unsafe { driver.cuMemPoolCreate(&mut pool, &properties) } {
            Ok(()) => {}
            // Some devices and platforms have no pools although the driver has the call.
            Err(Error::MissingEntryPoint(_))
            | Err(Error::Driver {
                code: CUresult::CUDA_ERROR_NOT_SUPPORTED,
                ..
            }) => return Ok(Self::Plain),
            Err(error) => return Err(error),
        }
        let mut pool = DriverPool {
            pool,
            stream: std::ptr::null_mut(),
            owed: Mutex::default(),
        };
        match pool.prepare(device) {
            Ok(()) => Ok(Self::StreamOrdered(pool)),
            Err(error) => {
                let of = device.clone();
                device.end("a pool of the driver", move || pool.destroy(&of));
                Err(error)
            }
        }
    }

    /// Allocates, and waits until the memory may be used in every stream.
    pub(crate) fn allocate(&self, device: &CudaDevice, size: usize) -> Result<CUdeviceptr> {
        match self {
            Self::StreamOrdered(pool) => pool.allocate(device, size),
            Self::Plain => allocate_plain(device, size),
        }
    }

    /// Frees what [`Source::allocate`] returned and no stream uses any more.
    pub(crate) fn free(&self, device: &CudaDevice, address: CUdeviceptr) -> Result<()> {
        match self {
            Self::StreamOrdered(pool) => pool.free(device, address),
            Self::Plain => free_plain(device, address),
        }
    }

    /// Waits until freed memory is back in the driver's pool, and makes the pool give back all it can.
    pub(crate) fn trim(&self, device: &CudaDevice) -> Result<()> {
        match self {
            Self::StreamOrdered(pool) => pool.trim(device),
            Self::Plain => Ok(()),
        }
    }

    /// Returns the bytes that the driver counts as allocated from its pool; `None` if there is no pool.
    pub(crate) fn used(&self, device: &CudaDevice) -> Result<Option<u64>> {
        match self {
            Self::StreamOrdered(pool) => pool.used(device).map(Some),
            Self::Plain => Ok(None),
        }
    }

    /// Returns the bytes that are free in the driver's pool, which the device does not count as free.
    pub(crate) fn spare(&self, device: &CudaDevice) -> Result<u64> {
        match self {
            Self::StreamOrdered(pool) => pool.spare(device),
            Self::Plain => Ok(0),
        }
    }

    /// Destroys the driver's pool, from which everything must have been freed. After an error, call it again.
    pub(crate) fn destroy(&mut self, device: &CudaDevice) -> Result<()> {
        match self {
            Self::StreamOrdered(pool) => pool.destroy(device),
            Self::Plain => Ok(()),
        }
    }
}

impl DriverPool {
    /// Makes the pool keep freed memory, and creates the stream that it is used on.
    fn prepare(&mut self, device: &CudaDevice) -> Result<()> {
        let pool = self.pool;
        let driver = device.driver();
        let mut threshold = u64::MAX;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is live, and this attribute is a 64-bit number.
        unsafe {
            driver.cuMemPoolSetAttribute(pool, attribute, std::ptr::from_mut(&mut threshold).cast())
        }?;
        let mut stream = std::ptr::null_mut();
        device.with_primary(|| {
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING.0;
            // SAFETY: the output is valid, and the stream's context is current.
            unsafe { driver.cuStreamCreateWithPriority(&mut stream, flags, 0) }
        })?;
        self.stream = stream;
        Ok(())
    }

    fn allocate(&self, device: &CudaDevice, size: usize) -> Result<CUdeviceptr> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        let mut address = 0;
        // SAFETY: pool and stream are live, the output is valid.
        unsafe { driver.cuMemAllocFromPoolAsync(&mut address, size, self.pool, self.stream) }?;
        // The memory may be used in any stream once this one has reached the allocation.
        if let Err(error) = self.wait(device) {
            if let Err(refusal) = self.free(device, address) {
                log::error!("{size} bytes are to be freed later: {refusal}");
                self.owed.lock().push(address);
            }
            return Err(error);
        }
        Ok(address)
    }

    fn free(&self, device: &CudaDevice, address: CUdeviceptr) -> Result<()> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        // SAFETY: the address is of this pool and has no owner any more. It is freed in the order of the stream that it
        // was allocated in.
        unsafe { driver.cuMemFreeAsync(address, self.stream) }
    }

    /// Frees what the driver refused to free before.
    fn free_owed(&self, device: &CudaDevice) -> Result<()> {
        let mut owed = self.owed.lock();
        while let Some(address) = owed.last() {
            self.free(device, *address)?;
            owed.pop();
        }
        Ok(())
    }

    fn wait(&self, device: &CudaDevice) -> Result<()> {
        let driver = device.driver();
        // SAFETY: the stream is live.
        unsafe { driver.cuStreamSynchronize(self.stream) }
    }

    fn trim(&self, device: &CudaDevice) -> Result<()> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        self.free_owed(device)?;
        self.wait(device)?;
        // SAFETY: the pool is live.
        unsafe { driver.cuMemPoolTrimTo(self.pool, 0) }
    }

    fn used(&self, device: &CudaDevice) -> Result<u64> {
        self.figure(
            device,
            CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
        )
    }

    fn spare(&self, device: &CudaDevice) -> Result<u64> {
        let reserved = self.figure(
            device,
            CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT,
        )?;
        Ok(reserved.saturating_sub(self.used(device)?))
    }

    /// Returns an attribute of the pool that is a number of bytes.
    fn figure(&self, device: &CudaDevice, which: CUmemPool_attribute) -> Result<u64> {
        let mut bytes = 0u64;
        let _allowed = device.driver().beside_captures();
        // SAFETY: the pool is live, and this attribute is a 64-bit number.
        unsafe {
            device.driver().cuMemPoolGetAttribute(
                self.pool,
                which,
                std::ptr::from_mut(&mut bytes).cast(),
            )
        }?;
        Ok(bytes)
    }

    fn destroy(&mut self, device: &CudaDevice) -> Result<()> {
        let driver = device.driver();
        let _allowed = driver.beside_captures();
        if !self.stream.is_null() {
            self.free_owed(device)?;
            // Frees that are still queued must have run before the stream goes, or the pool would keep their memory.
            self.wait(device)?;
            // SAFETY: the stream is live, and this is its end.
            unsafe { driver.cuStreamDestroy_v2(self.stream) }?;
            self.stream = std::ptr::null_mut();
        }
        // SAFETY: the pool is live, and all that came from it was freed before; this is its end, which is not tried
        // again after it succeeded.
        unsafe { driver.cuMemPoolDestroy(self.pool) }
    }
}

/// Allocates outside every pool of the driver.
pub(crate) fn allocate_plain(device: &CudaDevice, size: usize) -> Result<CUdeviceptr> {
    let mut address = 0;
    let _allowed = device.driver().beside_captures();
    device.with_primary(|| {
        // SAFETY: the output is valid, and a context of the device is current.
        unsafe { device.driver().cuMemAlloc_v2(&mut address, size) }
    })?;
    Ok(address)
}

/// Frees what [`allocate_plain`] returned.
pub(crate) fn free_plain(device: &CudaDevice, address: CUdeviceptr) -> Result<()> {
    let _allowed = device.driver().beside_captures();
    // SAFETY: the address is of `cuMemAlloc`, and its only owner gives it up. No context needs to be current for this
    // (measured on an H200, driver 580).
    unsafe { device.driver().cuMemFree_v2(address) }
}

/// Returns the driver's own limit for a pool, a backstop behind our exact one; 0 is none.
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
