//! Size classes: sizes are rounded up to them, so that a freed block fits the next request of about its size.
//!
//! There are eight classes to a doubling, so at most an eighth of a block is lost to rounding above 2 KiB. Below, the
//! step is the unit of 256 bytes, the alignment that CUDA promises for every allocation.

/// The alignment of every block, and the size of the smallest.
pub(crate) const UNIT: u64 = 256;

/// Returns the class of a size of at least 1 byte.
#[inline]
pub(crate) fn class_of(size: u64) -> usize {
    let units = size.div_ceil(UNIT);
    if units < 8 {
        return units as usize;
    }
    let shift = units.ilog2() - 3;
    // From 8 to 16 eighths; 16 is the first class of the next doubling, which the sum yields too.
    let eighths = units.div_ceil(1 << shift);
    (u64::from(shift) * 8 + eighths) as usize
}

/// Returns the size of a class's blocks in bytes.
#[inline]
pub(crate) fn class_bytes(class: usize) -> u64 {
    let class = class as u64;
    if class < 8 {
        return class * UNIT;
    }
    let shift = class / 8 - 1;
    ((class % 8 + 8) << shift) * UNIT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_class_holds_its_sizes_and_wastes_little(size in 1u64..1 << 40) {
            let bytes = class_bytes(class_of(size));
            prop_assert!(bytes >= size && bytes.is_multiple_of(UNIT));
            prop_assert!(bytes - size < UNIT.max(size / 8 + 1));
            prop_assert_eq!(class_of(bytes), class_of(size));
            prop_assert_eq!(class_of(bytes + 1), class_of(size) + 1);
        }
    }
}
