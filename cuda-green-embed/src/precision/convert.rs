//! Conversion of 32-bit floats to a precision, with a check that each value survives it.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::InferencePrecision;
use crate::error::{Error, Result};

/// Values in a precision, in the bytes that the GPU reads.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::upper_case_acronyms)] // The names of `InferencePrecision`.
pub enum Converted {
    /// 32-bit floats.
    FP32(Vec<f32>),
    /// Half precision.
    FP16(Vec<f16>),
    /// The upper halves of 32-bit floats.
    BF16(Vec<bf16>),
}

/// Conversion of values to a precision.
pub trait PrecisionConvert {
    /// Converts each value to the nearest one of the precision, ties to even. The result has
    /// [`bytes`](InferencePrecision::bytes) bytes a value: in FP16 and BF16 half of what the input has.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for the first finite value that would become infinite: from 65,520 on in FP16.
    /// [`Error::NotFinite`] for the first infinity or NaN of the input, in every precision.
    /// [`Error::UnsupportedPrecision`] for INT8.
    fn to_precision(&self, precision: InferencePrecision) -> Result<Converted>;
}

impl PrecisionConvert for [f32] {
    fn to_precision(&self, precision: InferencePrecision) -> Result<Converted> {
        precision.ensure_supported()?;
        // The conversions keep infinities and NaN, so all that is wrong shows in the result, which is the shorter.
        match precision {
            InferencePrecision::FP32 => {
                let finite = self.iter().position(|value| !value.is_finite());
                refuse(self, precision, finite)?;
                Ok(Converted::FP32(self.to_vec()))
            }
            InferencePrecision::FP16 => {
                let mut values = vec![f16::ZERO; self.len()];
                values.convert_from_f32_slice(self);
                refuse(self, precision, values.iter().position(|v| !v.is_finite()))?;
                Ok(Converted::FP16(values))
            }
            InferencePrecision::BF16 => {
                let mut values = vec![bf16::ZERO; self.len()];
                values.convert_from_f32_slice(self);
                refuse(self, precision, values.iter().position(|v| !v.is_finite()))?;
                Ok(Converted::BF16(values))
            }
            InferencePrecision::INT8 => Err(Error::UnsupportedPrecision {
                precision: precision.name(),
                reason: "8-bit integers need a scale for each channel",
            }),
        }
    }
}

/// Makes the error for the value at this index, if there is one.
fn refuse(values: &[f32], precision: InferencePrecision, wrong: Option<usize>) -> Result<()> {
    let Some((index, value)) = wrong.and_then(|index| Some((index, *values.get(index)?))) else {
        return Ok(());
    };
    if value.is_finite() {
        return Err(Error::OutOfRange {
            index,
            value,
            precision: precision.name(),
        });
    }
    Err(Error::NotFinite { index, value })
}

impl Converted {
    /// Returns the precision.
    pub fn precision(&self) -> InferencePrecision {
        match self {
            Self::FP32(_) => InferencePrecision::FP32,
            Self::FP16(_) => InferencePrecision::FP16,
            Self::BF16(_) => InferencePrecision::BF16,
        }
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::FP32(values) => values.len(),
            Self::FP16(values) => values.len(),
            Self::BF16(values) => values.len(),
        }
    }

    /// Returns whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of the values, in the machine's order.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::FP32(values) => bytemuck::cast_slice(values),
            Self::FP16(values) => bytemuck::cast_slice(values),
            Self::BF16(values) => bytemuck::cast_slice(values),
        }
    }

    /// Returns the values as 32-bit floats, which hold each of them exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::FP32(values) => values.clone(),
            Self::FP16(values) => values.to_f32_vec(),
            Self::BF16(values) => values.to_f32_vec(),
        }
    }
}

impl AsRef<[u8]> for Converted {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<Vec<f32>> for Converted {
    fn from(values: Vec<f32>) -> Self {
        Self::FP32(values)
    }
}

impl From<Vec<f16>> for Converted {
    fn from(values: Vec<f16>) -> Self {
        Self::FP16(values)
    }
}

impl From<Vec<bf16>> for Converted {
    fn from(values: Vec<bf16>) -> Self {
        Self::BF16(values)
    }
}
