//! Buffers: memory of a pool, freed when they are dropped.

use std::{ffi::c_void, fmt};

use cuda_green_sys::{CUdeviceptr, CUstream};

use super::{
    GpuMemoryPool, PinnedBuffer,
    alloc::{
        allocation::{Allocation, AllocationKind},
        fence::Fences,
    },
};
use crate::{
    driver::Driver,
    error::{Error, Result},
    event::Event,
    stream::Stream,
};

/// Bytes on the device. A buffer keeps its pool alive, and frees its memory when it is dropped.
///
/// Kernels use it through [`GpuBuffer::address`]. Dropping it does not wait for anything. The memory is not reused
/// before all work is done that this crate's own functions put into streams. A kernel must have ended before its
/// buffers are dropped ([`Stream::launch`]), or the buffer must have been fenced on its stream:
/// [`GpuBuffer::fence_on`], [`GpuBuffer::free_on`].
pub struct GpuBuffer {
    pool: GpuMemoryPool,
    address: CUdeviceptr,
    len: usize,
    kind: AllocationKind,
    fences: Fences,
    /// Whether to time its free.
    timed: bool,
    freed: bool,
}

impl GpuBuffer {
    #[inline]
    pub(super) fn new(
        pool: GpuMemoryPool,
        allocation: Allocation,
        len: usize,
        timed: bool,
    ) -> Self {
        Self {
            pool,
            address: allocation.address,
            len,
            kind: allocation.kind,
            fences: Fences::new(allocation.fences),
            timed,
            freed: false,
        }
    }

    /// Returns the device address, as a kernel takes it.
    pub fn address(&self) -> CUdeviceptr {
        self.address
    }

    /// Returns the length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)] // no buffer is empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the pool this buffer was allocated from.
    pub fn pool(&self) -> &GpuMemoryPool {
        &self.pool
    }

    /// Fences the buffer on a stream of this device or another: its memory is not reused before the stream has done the
    /// work that is in it now. Does not wait.
    ///
    /// # Errors
    /// [`Error::Driver`] if the stream can neither be fenced nor waited for instead: the device is lost, and the memory
    /// is never reused. [`Error::InvalidArgument`] for a stream in a capture; [`Error::ForeignDriver`].
    pub fn fence_on(&self, stream: &Stream) -> Result<()> {
        self.pool
            .device()
            .driver()
            .check_own(stream.device().driver())?;
        self.fences.note(stream)
    }

    /// Frees the buffer once the stream has done the work that is in it now. Does not wait. Until then,
    /// [`GpuMemoryPool::allocate_on`] can reuse the memory in the same stream.
    ///
    /// # Errors
    /// [`FreeError`] with the buffer in it, since the stream may still use it; the cases of [`GpuBuffer::fence_on`].
    #[doc(alias = "cuMemFreeAsync")]
    pub fn free_on(self, stream: &Stream) -> Result<(), FreeError> {
        match self.fence_on(stream) {
            Ok(()) => {
                if let Err(error) = self.free() {
                    return Err(FreeError {
                        error,
                        buffer: None,
                    });
                }
                Ok(())
            }
            Err(error) => Err(FreeError {
                error,
                buffer: Some(Box::new(self)),
            }),
        }
    }

