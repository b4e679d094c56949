//! The arrivals of an open loop: a Poisson process, fixed before the first request is sent.

use std::time::Duration;

use fastrand::Rng;

/// The moments at which requests are due, from the start on, in order.
///
/// Users who do not know of each other arrive like this. The schedule does not depend on the answers, so a slow answer
/// delays no later request: with latencies counted from these moments, none is omitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    due: Vec<Duration>,
    length: Duration,
}

impl Schedule {
    /// Draws the arrivals of so many requests a second for a time. The numbers are those of `fastrand` 2 (Wyrand), so the
    /// same seed gives the same arrivals on every machine.
    pub fn poisson(per_second: f64, length: Duration, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let (end, mut now) = (length.as_secs_f64(), 0.0);
        let mut due = Vec::new();
        if per_second.is_finite() && per_second > 0.0 {
            loop {
                // The gap to the next arrival, by the inverse of its distribution; `1 - x` is never 0.
                now += -(1.0 - random.f64()).ln() / per_second;
                if now >= end {
                    break;
                }
                due.push(Duration::from_secs_f64(now));
            }
        }
        Self { due, length }
    }

    /// Returns the time in which they arrive.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Returns the arrivals that one of several senders has, each with its place among all. They take turns, so a burst
    /// is spread over all of them.
    pub fn of_sender(
        &self,
        sender: usize,
        senders: usize,
    ) -> impl Iterator<Item = (usize, Duration)> {
        let all = self.due.iter().copied().enumerate();
        all.skip(sender).step_by(senders.max(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gaps(schedule: &Schedule) -> Vec<f64> {
        let starts = [Duration::ZERO].into_iter().chain(schedule.due.clone());
        let gaps = starts.zip(&schedule.due);
        gaps.map(|(one, next)| (*next - one).as_secs_f64())
            .collect()
    }

    proptest! {
        #[test]
        fn arrivals_come_at_the_rate_in_order_and_in_time(
            rate in 500.0..200_000.0_f64, seed: u64,
        ) {
            let length = Duration::from_secs_f64(20_000.0 / rate);
            let schedule = Schedule::poisson(rate, length, seed);
            // The count of a Poisson process: mean 20,000, deviation 141. Six deviations.
            let count = schedule.due.len() as f64;
            prop_assert!((count - 20_000.0).abs() < 6.0 * 141.5, "{}", count);
            prop_assert!(schedule.due.is_sorted());
            prop_assert!(schedule.due.iter().all(|due| *due < length));
            // The gaps of a Poisson process: their deviation is their mean, and one in e is longer than it.
            let gaps = gaps(&schedule);
            let mean = gaps.iter().sum::<f64>() / count;
            let square = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
            prop_assert!((square.sqrt() / mean - 1.0).abs() < 0.1);
            let longer = gaps.iter().filter(|gap| **gap > mean).count() as f64;
            prop_assert!((longer / count - (-1.0_f64).exp()).abs() < 0.03);
        }

        #[test]
        fn a_seed_gives_the_same_arrivals_and_another_gives_others(seed: u64) {
            let drawn = |seed| Schedule::poisson(1_000.0, Duration::from_millis(200), seed);
            prop_assert_eq!(drawn(seed), drawn(seed));
            prop_assert_ne!(drawn(seed), drawn(seed.wrapping_add(1)));
        }

        #[test]
        fn senders_have_all_arrivals_between_them(senders in 1_usize..9, seed: u64) {
            let schedule = Schedule::poisson(2_000.0, Duration::from_millis(100), seed);
            let mut all: Vec<_> = (0..senders)
                .flat_map(|sender| schedule.of_sender(sender, senders))
                .collect();
            all.sort();
            let expected: Vec<_> = schedule.due.iter().copied().enumerate().collect();
            prop_assert_eq!(all, expected);
        }
    }

    /// Pins the generator: another one would make other schedules for the seeds in `evidence/`.
    #[test]
    fn the_arrivals_of_a_seed_are_known() {
        let schedule = Schedule::poisson(1_000.0, Duration::from_secs(1), 15);
        let first: Vec<_> = schedule.due[..3].iter().map(Duration::as_nanos).collect();
        assert_eq!(
            (schedule.due.len(), first),
            (950, vec![417_520, 914_206, 2_655_814])
        );
    }

    #[test]
    fn no_rate_is_no_arrivals() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                Schedule::poisson(rate, Duration::from_secs(1), 1).due.len(),
                0
            );
        }
    }
}
