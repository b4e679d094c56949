//! The state machine in a world of its own, at random.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{DOUBLINGS, Event, LOOK, LaneLayout, RETRY, Step, Switch, View};

/// The lanes and the thread of the layouts, in a world where each step takes a chosen time.
struct World {
    now: Instant,
    switch: Switch,
    idle_after: Duration,
    queries: usize,
    waiting: usize,
    on_the_way: usize,
    last_query: Option<Instant>,
    /// The layout that is being put into force.
    turning: Option<LaneLayout>,
    /// What the thread waits for; none if it is awake.
    asleep: Option<(Option<Instant>, Event)>,
    /// Whether an attempt has failed since the last one that did not.
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    QueryComes,
    QueryEnds,
    BulkComes,
    BulkStarts,
    BulkEnds,
    Time(u64),
    Turned(bool),
}

impl World {
    fn new(idle_after: Duration) -> Self {
        Self {
            now: Instant::now(),
            switch: Switch::new(idle_after),
            idle_after,
            queries: 0,
            waiting: 0,
            on_the_way: 0,
            last_query: None,
            turning: None,
            asleep: None,
            failed: false,
        }
    }

    fn tell(&mut self, event: Event) {
        self.asleep = self.asleep.filter(|(_, waits)| *waits != event);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::QueryComes => {
                self.queries += 1;
                self.last_query = Some(self.now);
                if self.switch.query(self.now) {
                    self.asleep = None;
                }
            }
            Act::QueryEnds => self.queries = self.queries.saturating_sub(1),
            Act::BulkComes => {
                self.waiting += 1;
                self.tell(Event::BulkComes);
            }
            Act::BulkStarts if self.waiting > 0 && self.on_the_way < 2 && !self.switch.holds() => {
                // Nothing runs in the wide partition while it is taken apart.
                assert_ne!(self.turning, Some(LaneLayout::Fixed));
                self.waiting -= 1;
                self.on_the_way += 1;
            }
            Act::BulkEnds if self.on_the_way > 0 => {
                self.on_the_way -= 1;
                self.tell(Event::BulkEnds);
            }
            Act::Time(micros) => self.now += Duration::from_micros(micros),
            Act::Turned(done) => {
                if self.turning.take().is_some() {
                    self.switch.turned(self.now, done);
                    self.failed = !done;
                    self.asleep = None;
                }
            }
            Act::BulkStarts | Act::BulkEnds => {}
        }
        self.run();
    }

    /// Lets the thread go as far as it comes.
    fn run(&mut self) {
        for _ in 0..10 {
            if self.turning.is_some() {
                return;
            }
            if let Some((until, _)) = self.asleep {
                if until.is_none_or(|until| self.now < until) {
                    return;
                }
                self.asleep = None;
            }
            let view = View {
                queries: self.queries > 0,
                bulk: self.waiting + self.on_the_way > 0,
                bulk_batches: self.on_the_way,
                dead: false,
            };
            match self.switch.step(self.now, view) {
                Step::Look => {}
                Step::Turn(layout) => {
                    assert_ne!(layout, self.switch.layout());
                    match layout {
                        LaneLayout::Fixed => {
                            assert_eq!(self.on_the_way, 0, "the lane has drained");
                            assert!(self.switch.holds());
                        }
                        LaneLayout::Wide => {
                            assert_eq!(self.queries, 0);
                            assert!(self.is_quiet(), "a query came just now");
                            assert!(self.waiting + self.on_the_way > 0);
                        }
                    }
                    self.turning = Some(layout);
                }
                Step::Wait { until, event } => {
                    assert!(
                        until.is_none_or(|until| until > self.now),
                        "it does not spin"
                    );
                    self.asleep = Some((until, event));
                }
            }
        }
        assert!(
            self.turning.is_some() || self.asleep.is_some(),
            "it comes to rest"
        );
    }

    fn is_quiet(&self) -> bool {
        self.last_query
            .is_none_or(|last| last + self.idle_after <= self.now)
    }

    /// Ensures what holds at any moment.
    fn check(&self) {
        let wide = self.switch.layout() == LaneLayout::Wide;
        if wide && !self.is_quiet() && !self.failed {
            assert!(self.switch.holds(), "bulk goes on beside a query");
        }
        if self.switch.holds() {
            // Whoever ends the hold is at work, or waits for a batch that is on the way.
            let drains = self.on_the_way > 0 && self.asleep == Some((None, Event::BulkEnds));
            assert!(self.turning.is_some() || drains, "bulk is held for ever");
        }
    }

    /// Lets everything end that can, and time pass.
    fn settle(&mut self, done: bool) {
        for _ in 0..10_000 {
            self.act(Act::Turned(done));
            self.act(Act::BulkEnds);
            self.check();
            self.act(Act::Time(LOOK.as_micros() as u64));
            if self.on_the_way == 0 && self.turning.is_none() && !self.switch.holds() {
                return;
            }
        }
        panic!("it never settles: {:?}", self.switch);
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let one = prop_oneof![
        2 => Just(Act::QueryComes),
        3 => Just(Act::QueryEnds),
        3 => Just(Act::BulkComes),
        4 => Just(Act::BulkStarts),
        4 => Just(Act::BulkEnds),
        4 => (0u64..4000).prop_map(Act::Time),
        1 => (0u64..400_000).prop_map(Act::Time),
        4 => prop::bool::weighted(0.8).prop_map(Act::Turned),
    ];
    prop::collection::vec(one, 0..300)
}

