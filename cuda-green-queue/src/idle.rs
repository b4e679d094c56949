//! What a polling thread does while it finds nothing: it spins, then pauses, then sleeps.
//!
//! A kernel cannot wake a thread, so a thread that sleeps looks again soon. The state is a pure function of the time
//! without a task; the clock is read only now and then.

use std::time::Duration;

/// How a polling thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleTimes {
    /// Time without a task after which it pauses between two looks.
    pub(crate) pause_after: Duration,
    /// Time without a task after which it sleeps between two looks.
    pub(crate) sleep_after: Duration,
    /// How long it sleeps. The first task after an idle time waits this long at most, and for the thread's waking.
    pub(crate) sleep: Duration,
}

impl Default for IdleTimes {
    fn default() -> Self {
        Self {
            pause_after: Duration::from_millis(2),
            sleep_after: Duration::from_millis(50),
            sleep: Duration::from_micros(80),
        }
    }
}

/// The next step of a thread that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look again at once.
    Spin,
    /// Look again after some tens of nanoseconds, which leave the core's other thread more of it.
    Pause,
    Sleep(Duration),
}

/// Looks between two readings of the clock.
const LOOKS: u32 = 256;

/// The idle time of a polling thread.
#[derive(Debug)]
pub(crate) struct Idle {
    times: IdleTimes,
    /// When the first look after the last task found nothing, by the thread's clock.
    since: Option<Duration>,
    looks: u32,
    step: Step,
}

impl Idle {
    pub(crate) fn new(times: IdleTimes) -> Self {
        Self {
            times,
            since: None,
            looks: 0,
            step: Step::Spin,
        }
    }

    /// Notes that there was a task.
    #[inline]
    pub(crate) fn found(&mut self) {
        self.since = None;
        self.looks = 0;
        self.step = Step::Spin;
    }

    /// Returns the next step after a look that found nothing. `clock` returns the time since some fixed moment.
    #[inline]
    pub(crate) fn next(&mut self, clock: impl FnOnce() -> Duration) -> Step {
        if self.looks > 0 {
            self.looks -= 1;
            return self.step;
        }
        let now = clock();
        let since = *self.since.get_or_insert(now);
        let idle = now.saturating_sub(since);
        self.step = if idle >= self.times.sleep_after {
            Step::Sleep(self.times.sleep)
        } else if idle >= self.times.pause_after {
            Step::Pause
        } else {
            Step::Spin
        };
        // A thread that sleeps needs the clock no more: only a task changes its step.
        self.looks = if matches!(self.step, Step::Sleep(_)) {
            u32::MAX
        } else {
            LOOKS
        };
        self.step
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_spins_then_pauses_then_sleeps_and_starts_over_after_a_task() {
        let times = IdleTimes::default();
        for _ in 0..2 {
            let mut idle = Idle::new(times);
            let mut now = Duration::ZERO;
            let mut steps = Vec::new();
            // A microsecond for each look.
            for _ in 0..60_000 {
                now += Duration::from_micros(1);
                let step = idle.next(|| now);
                if steps.last() != Some(&step) {
                    steps.push(step);
                }
            }
            assert_eq!(steps, [Step::Spin, Step::Pause, Step::Sleep(times.sleep)]);
            idle.found();
            assert_eq!(idle.next(|| now), Step::Spin);
        }
    }

    proptest! {
        /// Whatever the clock does, the step is never ahead of the idle time, and never more than `LOOKS` looks behind.
        #[test]
        fn steps_follow_the_idle_time(looks in prop::collection::vec((any::<bool>(), 0u64..2_000), 1..3_000)) {
            let times = IdleTimes {
                pause_after: Duration::from_micros(200),
                sleep_after: Duration::from_micros(5_000),
                sleep: Duration::from_micros(10),
            };
            let mut idle = Idle::new(times);
            let mut now = 0u64;
            let mut since: Option<u64> = None;
            let mut late = 0;
            for (found, passed) in looks {
                now += passed;
                if found && passed % 50 == 0 {
                    idle.found();
                    since = None;
                    late = 0;
                    continue;
                }
                let empty = Duration::from_micros(now - *since.get_or_insert(now));
                let step = idle.next(|| Duration::from_micros(now));
                let due = if empty >= times.sleep_after { 2 } else { i32::from(empty >= times.pause_after) };
                let at = match step { Step::Spin => 0, Step::Pause => 1, Step::Sleep(_) => 2 };
                prop_assert!(at <= due);
                late = if at < due { late + 1 } else { 0 };
                prop_assert!(late <= LOOKS);
            }
        }
    }
}
