//! Typed buffers: values instead of bytes.

use std::{fmt, marker::PhantomData};

use bytemuck::Pod;
use cuda_green_sys::CUdeviceptr;

use super::{GpuBuffer, GpuMemoryPool, PinnedBuffer};
use crate::{
    error::{Error, Result},
    stream::Stream,
};

/// Values of one type on the device: a [`GpuBuffer`] whose size and alignment were checked for the type.
pub struct TypedBuffer<T> {
    bytes: GpuBuffer,
    values: PhantomData<T>,
}

impl GpuMemoryPool {
    /// Allocates a buffer of `count` values.
    ///
    /// # Errors
    /// As [`GpuMemoryPool::allocate`]; also [`Error::InvalidArgument`] for a type of size 0 or aligned to
    /// more than 256 bytes.
    pub fn allocate_typed<T: Pod>(&self, count: usize) -> Result<TypedBuffer<T>> {
        let bytes = count.saturating_mul(size_of::<T>());
        self.allocate(bytes)?.typed()
    }
}

impl GpuBuffer {
    /// Converts it into a buffer of values of a type. Bytes at the end that do not fill a value are left unused.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a type of size 0, or aligned to more than the buffer is.
    pub fn typed<T: Pod>(self) -> Result<TypedBuffer<T>> {
        TypedBuffer::new(self)
    }
}

impl<T: Pod> TypedBuffer<T> {
    fn new(bytes: GpuBuffer) -> Result<Self> {
        let invalid = |reason| {
            Err(Error::InvalidArgument {
                name: "T",
                value: std::any::type_name::<T>().into(),
                reason,
            })
        };
        if size_of::<T>() == 0 {
            return invalid("a type of size 0");
        }
        if !bytes.address().is_multiple_of(align_of::<T>() as u64) {
            return invalid("aligned to more than the buffer is");
        }
        Ok(Self {
            bytes,
            values: PhantomData,
        })
    }

    /// Returns the number of values it has room for; 0 if the buffer is smaller than one.
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }

    /// Returns whether it has room for no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the device address, as a kernel takes it.
    pub fn address(&self) -> CUdeviceptr {
        self.bytes.address()
    }

    /// Returns the underlying buffer of bytes, for methods that a typed buffer does not have.
    pub fn bytes(&self) -> &GpuBuffer {
        &self.bytes
    }

    /// Converts it back into the buffer of bytes.
    pub fn into_bytes(self) -> GpuBuffer {
        self.bytes
    }

    /// Copies from the host to the start, and waits for the end.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_from`], lengths in bytes.
    pub fn copy_from(&self, source: &[T]) -> Result<()> {
        self.bytes.copy_from(bytemuck::cast_slice(source))
    }

    /// Copies from the start to the host, and waits for the end.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_to`], lengths in bytes.
    pub fn copy_to(&self, destination: &mut [T]) -> Result<()> {
        self.bytes.copy_to(bytemuck::cast_slice_mut(destination))
    }

    /// Copies from pinned memory, in a stream.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_from_pinned`], lengths in bytes.
    pub fn copy_from_pinned(&mut self, source: &PinnedBuffer<T>, stream: &Stream) -> Result<()> {
        self.bytes.copy_from_pinned(source, stream)
    }

    /// Copies to pinned memory, in a stream.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_to_pinned`], lengths in bytes.
    pub fn copy_to_pinned(&self, destination: &mut PinnedBuffer<T>, stream: &Stream) -> Result<()> {
        self.bytes.copy_to_pinned(destination, stream)
    }
}

impl<T> fmt::Debug for TypedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedBuffer")
            .field("type", &std::any::type_name::<T>())
            .field("bytes", &self.bytes)
            .finish()
    }
}
