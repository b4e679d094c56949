//! What a polling thread does while it finds nothing: it spins, then pauses, then sleeps.
//!
//! A kernel cannot wake a thread, and a timed sleep costs some 5 microseconds of a core for each waking. So a thread that
//! sleeps looks again soon while kernels are at work that may submit, and seldom while none is: whoever launches the next
//! one wakes it. A kernel that has been silent for long is looked after less and less, in proportion to its silence. The
//! step is a pure function of the time without a task and of whether there is work; the clock is read
//! only now and then.

use std::time::Duration;

/// How a polling thread waits for a kernel's next task: the more of a core it may take, the sooner it finds the task.
///
/// The time counts from the last task, or from the last launch through the queue
/// ([`TaskQueue::launch`](crate::TaskQueue::launch), [`TaskQueue::fence_on`](crate::TaskQueue::fence_on)), which also
/// wakes the thread.
///
/// ```
/// use std::time::Duration;
/// use cuda_green_queue::{IdlePolicy, TaskQueue};
///
/// let mut idle = IdlePolicy::default();
/// idle.sleep_after = Duration::from_secs(1); // of a core, for the sake of the latency
/// let builder = TaskQueue::builder().idle(idle);
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdlePolicy {
    /// Time after which it pauses between two looks, 2 ms by default: the core's other hardware thread has more of it
    /// then.
    pub pause_after: Duration,
    /// Time after which it sleeps between two looks, 50 ms by default.
    pub sleep_after: Duration,
    /// How long it sleeps, 60 us by default. A task that comes meanwhile waits for the rest of it, and for the thread's
    /// waking.
    pub sleep: Duration,
    /// Time after which it rests, 100 ms by default, unless there is unfinished work that was launched through the queue
    /// or on which it was fenced. While there is, it sleeps, now for a 256th of the time without a task, from `sleep` to
    /// `rest`: a kernel that was silent for 100 ms waits at most 0.4 ms longer for its next answer, and one that submits
    /// nothing takes less than 2 % of a core.
    pub rest_after: Duration,
    /// How long it rests before it looks for tasks of kernels that were launched behind the queue's back, 2 ms by
    /// default.
    pub rest: Duration,
}

impl IdlePolicy {
    /// Returns the policy of a thread that never sleeps: it takes a core, and every task is found at once.
    pub fn spinning() -> Self {
        Self {
            pause_after: Duration::MAX,
            sleep_after: Duration::MAX,
            ..Self::default()
        }
    }
}

impl IdlePolicy {
    /// Returns how long a thread sleeps after this time without a task, where a kernel may submit at any moment.
    fn sleep_of_busy(&self, idle: Duration) -> Duration {
        if idle < self.rest_after {
            return self.sleep;
        }
        (idle / SILENCE).min(self.rest).max(self.sleep)
    }
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self {
            pause_after: Duration::from_millis(2),
            sleep_after: Duration::from_millis(50),
            sleep: Duration::from_micros(60),
            rest_after: Duration::from_millis(100),
            rest: Duration::from_millis(2),
        }
    }
}

/// The next step of a thread that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look again at once.
    Spin,
    /// Look again after some tens of nanoseconds.
    Pause,
    /// Look again after this time, or when woken.
    Sleep(Duration),
    /// As [`Step::Sleep`]; no kernel is known to be at work.
    Rest(Duration),
}

/// The silence of a kernel, in sleeps of the polling thread.
const SILENCE: u32 = 256;
/// Looks between two readings of the clock.
const LOOKS: u32 = 256;

/// The idle time of a polling thread.
#[derive(Debug)]
pub(crate) struct Idle {
    policy: IdlePolicy,
    /// When the first look after the last task found nothing, by the thread's clock.
    since: Option<Duration>,
    looks: u32,
    step: Step,
}

impl Idle {
    pub(crate) fn new(policy: IdlePolicy) -> Self {
        Self {
            policy,
            since: None,
            looks: 0,
            step: Step::Spin,
        }
    }

    /// Notes that there was a task, or a launch.
    #[inline]
    pub(crate) fn found(&mut self) {
        self.since = None;
        self.looks = 0;
    }

