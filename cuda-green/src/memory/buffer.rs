//! Buffers: memory of a pool, which gets it back when they are dropped.

use std::fmt;

use cuda_green_sys::CUdeviceptr;

use super::GpuMemoryPool;
use crate::{Error, Result};

/// Bytes on the device. Keeps its pool alive, and gives the memory back when dropped.
///
/// Kernels use it through [`GpuBuffer::address`]. Giving it back does not wait for kernels of other
/// streams: whoever launches them promises to keep the buffer until they have ended
/// ([`Stream::launch`](crate::Stream::launch)).
pub struct GpuBuffer {
    pool: GpuMemoryPool,
    address: CUdeviceptr,
    len: usize,
    freed: bool,
}

impl GpuBuffer {
    pub(super) fn new(pool: GpuMemoryPool, address: CUdeviceptr, len: usize) -> Self {
        Self {
            pool,
            address,
            len,
            freed: false,
        }
    }

    /// The device address, as a kernel takes it.
    pub fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// Its length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)] // no buffer is empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// The pool that it is of.
    pub fn pool(&self) -> &GpuMemoryPool {
        &self.pool
    }

    /// Copies from the host, from the buffer's start on, and waits for the end.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] where the source is longer than the buffer; [`Error::Driver`].
    #[doc(alias = "cuMemcpyHtoD")]
    pub fn copy_from(&self, source: &[u8]) -> Result<()> {
        self.check_len(source.len())?;
        self.with_device(|api| {
            // SAFETY: the buffer has room for the source's length.
            ("cuMemcpyHtoD", unsafe {
                api.cuMemcpyHtoD_v2(self.address, source.as_ptr().cast(), source.len())
            })
        })
    }

    /// Copies to the host, from the buffer's start on, and waits for the end.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] where the destination is longer than the buffer; [`Error::Driver`].
    #[doc(alias = "cuMemcpyDtoH")]
    pub fn copy_to(&self, destination: &mut [u8]) -> Result<()> {
        self.check_len(destination.len())?;
        let (pointer, len) = (destination.as_mut_ptr().cast(), destination.len());
        self.with_device(|api| {
            // SAFETY: the destination has that length, and so has the buffer at least.
            ("cuMemcpyDtoH", unsafe {
                api.cuMemcpyDtoH_v2(pointer, self.address, len)
            })
        })
    }

    /// Sets every byte, and waits for the end.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemsetD8")]
    pub fn fill(&self, byte: u8) -> Result<()> {
        self.with_device(|api| {
            // SAFETY: the buffer has that length, and a context is current, whose default stream the
            // null stream is.
            ("cuMemsetD8Async", unsafe {
                api.cuMemsetD8Async(self.address, byte, self.len, std::ptr::null_mut())
            })
        })?;
        self.with_device(|api| {
            // SAFETY: a context is current; its default stream is waited for.
            ("cuStreamSynchronize", unsafe {
                api.cuStreamSynchronize(std::ptr::null_mut())
            })
        })
    }

    pub(super) fn free(mut self) -> Result<()> {
        self.freed = true;
        self.pool.free(self.address, self.len)
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len > self.len {
            return Err(Error::LengthMismatch {
                source_len: len,
                buffer_len: self.len,
            });
        }
        Ok(())
    }

    fn with_device(
        &self,
        call: impl FnOnce(
            &cuda_green_sys::Api,
        ) -> (
            &'static str,
            std::result::Result<cuda_green_sys::CUresult, cuda_green_sys::MissingEntryPoint>,
        ),
    ) -> Result<()> {
        let device = self.pool.device();
        device.with_primary(|| {
            let (name, result) = call(device.driver().api());
            device.driver().check(name, result)
        })
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        if self.freed {
            return;
        }
        if let Err(error) = self.pool.free(self.address, self.len) {
            log::error!("freeing a buffer of {} bytes: {error}", self.len);
        }
    }
}

impl fmt::Debug for GpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuBuffer")
            .field("address", &format_args!("{:#x}", self.address))
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
