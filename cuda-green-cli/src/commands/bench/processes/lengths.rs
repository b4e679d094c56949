//! How often and for how long everything is measured.

use std::time::Duration;

pub struct Lengths {
    /// Rounds over all placements.
    pub repeats: usize,
    /// No further round begins that would end later.
    pub budget: Duration,
    /// The most requests of one placement in a round, and the longest time.
    pub requests: usize,
    pub request_time: Duration,
    /// The time in which a flood reaches its pace and the GPU its clock.
    pub settle: Duration,
    /// The time in which a flood's pace alone is measured.
    pub alone: Duration,
    pub joins: usize,
    /// An even number, after which the plan is as it was.
    pub changes: usize,
}

impl Lengths {
    pub fn real() -> Self {
        Self {
            repeats: 5,
            budget: Duration::from_secs(130),
            requests: 1_000,
            request_time: Duration::from_millis(400),
            settle: Duration::from_millis(100),
            alone: Duration::from_millis(250),
            joins: 20,
            changes: 20,
        }
    }

    pub fn quick() -> Self {
        Self {
            repeats: 2,
            budget: Duration::from_secs(60),
            requests: 5,
            request_time: Duration::from_millis(50),
            settle: Duration::from_millis(5),
            alone: Duration::from_millis(10),
            joins: 3,
            changes: 2,
        }
    }
}
