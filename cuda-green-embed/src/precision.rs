//! Precisions of weights and activations: which one a device should use, and conversion to it.

mod convert;

use std::{fmt, str::FromStr};

pub use convert::{Converted, PrecisionConvert};
use cuda_green::CudaDevice;

use crate::error::{Error, Result};

/// The compute capability that the crate's kernels need.
const REQUIRED_CAPABILITY: (u32, u32) = (8, 0);

/// The type of weights and activations on the GPU. Sums, norms and vectors are in 32 bits in all of them.
///
/// ```
/// use cuda_green_embed::{InferencePrecision, PrecisionConvert};
///
/// let precision: InferencePrecision = "f16".parse()?;
/// let weights = [0.5, -1.25, 65504.0].to_precision(precision)?;
/// assert_eq!(weights.as_bytes().len(), 6);
/// assert!([65536.0].to_precision(precision).is_err());
/// # Ok::<(), cuda_green_embed::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::upper_case_acronyms)] // The names that the field uses.
pub enum InferencePrecision {
    /// 32-bit floats.
    FP32,
    /// IEEE 754 half precision: 10 bits of mantissa, values up to 65,504.
    FP16,
    /// The upper half of a 32-bit float: 7 bits of mantissa, the range of 32-bit floats.
    BF16,
    /// 8-bit integers with a scale for each channel. No encoder takes it: see
    /// [`ensure_supported`](InferencePrecision::ensure_supported).
    INT8,
}

/// A device's best precision, and why it is that.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrecisionChoice {
    /// The precision.
    pub precision: InferencePrecision,
    /// The reason, in a sentence.
    pub reason: String,
}

impl InferencePrecision {
    /// All precisions, from the widest.
    pub const ALL: [Self; 4] = [Self::FP32, Self::FP16, Self::BF16, Self::INT8];

    /// Returns the name: `f32`, `f16`, `bf16`, `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::FP32 => "f32",
            Self::FP16 => "f16",
            Self::BF16 => "bf16",
            Self::INT8 => "int8",
        }
    }

    /// Returns the number of bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::FP32 => 4,
            Self::FP16 | Self::BF16 => 2,
            Self::INT8 => 1,
        }
    }

    /// Returns the memory of weights and activations as a share of what they need in FP32.
    pub fn memory_factor(self) -> f32 {
        self.bytes() as f32 / 4.0
    }

    /// Returns the highest speed that the hardware allows, as a multiple of FP32's.
    ///
    /// This is the ratio of the dense tensor-core peaks in NVIDIA's data sheets, with TF32 for FP32. For A100: 156, 312,
    /// 312 TFLOP/s and 624 TOP/s; the ratios of H100 and H200 are the same. It is a bound and no promise: small batches
    /// are bound by launches and memory and gain less. FP32 that must not round to TF32 does not run on tensor cores and
    /// is slower than this scale's 1.
    pub fn speedup_factor(self) -> f32 {
        match self {
            Self::FP32 => 1.0,
            Self::FP16 | Self::BF16 => 2.0,
            Self::INT8 => 4.0,
        }
    }

    /// Returns whether the crate's encoders run in this precision.
    pub fn is_supported(self) -> bool {
        self.ensure_supported().is_ok()
    }

    /// Ensures that the crate's encoders run in this precision.
    ///
    /// # Errors
    /// [`Error::UnsupportedPrecision`] for INT8, with the reason.
    pub fn ensure_supported(self) -> Result<()> {
        match self {
            Self::FP32 | Self::FP16 | Self::BF16 => Ok(()),
            Self::INT8 => Err(Error::UnsupportedPrecision {
                precision: self.name(),
                reason: "its accuracy has not been measured on these models, and at their sizes a pass is bound by \
                         launches and memory rather than by the tensor cores' throughput",
            }),
        }
    }

    /// Returns the best precision for a device, and why.
    ///
    /// From compute capability 8.0 on it is FP16: the tensor cores are as fast in FP16 as in BF16, the mantissa is
    /// eight times as fine, and the states of BERT models stay far below 65,504. Where they do not, encoders return
    /// [`Error::Overflow`] instead of a wrong vector, and BF16 is the choice.
    ///
    /// Below 8.0 it is FP32; the GPU encoder refuses such a device in every precision, as its kernels need 8.0.
    pub fn detect_optimal(device: &CudaDevice) -> PrecisionChoice {
        let properties = device.properties();
        let (major, minor) = properties.compute_capability;
        let name = &properties.name;
        let (needed_major, needed_minor) = REQUIRED_CAPABILITY;
        if (major, minor) < REQUIRED_CAPABILITY {
            return PrecisionChoice {
                precision: Self::FP32,
                reason: format!(
                    "{name} has compute capability {major}.{minor}; the encoder's kernels need \
                     {needed_major}.{needed_minor}, so it runs on this device in no precision"
                ),
            };
        }
        PrecisionChoice {
            precision: Self::FP16,
            reason: format!(
                "{name} (compute capability {major}.{minor}) has tensor cores for f16 and bf16, which are equally fast; \
                 f16 is the more exact, and an overflow of its range is reported"
            ),
        }
    }
}

impl fmt::Display for InferencePrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for PrecisionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.precision, self.reason)
    }
}

impl FromStr for InferencePrecision {
    type Err = Error;

    /// Parses a name in either case: `f32` or `fp32`, `f16` or `fp16`, `bf16`, `int8`.
    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "f32" | "fp32" => Ok(Self::FP32),
            "f16" | "fp16" => Ok(Self::FP16),
            "bf16" => Ok(Self::BF16),
            "int8" => Ok(Self::INT8),
            _ => Err(Error::UnknownPrecision {
                name: name.to_owned(),
            }),
        }
    }
}