    /// Returns the next step after a look that found nothing. `clock` returns the time since some fixed moment, and
    /// `is_busy` whether a kernel is at work that may submit.
    #[inline]
    pub(crate) fn next(
        &mut self,
        clock: impl FnOnce() -> Duration,
        is_busy: impl FnOnce() -> bool,
    ) -> Step {
        if self.looks > 0 {
            self.looks -= 1;
            return self.step;
        }
        let now = clock();
        let since = *self.since.get_or_insert(now);
        let idle = now.saturating_sub(since);
        let policy = &self.policy;
        // A sleep takes far longer than to read the clock.
        (self.step, self.looks) = if idle >= policy.sleep_after {
            if idle >= policy.rest_after && !is_busy() {
                (Step::Rest(policy.rest), 0)
            } else {
                (Step::Sleep(policy.sleep_of_busy(idle)), 0)
            }
        } else if idle >= policy.pause_after {
            (Step::Pause, LOOKS)
        } else {
            (Step::Spin, LOOKS)
        };
        self.step
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns what a thread does that finds nothing from one time in microseconds to another, looking every microsecond.
    fn steps(idle: &mut Idle, times: std::ops::Range<u64>, busy: bool) -> Vec<Step> {
        let looks = times.map(|now| idle.next(|| Duration::from_micros(now), || busy));
        let mut steps: Vec<Step> = looks.collect();
        steps.dedup();
        steps
    }

    #[test]
    fn it_spins_pauses_sleeps_and_rests_and_starts_over_after_a_task() {
        let policy = IdlePolicy::default();
        let mut idle = Idle::new(policy);
        let (sleep, rest) = (Step::Sleep(policy.sleep), Step::Rest(policy.rest));
        let ms = 1000;
        for busy in [false, true] {
            idle.found();
            let begin = [Step::Spin, Step::Pause, sleep];
            assert_eq!(steps(&mut idle, 0..99 * ms, busy), begin);
            // Work ends, or begins, while it sleeps.
            let longer = Step::Sleep(Duration::from_millis(128) / 256);
            let now = || Duration::from_millis(128);
            assert_eq!(idle.next(now, || false), rest);
            assert_eq!(idle.next(now, || true), longer);
        }
    }

    /// A kernel that runs for long and submits nothing costs less than 2 % of a core, and is not forgotten.
    #[test]
    fn sleeps_beside_a_silent_kernel_become_longer() {
        let policy = IdlePolicy::default();
        let mut idle = Idle::new(policy);
        idle.next(|| Duration::ZERO, || true);
        let mut now = policy.rest_after;
        let (begin, mut wakings) = (now, 0);
        while now < Duration::from_secs(10) {
            idle.looks = 0;
            let Step::Sleep(time) = idle.next(|| now, || true) else {
                panic!("it does not rest");
            };
            assert!(time >= policy.sleep && time <= policy.rest);
            assert!(time <= now / SILENCE || time == policy.sleep);
            now += time;
            wakings += 1;
            // A waking takes some 5 us.
            let spent = Duration::from_micros(5) * wakings;
            assert!(spent * 50 <= now - begin + policy.rest_after, "{now:?}");
        }
    }

    #[test]
    fn one_that_spins_never_sleeps() {
        let mut idle = Idle::new(IdlePolicy::spinning());
        for hours in 0..10_000 {
            let step = idle.next(|| Duration::from_secs(3600 * hours), || false);
            assert_eq!(step, Step::Spin);
        }
    }

    proptest! {
        /// Whatever the clock does, the step is never ahead of the idle time, and never more than `LOOKS` looks behind.
        #[test]
        fn steps_follow_the_idle_time(
            looks in prop::collection::vec((any::<bool>(), any::<bool>(), 0u64..2_000), 1..3_000),
        ) {
            let policy = IdlePolicy {
                pause_after: Duration::from_micros(200),
                sleep_after: Duration::from_micros(5_000),
                sleep: Duration::from_micros(10),
                rest_after: Duration::from_micros(9_000),
                rest: Duration::from_micros(20),
            };
            let mut idle = Idle::new(policy);
            let mut now = 0u64;
            let mut since: Option<u64> = None;
            let mut late = 0;
            for (found, busy, passed) in looks {
                now += passed;
                if found && passed % 50 == 0 {
                    idle.found();
                    since = None;
                    late = 0;
                    continue;
                }
                let empty = Duration::from_micros(now - *since.get_or_insert(now));
                let step = idle.next(|| Duration::from_micros(now), || busy);
                let due = match empty {
                    _ if empty >= policy.rest_after && !busy => 3,
                    _ if empty >= policy.sleep_after => 2,
                    _ => i32::from(empty >= policy.pause_after),
                };
                let at = match step {
                    Step::Spin => 0,
                    Step::Pause => 1,
                    Step::Sleep(_) => 2,
                    Step::Rest(_) => 3,
                };
                prop_assert!(at <= due);
                late = if at < due { late + 1 } else { 0 };
                prop_assert!(late <= LOOKS);
            }
        }
    }
}