    /// Copies from pinned memory to the buffer's start, in a stream, after all earlier uses of both that this crate put
    /// into streams. Does not wait.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`]; [`Error::ForeignDevice`] for a stream of another device;
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
        source.fences().around(stream, || {
            self.fences.around(stream, || {
                // SAFETY: the buffer has room for the source's length, and both are fenced: neither is freed or reused
                // before the stream has done this.
                unsafe {
                    device.driver().cuMemcpyHtoDAsync_v2(
                        self.address,
                        source.as_ptr().cast(),
                        bytes,
                        stream.raw(),
                    )
                }
            })
        })
    }

    /// Copies from the buffer's start to pinned memory, in a stream, after all earlier uses of both that this crate put
    /// into streams. Does not wait.
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
        destination.fences().around(stream, || {
            self.fences.around(stream, || {
                // SAFETY: the buffer has at least the destination's length, and both are fenced.
                unsafe {
                    device.driver().cuMemcpyDtoHAsync_v2(
                        to.cast(),
                        self.address,
                        bytes,
                        stream.raw(),
                    )
                }
            })
        })
    }

    /// Sets every byte, in a stream, after all earlier uses that this crate put into streams. Does not wait.
    ///
    /// # Errors
    /// [`Error::ForeignDevice`], [`Error::Driver`].
    #[doc(alias = "cuMemsetD8Async")]
    pub fn fill_on(&mut self, byte: u8, stream: &Stream) -> Result<()> {
        self.check_device(stream)?;
        let device = self.pool.device();
        self.fences.around(stream, || {
            // SAFETY: the buffer has that length, and is fenced.
            unsafe {
                device
                    .driver()
                    .cuMemsetD8Async(self.address, byte, self.len, stream.raw())
            }
        })
    }

    /// Copies from the host to the buffer's start. When it returns, the bytes are there for every stream.
    ///
    /// Waits only for the work that this crate put into streams for the buffer: the copy runs in a private stream, not
    /// in a default stream.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if the source is longer than the buffer; [`Error::Driver`].
    #[doc(alias = "cuMemcpyHtoD")]
    pub fn copy_from(&self, source: &[u8]) -> Result<()> {
        self.check_len(source.len())?;
        let host = Some(source.as_ptr().cast());
        self.copy(host, |driver, stream| {
            // SAFETY: the buffer has room for the source's length, and the copy is waited for.
            unsafe {
                driver.cuMemcpyHtoDAsync_v2(
                    self.address,
                    source.as_ptr().cast(),
                    source.len(),
                    stream,
                )
            }
        })
    }

    /// Copies from the buffer's start to the host, and waits for the copy and for earlier work as
    /// [`GpuBuffer::copy_from`] does.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if the destination is longer than the buffer; [`Error::Driver`].
    #[doc(alias = "cuMemcpyDtoH")]
    pub fn copy_to(&self, destination: &mut [u8]) -> Result<()> {
        self.check_len(destination.len())?;
        let (pointer, len) = (destination.as_mut_ptr().cast::<c_void>(), destination.len());
        let host = Some(pointer.cast_const());
        self.copy(host, |driver, stream| {
            // SAFETY: the destination has that length, and so has the buffer at least; the copy is waited for.
            unsafe { driver.cuMemcpyDtoHAsync_v2(pointer, self.address, len, stream) }
        })
    }

    /// Sets every byte, and waits for that and for earlier work as [`GpuBuffer::copy_from`] does.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemsetD8")]
    pub fn fill(&self, byte: u8) -> Result<()> {
        self.copy(None, |driver, stream| {
            // SAFETY: the buffer has that length, and is waited for.
            unsafe { driver.cuMemsetD8Async(self.address, byte, self.len, stream) }
        })
    }

    /// Runs a call in a stream that no other thread uses meanwhile, after all known uses of the buffer, and waits for
    /// its end. The host memory that it uses, if any, is no longer in use afterwards, even after an error.
    fn copy(
        &self,
        host: Option<*const c_void>,
        call: impl FnOnce(&Driver, CUstream) -> Result<()>,
    ) -> Result<()> {
        let device = self.pool.device();
        self.fences.wait(device)?;
        device.in_copy_stream(
            host,
            |stream| call(device.driver(), stream),
            |stream| self.fences.add(Event::at_end_of(device, stream).ok()),
        )
    }

    pub(super) fn free(mut self) -> Result<()> {
        self.free_once()
    }

    #[inline]
    fn free_once(&mut self) -> Result<()> {
        self.freed = true;
        let allocation = Allocation {
            address: self.address,
            kind: self.kind,
            fences: self.fences.take(),
        };
        self.pool.free(allocation, self.len, self.timed)
    }

    fn check_device(&self, stream: &Stream) -> Result<()> {
        let device = self.pool.device();
        device.check_own("the stream", stream.device())
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
}

impl Drop for GpuBuffer {
    #[inline]
    fn drop(&mut self) {
        if self.freed {
            return;
        }
        if let Err(error) = self.free_once() {
            log::error!("freeing a buffer of {} bytes: {error}", self.len);
        }
    }
}

/// The error of [`GpuBuffer::free_on`], with the buffer that could not be freed in the stream's order.
///
/// Dropped with the buffer in it, or converted into [`Error`] (`?` does), it keeps the buffer's memory from being
/// reused as long as the pool lives, because it is not known when the stream is done with it.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct FreeError {
    #[source]
    error: Error,
    /// None if the buffer is gone: only freeing its memory failed.
    buffer: Option<Box<GpuBuffer>>,
}

impl FreeError {
    /// Returns the reason why it could not be freed.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the buffer, if there still is one, and the reason why it could not be freed. Dropping the buffer frees
    /// it at once: the stream must be done with it.
    pub fn into_parts(mut self) -> (Option<GpuBuffer>, Error) {
        let buffer = self.buffer.take();
        (buffer.map(|buffer| *buffer), self.take_error())
    }

    fn take_error(&mut self) -> Error {
        std::mem::replace(&mut self.error, Error::EndUnknown)
    }
}

impl Drop for FreeError {
    fn drop(&mut self) {
        if let Some(buffer) = &self.buffer {
            buffer.fences.add(None);
        }
    }
}

impl From<FreeError> for Error {
    fn from(mut refused: FreeError) -> Self {
        refused.take_error()
    }
}

impl fmt::Debug for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
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