proptest! {
    #[test]
    fn bulk_is_wide_only_beside_nobody_and_never_held_for_ever(
        idle_micros in prop_oneof![Just(0u64), 1u64..5000],
        acts in acts(),
    ) {
        let mut world = World::new(Duration::from_micros(idle_micros));
        for act in acts {
            world.act(act);
            world.check();
        }
        // Bulk work goes on, also if no layout can be changed any more.
        world.settle(false);
        world.act(Act::BulkComes);
        world.act(Act::BulkStarts);
        prop_assert_eq!(world.on_the_way, 1);
        // And once layouts can be changed, it gets the GPU, as soon as nobody asks, and gives it back.
        world.queries = 0;
        world.act(Act::Time(200_000_000));
        world.act(Act::Turned(true));
        world.settle(true);
        world.act(Act::BulkComes);
        world.act(Act::Time(200_000_000));
        world.act(Act::Turned(true));
        world.act(Act::Time(200_000_000));
        world.act(Act::Turned(true));
        prop_assert_eq!(world.switch.layout(), LaneLayout::Wide);
        world.act(Act::QueryComes);
        world.settle(true);
        prop_assert_eq!(world.switch.layout(), LaneLayout::Fixed);
    }
}

#[test]
fn a_return_that_failed_is_tried_again_though_bulk_has_no_work() {
    let mut switch = Switch::new(Duration::from_secs(3600));
    let now = Instant::now();
    let view = |bulk| View {
        queries: false,
        bulk,
        bulk_batches: 0,
        dead: false,
    };
    assert_eq!(switch.step(now, view(true)), Step::Turn(LaneLayout::Wide));
    switch.turned(now, true);
    assert!(switch.query(now));
    assert_eq!(switch.step(now, view(true)), Step::Turn(LaneLayout::Fixed));
    switch.turned(now, false);
    assert!(!switch.query(now), "too early");
    let later = now + RETRY;
    assert_eq!(switch.step(later, view(false)), Step::Look);
    assert_eq!(
        switch.step(later, view(false)),
        Step::Turn(LaneLayout::Fixed)
    );
}

#[test]
fn attempts_become_rare() {
    let mut switch = Switch::new(Duration::ZERO);
    let mut now = Instant::now();
    let view = View {
        queries: false,
        bulk: true,
        bulk_batches: 0,
        dead: false,
    };
    for attempt in 0..20 {
        assert_eq!(switch.step(now, view), Step::Turn(LaneLayout::Wide));
        switch.turned(now, false);
        assert!(!switch.holds());
        let Step::Wait {
            until: Some(until), ..
        } = switch.step(now, view)
        else {
            panic!("{switch:?}");
        };
        assert_eq!(until - now, RETRY * (1 << attempt.min(DOUBLINGS)));
        now = until;
    }
}
