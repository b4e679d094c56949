//! The answers of a run: how many came, how late, and how many were refused.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(60);
/// The significant figures of a latency.
const FIGURES: u8 = 3;

/// Times in nanoseconds.
pub type Times = Histogram<u64>;

/// Returns a histogram without times.
pub fn times() -> anyhow::Result<Times> {
    Ok(Times::new_with_bounds(
        1,
        LONGEST.as_nanos() as u64,
        FIGURES,
    )?)
}

/// Adds a time.
pub fn record(times: &mut Times, time: Duration) {
    times.saturating_record(time.as_nanos() as u64);
}

/// The answers to the requests of one or several runs.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The latencies of requests that were answered.
    pub answered: Times,
    /// Requests that were refused, as too many waited.
    pub refused: u64,
    /// The time in which the requests were due.
    pub length: Duration,
    /// How much later than due each request was sent.
    pub lateness: Times,
}

impl Outcome {
    pub fn new(length: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            answered: times()?,
            refused: 0,
            length,
            lateness: times()?,
        })
    }

    /// Adds another run's answers, and its time.
    pub fn add_run(&mut self, other: &Self) -> anyhow::Result<()> {
        self.add_answers(other)?;
        self.length += other.length;
        Ok(())
    }

    /// Adds the answers that another thread saw in the same run.
    pub fn add_answers(&mut self, other: &Self) -> anyhow::Result<()> {
        self.answered.add(&other.answered)?;
        self.lateness.add(&other.lateness)?;
        self.refused += other.refused;
        Ok(())
    }

    /// Returns the number of requests.
    pub fn requests(&self) -> u64 {
        self.answered.len() + self.refused
    }

    /// Returns the latency at or below which this share of all requests was answered. A refused request was not, however
    /// long one waits: none is returned where that many were refused, or nothing was asked.
    pub fn at(&self, share: f64) -> Option<Duration> {
        let rank = (self.requests() as f64 * share).ceil().max(1.0) as u64;
        at_rank(&self.answered, rank)
    }

    /// Returns the requests a second that were answered within a time.
    pub fn goodput(&self, within: Duration) -> f64 {
        let seconds = self.length.as_secs_f64();
        if seconds == 0.0 || self.answered.is_empty() {
            return 0.0;
        }
        self.answered.count_between(0, within.as_nanos() as u64) as f64 / seconds
    }
}

/// Returns the time at or below which this share of all lies.
pub fn quantile(times: &Times, share: f64) -> Option<Duration> {
    at_rank(times, (times.len() as f64 * share).ceil().max(1.0) as u64)
}

/// Returns the time with this rank, from 1 on.
fn at_rank(times: &Times, rank: u64) -> Option<Duration> {
    let mut seen = 0;
    for step in times.iter_recorded() {
        seen += step.count_since_last_iteration();
        if seen >= rank {
            let time = step.value_iterated_to().min(times.max());
            return Some(Duration::from_nanos(time));
        }
    }
    None
}

/// Returns the highest rate up to which every rate that was tried kept its p99 within the bound; 0 if none did. A rate
/// above one that did not keep it counts for nothing: that was luck.
pub fn highest_rate_within(bound: Duration, tried: &[(f64, Option<Duration>)]) -> f64 {
    let mut tried = tried.to_vec();
    tried.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let kept = tried
        .iter()
        .take_while(|(_, p99)| p99.is_some_and(|p99| p99 <= bound));
    kept.last().map_or(0.0, |(rate, _)| *rate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(latencies: &[u64], refused: u64, length: Duration) -> Outcome {
        let mut outcome = Outcome::new(length).unwrap();
        for latency in latencies {
            record(&mut outcome.answered, Duration::from_micros(*latency));
        }
        outcome.refused = refused;
        outcome
    }

    /// The rank of a share among all requests, by sorting.
    fn model(latencies: &[u64], refused: u64, share: f64) -> Option<Duration> {
        let mut all: Vec<_> = latencies.iter().copied().map(Some).collect();
        all.sort();
        all.extend((0..refused).map(|_| None));
        let rank = (all.len() as f64 * share).ceil().max(1.0) as usize;
        all.get(rank - 1)
            .copied()
            .flatten()
            .map(Duration::from_micros)
    }

    proptest! {
        #[test]
        fn a_percentile_is_that_of_all_requests(
            latencies in proptest::collection::vec(1_u64..5_000_000, 0..300),
            refused in 0_u64..20,
            share in 0.0..=1.0_f64,
        ) {
            let found = outcome(&latencies, refused, Duration::from_secs(1)).at(share);
            let expected = model(&latencies, refused, share);
            prop_assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(expected)) = (found, expected) {
                let ratio = found.as_secs_f64() / expected.as_secs_f64();
                prop_assert!((0.999..=1.001).contains(&ratio), "{:?} for {:?}", found, expected);
            }
        }

        #[test]
        fn goodput_counts_what_came_in_time(
            early in proptest::collection::vec(1_u64..4_900, 0..100),
            late in proptest::collection::vec(5_100_u64..1_000_000, 0..100),
            refused in 0_u64..20,
            seconds in 1_u64..10,
        ) {
            let all = [&early[..], &late].concat();
            let outcome = outcome(&all, refused, Duration::from_secs(seconds));
            let expected = early.len() as f64 / seconds as f64;
            prop_assert!((outcome.goodput(Duration::from_millis(5)) - expected).abs() < 1e-9);
        }

        #[test]
        fn runs_add_up(
            runs in proptest::collection::vec(
                (proptest::collection::vec(1_u64..1_000_000, 0..50), 0_u64..5), 1..5,
            ),
            share in 0.0..=1.0_f64,
        ) {
            let second = Duration::from_secs(1);
            let mut sum = Outcome::new(Duration::ZERO).unwrap();
            for (latencies, refused) in &runs {
                sum.add_run(&outcome(latencies, *refused, second)).unwrap();
            }
            let latencies: Vec<_> = runs.iter().flat_map(|(latencies, _)| latencies.clone()).collect();
            let refused = runs.iter().map(|(_, refused)| refused).sum();
            let whole = outcome(&latencies, refused, second * runs.len() as u32);
            prop_assert_eq!(sum.at(share), whole.at(share));
            prop_assert_eq!(sum.length, whole.length);
            prop_assert_eq!(sum.requests(), whole.requests());
        }

        #[test]
        fn the_highest_rate_is_tried_holds_and_no_lower_one_fails(
            tried in proptest::collection::vec((1.0..1e5_f64, proptest::option::of(1_u64..20)), 0..12),
        ) {
            let bound = Duration::from_millis(5);
            let tried: Vec<_> = tried
                .into_iter()
                .map(|(rate, p99)| (rate, p99.map(Duration::from_millis)))
                .collect();
            let holds = |p99: Option<Duration>| p99.is_some_and(|p99| p99 <= bound);
            let highest = highest_rate_within(bound, &tried);
            let lower = || tried.iter().filter(|(rate, _)| *rate <= highest);
            prop_assert!(lower().all(|(_, p99)| holds(*p99)));
            prop_assert!(highest == 0.0 || lower().any(|(rate, _)| *rate == highest));
            // The next rate, if there is one, fails.
            let mut higher: Vec<_> = tried.iter().filter(|(rate, _)| *rate > highest).collect();
            higher.sort_by(|one, other| one.0.total_cmp(&other.0));
            prop_assert!(higher.first().is_none_or(|(_, p99)| !holds(*p99)));
        }
    }
}
