//! Precisions: the choice for a device, factors, names, and conversion with its checks.

use cuda_green::Driver;
use cuda_green_embed::{
    Converted, Error,
    InferencePrecision::{self, BF16, FP16, FP32, INT8},
    PrecisionConvert,
};
use half::{bf16, f16};
use proptest::prelude::*;

#[test]
fn ampere_and_later_get_f16_and_earlier_devices_are_told_why_not() {
    for (profile, precision) in [
        ("sim:a100@12.8", FP16),
        ("sim:h200@13.0", FP16),
        ("sim:t4@12.8", FP32),
    ] {
        let driver = Driver::open(&profile.parse().unwrap()).unwrap();
        let device = driver.device(0).unwrap();
        let choice = InferencePrecision::detect_optimal(&device);
        assert_eq!(choice.precision, precision, "{profile}");
        assert!(
            choice.reason.contains(device.name()),
            "the device: {choice}"
        );
        let (major, minor) = device.properties().compute_capability;
        assert!(
            choice.reason.contains(&format!("{major}.{minor}")),
            "its capability: {choice}"
        );
        assert_eq!(
            choice.reason.contains("in no precision"),
            precision == FP32,
            "{choice}"
        );
    }
}

#[test]
fn the_memory_factor_is_that_of_the_bytes() {
    for precision in InferencePrecision::ALL {
        assert_eq!(precision.memory_factor() * 4.0, precision.bytes() as f32);
        assert!(precision.speedup_factor() >= 1.0);
    }
    assert!(INT8.speedup_factor() > FP16.speedup_factor());
}

#[test]
fn int8_is_refused_with_the_reason() {
    let supported: Vec<_> = InferencePrecision::ALL
        .into_iter()
        .filter(|precision| precision.is_supported())
        .collect();
    assert_eq!(supported, [FP32, FP16, BF16]);
    for error in [
        INT8.ensure_supported().unwrap_err(),
        [1.0f32].to_precision(INT8).unwrap_err(),
    ] {
        let Error::UnsupportedPrecision { precision, reason } = &error else {
            panic!("{error}");
        };
        assert_eq!(*precision, "int8");
        assert!(reason.contains("accuracy"), "{reason}");
        assert!(error.to_string().contains("use f32, f16 or bf16"));
    }
}

#[test]
fn names_parse_in_either_case() {
    for precision in InferencePrecision::ALL {
        assert_eq!(
            precision.to_string().parse::<InferencePrecision>().unwrap(),
            precision
        );
        let upper = format!("{precision:?}");
        assert_eq!(upper.parse::<InferencePrecision>().unwrap(), precision);
    }
    assert_eq!(format!("{FP16:>5}|{BF16:<5}|"), "  f16|bf16 |");
    let error = "fp8".parse::<InferencePrecision>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`fp8` is no precision; use f32, f16, bf16 or int8"
    );
}

#[test]
fn half_precisions_take_half_the_bytes() {
    let values = [0.0f32, -1.5, 65504.0, 6e-8];
    let whole = values.to_precision(FP32).unwrap();
    assert_eq!(whole.as_bytes().len(), 16);
    for precision in [FP16, BF16] {
        let converted = values.to_precision(precision).unwrap();
        assert_eq!(converted.precision(), precision);
        assert_eq!(converted.as_bytes().len(), 8);
        assert_eq!(converted.len(), 4);
        assert!(!converted.is_empty());
    }
    let Converted::FP16(halves) = values.to_precision(FP16).unwrap() else {
        panic!("another precision");
    };
    assert_eq!(halves[2], f16::MAX);
    assert_eq!(halves[3], f16::from_bits(1), "the smallest subnormal");
}

#[test]
fn the_first_value_out_of_range_is_named() {
    // 65,519 rounds down to the largest value of f16, 65,520 up to infinity.
    assert!([65519.0f32].to_precision(FP16).is_ok());
    let error = [1.0f32, -65520.0, 1e9].to_precision(FP16).unwrap_err();
    assert_eq!(
        error.to_string(),
        "value -65520 at index 1 exceeds the range of f16; use bf16 or f32"
    );
    assert!([-65520.0f32].to_precision(BF16).is_ok());
    let error = [f32::MAX].to_precision(BF16).unwrap_err();
    assert!(
        matches!(
            error,
            Error::OutOfRange {
                index: 0,
                precision: "bf16",
                ..
            }
        ),
        "{error}"
    );
    assert!([f32::MAX].to_precision(FP32).is_ok());
}

#[test]
fn infinities_and_nan_of_the_input_are_named_in_every_precision() {
    for precision in [FP32, FP16, BF16] {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [0.5; 40];
            values[33] = wrong;
            let error = values.to_precision(precision).unwrap_err();
            let Error::NotFinite { index, value } = error else {
                panic!("{error}");
            };
            assert_eq!(index, 33);
            assert_eq!(value.to_bits(), wrong.to_bits());
        }
        assert!([0f32; 0].to_precision(precision).unwrap().is_empty());
    }
}

/// Mostly values of f16's range and a little more, and sometimes any bits at all.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        60 => -6.55e4f32..6.55e4,
        40 => -1.0f32..1.0,
        1 => any::<u32>().prop_map(f32::from_bits),
    ]
}

proptest! {
    /// The conversion of a slice, which uses vector instructions, is that of its values one by one.
    #[test]
    fn slices_convert_like_single_values(values in prop::collection::vec(value(), 0..70)) {
        let halves: Vec<_> = values.iter().map(|value| f16::from_f32(*value)).collect();
        let uppers: Vec<_> = values.iter().map(|value| bf16::from_f32(*value)).collect();
        let check = |precision, expected: Converted, finite: Vec<bool>| {
            match values.to_precision(precision) {
                Ok(converted) => {
                    prop_assert_eq!(&converted, &expected);
                    prop_assert!(finite.iter().all(|finite| *finite));
                    prop_assert_eq!(converted.to_f32(), expected.to_f32());
                }
                Err(Error::OutOfRange { index, value, .. }) => {
                    prop_assert_eq!(finite.iter().position(|finite| !finite), Some(index));
                    prop_assert!(value.is_finite());
                }
                Err(Error::NotFinite { index, value }) => {
                    prop_assert_eq!(finite.iter().position(|finite| !finite), Some(index));
                    prop_assert!(!value.is_finite());
                }
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            Ok(())
        };
        let finite = halves.iter().map(|half| half.is_finite()).collect();
        check(FP16, halves.into(), finite)?;
        let finite = uppers.iter().map(|upper| upper.is_finite()).collect();
        check(BF16, uppers.into(), finite)?;
        let finite = values.iter().map(|value| value.is_finite()).collect();
        check(FP32, values.clone().into(), finite)?;
    }
}
