//! How full a pool is, in four levels.

/// How full a memory pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryPressure {
    /// Less than 50 % used.
    Low,
    /// From 50 % to less than 80 %.
    Medium,
    /// From 80 % to 95 %.
    High,
    /// More than 95 %.
    Critical,
}

impl MemoryPressure {
    /// The level of so many bytes used of a limit. Exact at the thresholds; a limit of 0 is critical.
    ///
    /// ```
    /// use cuda_green::MemoryPressure;
    ///
    /// assert_eq!(MemoryPressure::of(49, 100), MemoryPressure::Low);
    /// assert_eq!(MemoryPressure::of(50, 100), MemoryPressure::Medium);
    /// assert_eq!(MemoryPressure::of(80, 100), MemoryPressure::High);
    /// assert_eq!(MemoryPressure::of(95, 100), MemoryPressure::High);
    /// assert_eq!(MemoryPressure::of(96, 100), MemoryPressure::Critical);
    /// ```
    pub fn of(used: u64, limit: u64) -> Self {
        let (used, limit) = (u128::from(used) * 100, u128::from(limit));
        if limit == 0 || used > limit * 95 {
            Self::Critical
        } else if used >= limit * 80 {
            Self::High
        } else if used >= limit * 50 {
            Self::Medium
        } else {
            Self::Low
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_exact_up_to_the_largest_numbers() {
        for limit in [100, 1000, 100 << 30, u64::MAX / 100 * 100] {
            let percent = limit / 100;
            assert_eq!(
                MemoryPressure::of(50 * percent - 1, limit),
                MemoryPressure::Low
            );
            assert_eq!(
                MemoryPressure::of(50 * percent, limit),
                MemoryPressure::Medium
            );
            assert_eq!(
                MemoryPressure::of(80 * percent - 1, limit),
                MemoryPressure::Medium
            );
            assert_eq!(
                MemoryPressure::of(80 * percent, limit),
                MemoryPressure::High
            );
            assert_eq!(
                MemoryPressure::of(95 * percent, limit),
                MemoryPressure::High
            );
            assert_eq!(
                MemoryPressure::of(95 * percent + 1, limit),
                MemoryPressure::Critical
            );
        }
        assert_eq!(MemoryPressure::of(0, 0), MemoryPressure::Critical);
    }
}
