//! A tensor of weights.

use std::{fmt, ops::Range, sync::Arc};

use half::{bf16, f16};
use memmap2::Mmap;

/// The type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point with 5 bits of exponent.
    F16,
    /// 16-bit floating point with 8 bits of exponent.
    BF16,
}

impl TensorType {
    /// Returns the number of bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A tensor of weights, in the file's memory. A clone shares it.
#[derive(Clone)]
pub struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: TensorType,
    memory: Memory,
}

#[derive(Clone)]
enum Memory {
    Mapped(Arc<Mmap>, Range<usize>),
    #[cfg(feature = "test-utils")]
    Owned(Arc<[u8]>),
}

impl Tensor {
    /// Makes one from a range of a mapped file, whose length is that of the shape.
    pub(super) fn mapped(
        name: String,
        shape: Vec<usize>,
        dtype: TensorType,
        file: Arc<Mmap>,
        range: Range<usize>,
    ) -> Self {
        Self {
            name,
            shape,
            dtype,
            memory: Memory::Mapped(file, range),
        }
    }

    /// Makes one of `f32` values. The shape says how many: values beyond are dropped, and missing ones are 0.
    #[cfg(feature = "test-utils")]
    pub fn owned(name: String, shape: Vec<usize>, values: &[f32]) -> Self {
        let len = shape.iter().product();
        let values = values.iter().chain(std::iter::repeat(&0.0)).take(len);
        let bytes = values.flat_map(|value| value.to_le_bytes());
        Self {
            name,
            shape,
            dtype: TensorType::F32,
            memory: Memory::Owned(bytes.collect()),
        }
    }

    /// Returns its name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its shape, the outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the type of its values.
    pub fn dtype(&self) -> TensorType {
        self.dtype
    }

    /// Returns the number of its values.
    pub fn len(&self) -> usize {
        self.bytes().len() / self.dtype.bytes()
    }

    /// Returns whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns its values' bytes, row by row, the lowest byte of a value first. They may be at any address.
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(file, range) => file.get(range.clone()).unwrap_or_default(),
            #[cfg(feature = "test-utils")]
            Memory::Owned(bytes) => bytes,
        }
    }

    /// Returns its values, row by row, converted to `f32`, which holds each of the three types exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        let bytes = self.bytes();
        match self.dtype {
            TensorType::F32 => {
                let (values, _) = bytes.as_chunks();
                values.iter().copied().map(f32::from_le_bytes).collect()
            }
            TensorType::F16 => {
                let (values, _) = bytes.as_chunks();
                let values = values.iter().copied().map(f16::from_le_bytes);
                values.map(f16::to_f32).collect()
            }
            TensorType::BF16 => {
                let (values, _) = bytes.as_chunks();
                let values = values.iter().copied().map(bf16::from_le_bytes);
                values.map(bf16::to_f32).collect()
            }
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {:?}", self.name, self.dtype, self.shape)
    }
}
