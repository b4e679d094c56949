//! Buffers of values instead of bytes.

use std::{fmt, marker::PhantomData};

use bytemuck::Pod;
use cuda_green_sys::CUdeviceptr;

use super::{GpuBuffer, PinnedBuffer};
use crate::{
    error::{Error, Result},
    stream::Stream,
};

/// Values of one type on the device: a [`GpuBuffer`] whose size and alignment were checked for it.
pub struct TypedBuffer<T> {
    bytes: GpuBuffer,
    values: PhantomData<T>,
}

impl<T: Pod> TypedBuffer<T> {
    pub(super) fn new(bytes: GpuBuffer) -> Result<Self> {
        let invalid = |reason| {
            Err(Error::InvalidArgument {
                name: "T",
                value: std::any::type_name::<T>().into(),
                reason,
            })
        };
        if size_of::<T>() == 0 {
            return invalid("a type without a size");
        }
        if !bytes.address().is_multiple_of(align_of::<T>() as u64) {
            return invalid("aligned to more than the buffer is");
        }
        Ok(Self {
            bytes,
            values: PhantomData,
        })
    }

    /// How many values it has room for; 0 if the buffer was smaller than one.
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }

    /// Whether it has room for none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device address, as a kernel takes it.
    pub fn address(&self) -> CUdeviceptr {
        self.bytes.address()
    }

    /// The bytes of it, for what a typed buffer does not have.
    pub fn bytes(&self) -> &GpuBuffer {
        &self.bytes
    }

    /// The buffer of bytes that it was.
    pub fn into_bytes(self) -> GpuBuffer {
        self.bytes
    }

    /// Copies from the host, from the start on, and waits for the end.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_from`], lengths in bytes.
    pub fn copy_from(&self, source: &[T]) -> Result<()> {
        self.bytes.copy_from(bytemuck::cast_slice(source))
    }

    /// Copies to the host, from the start on, and waits for the end.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_to`], lengths in bytes.
    pub fn copy_to(&self, destination: &mut [T]) -> Result<()> {
        self.bytes.copy_to(bytemuck::cast_slice_mut(destination))
    }

    /// Copies from pinned memory in a stream.
    ///
    /// # Errors
    /// As [`GpuBuffer::copy_from_pinned`], lengths in bytes.
    pub fn copy_from_pinned(&mut self, source: &PinnedBuffer<T>, stream: &Stream) -> Result<()> {
        self.bytes.copy_from_pinned(source, stream)
    }

    /// Copies to pinned memory in a stream.
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
