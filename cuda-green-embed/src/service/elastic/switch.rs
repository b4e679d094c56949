//! The state machine of the layouts: it calls nobody and reads no clock.
//!
//! ```text
//!             bulk works, no query for `idle_after`
//!   Fixed ───────────────────────────────────────────► Wide
//!     ▲                                                  │ a query comes, or bulk has been idle for `idle_after`
//!     │          no bulk batch is on the way             ▼
//!     └──────────────────────────────────────────── Wide, bulk held
//! ```

use std::time::{Duration, Instant};

/// After a layout could not be changed, the time until the next attempt. It doubles from attempt to attempt.
const RETRY: Duration = Duration::from_millis(100);

/// The most doublings: 100 s or so.
const DOUBLINGS: u32 = 10;

/// The shortest time between two looks at what is going on, where nobody tells.
const LOOK: Duration = Duration::from_millis(1);

/// The longest time without a query that can be asked for: about a year, so that no sum of times overflows.
const LONGEST: Duration = Duration::from_secs(1 << 25);

/// The division of the SMs between the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum LaneLayout {
    /// Each lane has the SMs that it was created with.
    Fixed,
    /// The bulk lane has those of the interactive lane too, but for a few.
    Wide,
}

/// The lanes at one moment, looked at after all that was told before.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Whether a query waits or is on the way.
    pub(super) queries: bool,
    /// Whether bulk work waits or is on the way.
    pub(super) bulk: bool,
    /// The bulk batches on the way, one that is being submitted included.
    pub(super) bulk_batches: usize,
    /// Whether the service is dead.
    pub(super) dead: bool,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look again, since bulk work is held from now on, and before might have gone on.
    Look,
    /// Change the layout, and tell by [`Switch::turned`].
    Turn(LaneLayout),
    /// Wait until a time or an event. A query always is one if [`Switch::query`] says so.
    Wait {
        until: Option<Instant>,
        event: Event,
    },
}

/// Something that the state machine must be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing but queries.
    Query,
    /// Bulk work comes.
    BulkComes,
    /// A bulk batch ends.
    BulkEnds,
}

/// The layout in force, and the events that decide the next.
#[derive(Debug)]
pub(super) struct Switch {
    idle_after: Duration,
    layout: LaneLayout,
    /// The layout that is being put into force.
    turning: Option<LaneLayout>,
    /// Whether bulk work must not be submitted.
    hold: bool,
    last_query: Option<Instant>,
    /// The time since which bulk has had nothing to do.
    bulk_idle_since: Option<Instant>,
    /// The number of attempts that failed since the last that did not, and the time of the next.
    failures: u32,
    retry_at: Option<Instant>,
}

impl Switch {
    pub(super) fn new(idle_after: Duration) -> Self {
        Self {
            idle_after: idle_after.min(LONGEST),
            layout: LaneLayout::Fixed,
            turning: None,
            hold: false,
            last_query: None,
            bulk_idle_since: None,
            failures: 0,
            retry_at: None,
        }
    }

    pub(super) fn layout(&self) -> LaneLayout {
        self.layout
    }

    /// Returns whether bulk work must not be submitted.
    pub(super) fn holds(&self) -> bool {
        self.hold
    }

    /// Notes that a query comes. Returns whether there is something to do now.
    pub(super) fn query(&mut self, now: Instant) -> bool {
        self.last_query = Some(now);
        let wide = self.layout == LaneLayout::Wide || self.turning == Some(LaneLayout::Wide);
        let waits = self.retry_at.is_some_and(|retry| now < retry);
        let acts = wide && !self.hold && !waits;
        self.hold |= acts;
        acts
    }

    /// Returns the next thing to do. Not to be asked while a layout is being put into force.
    pub(super) fn step(&mut self, now: Instant, view: View) -> Step {
        if view.dead || self.turning.is_some() {
            return wait(None, Event::Query);
        }
        match self.layout {
            LaneLayout::Fixed => self.step_fixed(now, view),
            LaneLayout::Wide => self.step_wide(now, view),
        }
    }

    fn step_fixed(&mut self, now: Instant, view: View) -> Step {
        if !view.bulk {
            return wait(None, Event::BulkComes);
        }
        let idle_at = self.last_query.map(|last| last + self.idle_after);
        if let Some(at) = idle_at.max(self.retry_at).filter(|at| now < *at) {
            return wait(Some(at), Event::Query);
        }
        if view.queries {
            return wait(Some(self.next_look(now)), Event::Query);
        }
        self.turn(LaneLayout::Wide)
    }

    fn step_wide(&mut self, now: Instant, view: View) -> Step {
        if self.hold {
            return match view.bulk_batches {
                0 => self.turn(LaneLayout::Fixed),
                _ => wait(None, Event::BulkEnds),
            };
        }
        if let Some(retry) = self.retry_at.filter(|retry| now < *retry) {
            return wait(Some(retry), Event::Query);
        }
        // After a failure, the reason for the attempt still holds.
        let mut leave = self.failures > 0;
        if view.bulk {
            self.bulk_idle_since = None;
        } else if !leave {
            let since = *self.bulk_idle_since.get_or_insert(now);
            let at = since + self.idle_after;
            if now < at {
                return wait(Some(at), Event::Query);
            }
            leave = true;
        }
        if leave {
            self.hold = true;
            return Step::Look;
        }
        wait(Some(self.next_look(now)), Event::Query)
    }

    /// Notes whether the layout was put into force that was asked for. If not, the old one is.
    pub(super) fn turned(&mut self, now: Instant, done: bool) {
        let Some(layout) = self.turning.take() else {
            return;
        };
        self.bulk_idle_since = None;
        if done {
            self.layout = layout;
            self.failures = 0;
            self.retry_at = None;
        } else {
            let pause = RETRY * (1 << self.failures.min(DOUBLINGS));
            self.failures += 1;
            self.retry_at = Some(now + pause);
        }
        // A query may have come while the layout became wide.
        self.hold &= done && layout == LaneLayout::Wide;
    }

    fn turn(&mut self, layout: LaneLayout) -> Step {
        self.turning = Some(layout);
        Step::Turn(layout)
    }

    fn next_look(&self, now: Instant) -> Instant {
        now + self.idle_after.max(LOOK)
    }
}

fn wait(until: Option<Instant>, event: Event) -> Step {
    Step::Wait { until, event }
}

#[cfg(test)]
mod tests;
