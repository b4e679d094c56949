//! The encoder's kernels as PTX, which `cargo xtask kernels` makes from `kernels/bert.cu`.
//!
//! A kernel's name is `cuda_green_`, what it does, and the [suffix](Element::suffix) of its element type.

#[cfg(feature = "test-utils")]
pub(crate) mod host;

use crate::{
    error::{Error, Result},
    precision::InferencePrecision,
};

/// The type of the elements of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F16,
    Bf16,
    F32,
}

impl Element {
    /// Returns the element type of a precision.
    pub(crate) fn of(precision: InferencePrecision) -> Result<Self> {
        match precision {
            InferencePrecision::FP32 => Ok(Self::F32),
            InferencePrecision::FP16 => Ok(Self::F16),
            InferencePrecision::BF16 => Ok(Self::Bf16),
            InferencePrecision::INT8 => Err(Error::UnsupportedPrecision {
                precision: precision.name(),
                reason: "no kernels are compiled for it",
            }),
        }
    }

    /// Returns the end of its kernels' names.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// Returns the end of the names of a precision's kernels.
pub(crate) fn suffix(precision: InferencePrecision) -> Result<&'static str> {
    Ok(Element::of(precision)?.suffix())
}

/// Returns the kernels of a precision as PTX.
///
/// With `programmatic`, they may be launched while the kernel in front of them in the stream still runs, and need
/// compute capability 9.0 and CUDA 11.8. Without, they need compute capability 8.0 and CUDA 11.4.
pub(crate) fn ptx(precision: InferencePrecision, programmatic: bool) -> Result<&'static str> {
    Ok(match (Element::of(precision)?, programmatic) {
        (Element::F16, false) => include_str!("kernels/bert_f16_sm80.ptx"),
        (Element::F16, true) => include_str!("kernels/bert_f16_sm90.ptx"),
        (Element::Bf16, false) => include_str!("kernels/bert_bf16_sm80.ptx"),
        (Element::Bf16, true) => include_str!("kernels/bert_bf16_sm90.ptx"),
        (Element::F32, false) => include_str!("kernels/bert_f32_sm80.ptx"),
        (Element::F32, true) => include_str!("kernels/bert_f32_sm90.ptx"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_has_the_kernels_of_its_name_and_its_version_and_target() {
        for precision in InferencePrecision::ALL {
            for (programmatic, head) in [
                (false, ".version 7.4\n.target sm_80\n"),
                (true, ".version 7.8\n.target sm_90\n"),
            ] {
                let Ok(text) = ptx(precision, programmatic) else {
                    assert!(precision == InferencePrecision::INT8 && suffix(precision).is_err());
                    continue;
                };
                assert!(text.contains(head));
                let suffix = suffix(precision).unwrap();
                let mut names = vec![
                    "embed",
                    "layer_norm",
                    "bias_gelu",
                    "attention_32",
                    "attention_64",
                    "pool",
                ];
                if precision != InferencePrecision::FP32 {
                    names.extend(["linear_2", "linear_3"]);
                }
                for name in &names {
                    let entry = format!(".visible .entry cuda_green_{name}_{suffix}(");
                    assert!(text.contains(&entry), "{entry}");
                }
                assert_eq!(text.matches(".entry").count(), names.len());
            }
        }
    }
}
