//! Pressure: how full a limit is, in four levels, and the callbacks that hear of a change of level.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::sync::native::{Mutex, MutexGuard};

/// Use must fall this part of the limit below a threshold before the level counts as left.
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
    /// Returns the level of `used` bytes of a limit. Exact at the thresholds; a limit of 0 is critical.
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

/// A change of a limit's level of pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PressureChange {
    /// The level before.
    pub from: MemoryPressure,
    /// The level now.
    pub to: MemoryPressure,
    /// Bytes in use, including the credit that threads keep; of a device, all bytes that are not free.
    pub used: u64,
    /// The limit in bytes; of a device, the size of its memory.
    pub limit: u64,
}

pub(crate) type Watcher = Arc<dyn Fn(PressureChange) + Send + Sync>;

/// Callbacks to be called once no lock is held.
#[must_use]
#[derive(Default)]
pub(crate) struct DueCalls(Vec<Arc<Outbox>>);

impl DueCalls {
    /// Calls them. The caller must hold no lock.
    pub(crate) fn call(self) {
        for outbox in self.0 {
            outbox.deliver();
        }
    }
}

/// A queue of calls to one gauge's watchers, in the order of the changes.
///
/// One thread at a time makes the calls. A thread that changes the level meanwhile leaves its call to that thread: if
/// each made its own call, a watcher could hear of the last change first and keep a stale level. No lock is held during
/// a call, so a watcher may change the level itself.
#[derive(Default)]
pub(crate) struct Outbox(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    due: VecDeque<(Watcher, PressureChange)>,
    /// Whether a thread is making the calls.
    in_delivery: bool,
}

impl Outbox {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock()
    }

    /// Makes all calls that are due, unless another thread is making them. A panic of a watcher is caught: this thread
    /// has charged or refunded bytes and must still return to its own caller.
    fn deliver(&self) {
        if std::mem::replace(&mut self.calls().in_delivery, true) {
            return;
        }
        loop {
            let next = {
                let mut calls = self.calls();
                let next = calls.due.pop_front();
                calls.in_delivery = next.is_some();
                next
            };
            let Some((watcher, change)) = next else {
                return;
            };
            if catch_unwind(AssertUnwindSafe(|| watcher(change))).is_err() {
                log::error!("a pressure callback panicked, called with {change:?}");
            }
        }
    }
}

/// The level last reported, and the watchers to report to. The level rises at its threshold and falls when use is a
/// fiftieth of the limit below it, so that use that hovers around a threshold is not reported each time.
pub(crate) struct PressureGauge {
    reported: MemoryPressure,
    watchers: Vec<Watcher>,
    outbox: Arc<Outbox>,
}

impl PressureGauge {
    pub(crate) fn new(used: u64, limit: u64) -> Self {
        Self {
            reported: MemoryPressure::of(used, limit),
            watchers: Vec::new(),
            outbox: Arc::default(),
        }
    }

    pub(crate) fn watch(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
    }

    /// Follows a change of use, and queues a call to each watcher if the level changed.
    pub(crate) fn follow(&mut self, used: u64, limit: u64, due: &mut DueCalls) {
        let with_margin = used.saturating_add(limit / HYSTERESIS_SHARE);
        let risen = self.reported.max(MemoryPressure::of(used, limit));
        let now = risen.min(MemoryPressure::of(with_margin, limit));
        if now == self.reported {
            return;
        }
        let change = PressureChange {
            from: std::mem::replace(&mut self.reported, now),
            to: now,
            used,
            limit,
        };
        if self.watchers.is_empty() {
            return;
        }
        let calls = self
            .watchers
            .iter()
            .map(|watcher| (watcher.clone(), change));
        // The caller holds the lock on the level, so the calls are queued in the order of the changes.
        self.outbox.calls().due.extend(calls);
        due.0.push(Arc::clone(&self.outbox));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

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

    /// The first change is reported while the second happens on another thread, and the second is reported after it.
    #[test]
    fn changes_are_reported_in_order() {
        let (reported, entered) = (Mutex::new(Vec::new()), Arc::new(Barrier::new(2)));
        let reported = Arc::new(reported);
        let gauge = Arc::new(Mutex::new(PressureGauge::new(0, 100)));
        let watcher = {
            let (reported, entered) = (Arc::clone(&reported), Arc::clone(&entered));
            move |change: PressureChange| {
                if change.to == Medium {
                    entered.wait(); // the second change happens now
                    entered.wait(); // and its thread has gone on
                }
                reported.lock().push(change.to);
            }
        };
        gauge.lock().watch(Arc::new(watcher));
        let follow = |used| {
            let mut due = DueCalls::default();
            gauge.lock().follow(used, 100, &mut due);
            due.call();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| follow(60));
            entered.wait();
            follow(10); // leaves the call to the other thread, and does not wait for it
            entered.wait();
        });
        assert_eq!(*reported.lock(), [Medium, Low]);
    }

    /// From every use to every other, of a thousand: reported at 500, 800 and 951 on the way up and at 479, 779 and 930
    /// on the way down, and at no other.
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
                let mut gauge = PressureGauge::new(from, 1000);
                gauge.watch(Arc::new(|_| ()));
                let mut due = DueCalls::default();
                gauge.follow(to, 1000, &mut due);
                let calls = gauge.outbox.calls();
                assert_eq!(due.0.len(), calls.due.len());
                let reported = calls.due.front();
                let reported = reported.map(|(_, change)| (change.from, change.to));
                let expected = if to > from {
                    up(to)
                } else {
                    up(from).min(down(to))
                };
                let expected = (expected != up(from)).then_some((up(from), expected));
                assert_eq!(reported, expected, "{from} to {to}");
            }
        }
    }
}
