//! Pinned host memory: the GPU copies from and to it without the host waiting.

use std::{fmt, marker::PhantomData, ptr::NonNull};

use bytemuck::Pod;
use cuda_green_sys::CUdeviceptr;

use super::alloc::fence::Fences;
use crate::{
    device::{CudaDevice, retry_ends},
    error::{Error, Result},
    stream::Stream,
};

/// The flag of `cuMemHostAlloc` that makes the memory pinned for every context.
const PORTABLE: u32 = 1;

/// Values in pinned host memory.
///
/// Copies in streams use it without waiting, so access from the host waits for them: [`PinnedBuffer::as_slice`].
pub struct PinnedBuffer<T: Pod> {
    device: CudaDevice,
    start: NonNull<T>,
    len: usize,
    fences: Fences,
    values: PhantomData<T>,
}

// SAFETY: it owns plain memory, like a `Vec<T>`; uses in streams are fenced.
unsafe impl<T: Pod + Send> Send for PinnedBuffer<T> {}
// SAFETY: shared references only read, and copies out of it only read, too.
unsafe impl<T: Pod + Sync> Sync for PinnedBuffer<T> {}

impl<T: Pod> PinnedBuffer<T> {
    /// Allocates `len` values, all zero.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no bytes, too many, or a type aligned to more than a page;
    /// [`Error::Driver`].
    #[doc(alias = "cuMemHostAlloc")]
    pub fn new(device: &CudaDevice, len: usize) -> Result<Self> {
        let invalid = |reason| Error::InvalidArgument {
            name: "len",
            value: format!("{len} of {}", std::any::type_name::<T>()),
            reason,
        };
        let bytes = len
            .checked_mul(size_of::<T>())
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .ok_or_else(|| invalid("more than can be addressed"))?;
        if bytes == 0 {
            return Err(invalid("a buffer has at least one byte"));
        }
        if align_of::<T>() > 4096 {
            return Err(invalid(
                "pinned memory is aligned to a page, and this needs more",
            ));
        }
        let mut pointer = std::ptr::null_mut();
        let _allowed = device.driver().beside_captures();
        retry_ends();
        device.with_primary(|| {
            // SAFETY: the output is valid, and a context is current.
            unsafe {
                device
                    .driver()
                    .cuMemHostAlloc(&mut pointer, bytes, PORTABLE)
            }
        })?;
        let start = NonNull::new(pointer.cast::<T>())
            .filter(|start| start.is_aligned())
            .ok_or_else(|| {
                invalid("the driver returned no memory, or memory that is not aligned")
            })?;
        // SAFETY: this many bytes were just allocated, and nothing else refers to them.
        unsafe { start.as_ptr().cast::<u8>().write_bytes(0, bytes) };
        Ok(Self {
            device: device.clone(),
            start,
            len,
            fences: Fences::default(),
            values: PhantomData,
        })
    }

    /// Returns the number of values; never 0.
    #[allow(clippy::len_without_is_empty)] // no buffer is empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the values, after waiting for every copy that was put into a stream.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn as_slice(&self) -> Result<&[T]> {
        self.fences.wait(&self.device)?;
        // SAFETY: this object owns the memory, which has that length and was written whole when it was allocated; any
        // bytes are a value. No stream writes to it: that takes a mutable reference, and copies begun before were
        // waited for.
        Ok(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }

    /// Returns the values for writing, after waiting for every copy that was put into a stream.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn as_mut_slice(&mut self) -> Result<&mut [T]> {
        self.fences.wait(&self.device)?;
        // SAFETY: as above, and no stream reads it either.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    /// Waits until every copy that was put into a stream is done.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn synchronize(&self) -> Result<()> {
        self.fences.wait(&self.device)
    }

    /// Returns whether every copy that was put into a stream is done, and all work that the memory was
    /// [fenced](Self::fence_on) on. Does not wait.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn is_done(&self) -> Result<bool> {
        self.fences.are_done(&self.device)
    }

    /// Returns the address at which kernels access the memory, over the bus. Accesses of kernels are not fenced:
    /// [`fence_on`](Self::fence_on) does that.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[doc(alias = "cuMemHostGetDevicePointer")]
    pub fn device_address(&self) -> Result<CUdeviceptr> {
        let mut address = 0;
        let start = self.start.as_ptr().cast();
        self.device.with_primary(|| {
            // SAFETY: the memory is pinned and live, and the output valid.
            unsafe {
                self.device
                    .driver()
                    .cuMemHostGetDevicePointer_v2(&mut address, start, 0)
            }
        })?;
        Ok(address)
    }

    /// Fences the memory on a stream of this device or another: accesses from the host, and its end, wait for the work
    /// that is in the stream now. Does not wait.
    ///
    /// # Errors
    /// As [`GpuBuffer::fence_on`](crate::GpuBuffer::fence_on).
    pub fn fence_on(&self, stream: &Stream) -> Result<()> {
        let driver = self.device.driver();
        driver.check_own(stream.device().driver())?;
        self.fences.note(stream)
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    pub(super) fn fences(&self) -> &Fences {
        &self.fences
    }

    /// Returns the host's pointer to the first value, for memory that threads and running kernels share.
    ///
    /// Accesses through it are not fenced. While a kernel may write the memory, access it through atomics or after the
    /// kernel said, by an atomic store, that it is done.
    pub fn as_ptr(&self) -> *const T {
        self.start.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.start.as_ptr()
    }
}

impl<T: Pod> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        let device = self.device.clone();
        let fences = std::mem::take(&mut self.fences);
        let memory = PinnedPointer(self.start.as_ptr().cast());
        let what = format!("{} bytes of pinned memory", self.bytes());
        // Copies still to run would read or write memory of its next owner.
        self.device.end(&what, move || {
            let PinnedPointer(start) = &memory;
            fences.wait(&device)?;
            device.with_primary(|| {
                // SAFETY: the memory is of `cuMemHostAlloc`, and it is freed here, which is not tried again after it
                // succeeded.
                unsafe { device.driver().cuMemFreeHost(*start) }
            })
        });
    }
}

/// Pinned memory whose buffer is gone.
struct PinnedPointer(*mut std::ffi::c_void);

// SAFETY: it has one owner, whatever thread that is on.
unsafe impl Send for PinnedPointer {}

impl<T: Pod> fmt::Debug for PinnedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedBuffer")
            .field("type", &std::any::type_name::<T>())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
