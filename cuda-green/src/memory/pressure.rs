//! How full a pool is, in four levels, and who is told when the level changes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// How far use must fall below a threshold before the level counts as left: this part of the limit.
const HYSTERESIS_SHARE: u64 = 50;

/// How full a memory pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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

/// A limit's level of pressure has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PressureChange {
    /// The level before.
    pub from: MemoryPressure,
    /// The level now.
    pub to: MemoryPressure,
    /// Bytes in use, those that threads have at hand included; of a device, all that is not free.
    pub used: u64,
    /// The limit in bytes; of a device, its memory.
    pub limit: u64,
}

pub(crate) type Watcher = Arc<dyn Fn(PressureChange) + Send + Sync>;

/// Calls that are due once no lock is held.
#[must_use]
#[derive(Default)]
pub(crate) struct Due(Vec<(Watcher, PressureChange)>);

impl Due {
    /// Calls them all. A panic of one goes no further: who calls this has taken or given bytes, and has yet to
    /// say so to its own caller.
    pub(crate) fn call(self) {
        for (watcher, change) in self.0 {
            if catch_unwind(AssertUnwindSafe(|| watcher(change))).is_err() {
                log::error!("a callback panicked that was told of {change:?}");
            }
        }
    }
}

/// The level that was told last, and whom to tell. It rises at its threshold, and falls when use is a
/// fiftieth of the limit below it, so that use that moves about a threshold is not told each time.
pub(crate) struct Gauge {
    told: MemoryPressure,
    watchers: Vec<Watcher>,
}

impl Gauge {
    pub(crate) fn new(used: u64, limit: u64) -> Self {
        Self {
            told: MemoryPressure::of(used, limit),
            watchers: Vec::new(),
        }
    }

    pub(crate) fn watch(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
    }

    /// Use has changed.
    pub(crate) fn follow(&mut self, used: u64, limit: u64, due: &mut Due) {
        let with_margin = used.saturating_add(limit / HYSTERESIS_SHARE);
        let risen = self.told.max(MemoryPressure::of(used, limit));
        let now = risen.min(MemoryPressure::of(with_margin, limit));
        if now == self.told {
            return;
        }
        let change = PressureChange {
            from: std::mem::replace(&mut self.told, now),
            to: now,
            used,
            limit,
        };
        let calls = self
            .watchers
            .iter()
            .map(|watcher| (watcher.clone(), change));
        due.0.extend(calls);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        MemoryPressure::{Critical, High, Low, Medium},
        *,
    };

    #[test]
    fn the_thresholds_are_exact_up_to_the_largest_numbers() {
        for limit in [100, 1000, 100 << 30, u64::MAX / 100 * 100] {
            let percent = limit / 100;
            for (used, level) in [
                (50 * percent - 1, Low),
                (50 * percent, Medium),
                (80 * percent - 1, Medium),
                (80 * percent, High),
                (95 * percent, High),
                (95 * percent + 1, Critical),
            ] {
                assert_eq!(MemoryPressure::of(used, limit), level);
            }
        }
        assert_eq!(MemoryPressure::of(0, 0), Critical);
    }

    /// From every use to every other, of a thousand: told at 500, 800 and 951 on the way up and at 479,
    /// 779 and 930 on the way down, and at no other.
    #[test]
    fn a_gauge_is_exact_at_each_threshold_in_both_directions() {
        let step = if cfg!(miri) { 97 } else { 1 };
        let up = |used: u64| match used {
            ..500 => Low,
            500..800 => Medium,
            800..=950 => High,
            _ => Critical,
        };
        let down = |used: u64| match used {
            ..480 => Low,
            480..780 => Medium,
            780..=930 => High,
            _ => Critical,
        };
        for from in (0..=1000).step_by(step) {
            for to in (0..=1000).step_by(step) {
                let mut gauge = Gauge::new(from, 1000);
                gauge.watch(Arc::new(|_| ()));
                let mut due = Due::default();
                gauge.follow(to, 1000, &mut due);
                let told = due.0.first().map(|(_, change)| (change.from, change.to));
                let expected = if to > from {
                    up(to)
                } else {
                    up(from).min(down(to))
                };
                let expected = (expected != up(from)).then_some((up(from), expected));
                assert_eq!(told, expected, "{from} to {to}");
            }
        }
    }
}
