//! How long each part of the benchmark takes.

use std::time::Duration;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The extent of a run.
#[derive(Clone, Debug)]
pub struct Lengths {
    /// How often everything is measured, in turn.
    pub repeats: usize,
    /// The time in which a flood reaches its pace.
    pub settle: Duration,
    /// The measurement of a flood's pace alone.
    pub flood_alone: Duration,
    /// The measurement of the requests of one caller.
    pub one_caller: Duration,
    /// The measurement of queries that come after a pause each.
    pub first_queries: Duration,
    /// The measurement of one rate of arrivals.
    pub one_rate: Duration,
    /// The measurement of a lane's capacity.
    pub capacity: Duration,
    /// The capacity that counts at least, in texts a second: a short run has arrivals, however slow the machine is.
    pub least_capacity: f64,
    /// The rates of arrivals beside matrix products and alone, as shares of the capacity of a partition alone. The first is
    /// for placements that cannot keep up with more.
    pub rates: Vec<f64>,
    /// The rate beside the other floods.
    pub other_rate: f64,
}

impl Lengths {
    /// Returns those of a run of about four minutes.
    pub fn real() -> Self {
        Self {
            repeats: 3,
            settle: ms(300),
            flood_alone: ms(500),
            one_caller: ms(1_000),
            first_queries: ms(2_000),
            one_rate: ms(600),
            capacity: ms(1_000),
            least_capacity: 1_000.0,
            rates: vec![0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95],
            other_rate: 0.5,
        }
    }

    /// Returns those of a run that shows only that the benchmark works.
    pub fn quick() -> Self {
        Self {
            repeats: 2,
            settle: ms(2),
            flood_alone: ms(10),
            one_caller: ms(10),
            first_queries: ms(60),
            one_rate: ms(20),
            capacity: ms(20),
            least_capacity: 5_000.0,
            rates: vec![0.2, 0.5],
            other_rate: 0.2,
        }
    }

    /// Returns the time that so many set-ups take: those alone, those beside matrix products, those beside other floods;
    /// so many floods alone; and the elastic lanes. The model's loading, and what waits at the end of a rate, come to that.
    #[cfg(test)]
    fn total(&self, alone: u32, beside_matrix: u32, beside_others: u32, floods: u32) -> Duration {
        let all_rates = self.one_rate * self.rates.len() as u32;
        let once = (alone + beside_matrix) * (self.settle + self.one_caller + all_rates)
            + beside_others * (self.settle + self.one_caller + self.one_rate)
            + floods * (self.settle + self.flood_alone)
            + 2 * self.settle
            + self.flood_alone
            + self.first_queries
            + self.one_caller;
        once * self.repeats as u32 + 2 * self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::service::{floods::FloodKind, placements::Placement};

    #[test]
    fn a_run_is_over_in_five_minutes() {
        let [alone, placements] = [Placement::ALONE.len(), Placement::BESIDE.len()];
        let others = FloodKind::ALL.len() - 1;
        let total = |lengths: Lengths| {
            lengths.total(
                alone as u32,
                placements as u32,
                (placements * others) as u32,
                2 * FloodKind::ALL.len() as u32,
            )
        };
        let real = total(Lengths::real());
        // A minute is left for loading, and for what still waits when a rate ends.
        assert!(real <= Duration::from_secs(240), "{real:?}");
        let quick = total(Lengths::quick());
        assert!(quick <= Duration::from_secs(5), "{quick:?}");
    }
}
