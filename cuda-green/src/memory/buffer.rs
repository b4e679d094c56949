//! Buffers: memory of a pool, which gets it back when they are dropped.

use std::fmt;

use cuda_green_sys::CUdeviceptr;

use super::{GpuMemoryPool, PinnedBuffer, TypedBuffer, cache::Home, fence::Fences, seat::Taken};
use crate::{Error, Result, Stream};

/// Bytes on the device. Keeps its pool alive, and gives the memory back when dropped.
///
/// Kernels use it through [`GpuBuffer::address`]. Dropping it does not wait for anything. What this crate's
/// own functions put into streams is done before the memory is used again; a kernel must have ended before
/// its buffers are dropped ([`Stream::launch`]), or the buffer must have been told of its stream:
/// [`GpuBuffer::fence_on`], [`GpuBuffer::free_on`].
pub struct GpuBuffer {
    pool: GpuMemoryPool,
    address: CUdeviceptr,
    len: usize,
    home: Home,
    fences: Fences,
    /// Whether its end is to be timed.
    timed: bool,
    freed: bool,
}

impl GpuBuffer {
    #[inline]
    pub(super) fn new(pool: GpuMemoryPool, taken: Taken, len: usize, timed: bool) -> Self {
        Self {
            pool,
            address: taken.address,
            len,
            home: taken.home,
            fences: Fences::of(taken.fences),
            timed,
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

    /// The same memory as values of a type; what does not fill one at the end is left unused.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a type without a size, or aligned to more than the buffer is.
    pub fn typed<T: bytemuck::Pod>(self) -> Result<TypedBuffer<T>> {
        TypedBuffer::new(self)
    }

    /// Tells the buffer of a stream that uses it: its memory is not used again before the stream has done
    /// the work that is in it now. Does not wait.
    ///
    /// # Errors
    /// [`Error::Driver`] where the stream can neither be fenced nor waited for instead: the device is lost.
    /// [`Error::ForeignStream`] for a stream of another device, [`Error::InvalidArgument`] for one in a capture.
    pub fn fence_on(&self, stream: &Stream) -> Result<()> {
        self.check_device(stream)?;
        self.fences.note(self.pool.device(), stream)
    }

    /// Frees the buffer once the stream has done the work that is in it now. Does not wait. Until then, the
    /// memory can be had by [`GpuMemoryPool::allocate_on`] for the same stream.
    ///
    /// # Errors
    /// As [`GpuBuffer::fence_on`]; the buffer is freed at once then.
    #[doc(alias = "cuMemFreeAsync")]
    pub fn free_on(self, stream: &Stream) -> Result<()> {
        self.fence_on(stream)?;
        self.free()
    }

    /// Copies from pinned memory, from the buffer's start on, in a stream, after all earlier uses of both
    /// that this crate put into streams. Does not wait.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`]; [`Error::ForeignStream`] for a stream of another device;
    /// [`Error::Driver`].
    #[doc(alias = "cuMemcpyHtoDAsync")]
    pub fn copy_from_pinned<T: bytemuck::Pod>(
        &mut self,
        source: &PinnedBuffer<T>,
        stream: &Stream,
    ) -> Result<()> {
        let bytes = source.bytes();
        self.check_len(bytes)?;
        self.check_device(stream)?;
        let device = self.pool.device();
        source.fences().around(device, stream, || {
            self.fences.around(device, stream, || {
                // SAFETY: the buffer has room for the source's length, and both are fenced: neither is
                // freed or used anew before the stream has done this.
                let result = unsafe {
                    device.driver().api().cuMemcpyHtoDAsync_v2(
                        self.address,
                        source.as_ptr().cast(),
                        bytes,
                        stream.raw(),
                    )
                };
                device.driver().check("cuMemcpyHtoDAsync", result)
            })
        })
    }

    /// Copies to pinned memory, from the buffer's start on, in a stream, likewise.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_from_pinned`].
    #[doc(alias = "cuMemcpyDtoHAsync")]
    pub fn copy_to_pinned<T: bytemuck::Pod>(
        &self,
        destination: &mut PinnedBuffer<T>,
        stream: &Stream,
    ) -> Result<()> {
        let bytes = destination.bytes();
        self.check_len(bytes)?;
        self.check_device(stream)?;
        let device = self.pool.device();
        let to = destination.as_mut_ptr();
        destination.fences().around(device, stream, || {
            self.fences.around(device, stream, || {
                // SAFETY: the buffer has at least the destination's length, and both are fenced.
                let result = unsafe {
                    device.driver().api().cuMemcpyDtoHAsync_v2(
                        to.cast(),
                        self.address,
                        bytes,
                        stream.raw(),
                    )
                };
                device.driver().check("cuMemcpyDtoHAsync", result)
            })
        })
    }

    /// Sets every byte in a stream, likewise.
    ///
    /// # Errors
    /// [`Error::ForeignStream`], [`Error::Driver`].
    #[doc(alias = "cuMemsetD8Async")]
    pub fn fill_on(&mut self, byte: u8, stream: &Stream) -> Result<()> {
        self.check_device(stream)?;
        let device = self.pool.device();
        self.fences.around(device, stream, || {
            // SAFETY: the buffer has that length, and is fenced.
            let result = unsafe {
                device
                    .driver()
                    .api()
                    .cuMemsetD8Async(self.address, byte, self.len, stream.raw())
            };
            device.driver().check("cuMemsetD8Async", result)
        })
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
        self.give_back()
    }

    #[inline]
    fn give_back(&mut self) -> Result<()> {
        self.freed = true;
        let taken = Taken {
            address: self.address,
            home: self.home,
            fences: self.fences.take(),
        };
        self.pool.free(taken, self.len, self.timed)
    }

    fn check_device(&self, stream: &Stream) -> Result<()> {
        if self.pool.device() == stream.device() {
            Ok(())
        } else {
            Err(Error::ForeignStream)
        }
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
        // These run in the default stream, which the others do not wait for.
        self.fences.wait()?;
        let device = self.pool.device();
        device.with_primary(|| {
            let (name, result) = call(device.driver().api());
            device.driver().check(name, result)
        })
    }
}

impl Drop for GpuBuffer {
    #[inline]
    fn drop(&mut self) {
        if self.freed {
            return;
        }
        if let Err(error) = self.give_back() {
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
