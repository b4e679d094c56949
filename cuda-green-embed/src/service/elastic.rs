//! Elastic lanes: bulk work has the idle SMs, and gives them back when queries come.
//!
//! A thread of its own changes the layout, so that no query ever does. Whoever adds a query or bulk work, or ends a bulk
//! batch, tells it. Its lock is held for a moment, and with it no other: the lanes are looked at without it, and again if
//! something was told meanwhile, so nothing told is missed.

mod partitions;
mod switch;

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub(super) use partitions::{Partitions, prepare, together};
pub use switch::LaneLayout;
use switch::{Event, Step, Switch, View};

use super::{engine::Engine, status::Lane};
use crate::{
    error::Result,
    lock::{lock, wait},
    panics,
};

/// The options of [elastic lanes](super::EmbedderBuilder::elastic).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElasticOptions {
    /// The time without a query after which bulk work gets the interactive lane's SMs: 5 ms by default. After the same
    /// time without bulk work, they go back.
    pub idle_after: Duration,
    /// The SMs of the interactive lane beside queries, in a manager that has no contexts yet: by default a quarter of the
    /// device. The bulk lane has the others.
    pub interactive_sms: Option<u32>,
    /// The SMs that the interactive lane keeps at any time, rounded up to whole pieces of the split: 8 by default.
    pub keep_sms: u32,
}

impl Default for ElasticOptions {
    fn default() -> Self {
        Self {
            idle_after: Duration::from_millis(5),
            interactive_sms: None,
            keep_sms: 8,
        }
    }
}

impl ElasticOptions {
    /// Sets the time without a query after which bulk work gets the interactive lane's SMs.
    #[must_use]
    pub fn idle_after(self, idle_after: Duration) -> Self {
        Self { idle_after, ..self }
    }

    /// Sets the SMs of the interactive lane beside queries.
    #[must_use]
    pub fn interactive_sms(self, sms: u32) -> Self {
        let interactive_sms = Some(sms);
        Self {
            interactive_sms,
            ..self
        }
    }

    /// Sets the SMs that the interactive lane keeps at any time.
    #[must_use]
    pub fn keep_sms(self, sms: u32) -> Self {
        Self {
            keep_sms: sms,
            ..self
        }
    }
}

/// Two layouts of the SMs of a service whose encoders the caller made, for
/// [`elastic_with`](super::EmbedderBuilder::elastic_with). Either call is made by a thread of the service's, one at a
/// time, while queries are submitted. After an error, or a panic, the layout of before must be in force.
pub trait LaneLayouts: Send + Sync {
    /// Gives the bulk lane's encoder the SMs of the interactive lane's, but for those that this one keeps. Batches may be
    /// on the way in both: what is submitted later for SMs that change hands must wait for them on the GPU.
    ///
    /// # Errors
    /// Logged, counted, and shown in the status; it is tried again later.
    fn widen(&self) -> Result<()>;

    /// Gives the SMs back. No bulk batch is on the way.
    ///
    /// # Errors
    /// As [`widen`](Self::widen).
    fn restore(&self) -> Result<()>;
}

/// The figures of elastic lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ElasticStatus {
    /// The layout in force.
    pub layout: LaneLayout,
    /// The reason why it never changes, if it cannot.
    pub off: Option<String>,
    /// The number of times that it has changed.
    pub rebalances: u64,
    /// The number of changes that failed.
    pub failed: u64,
    /// The error of the last change that failed.
    pub last_error: Option<String>,
}

impl ElasticStatus {
    /// Returns that of lanes that cannot be elastic.
    pub(super) fn off(reason: String) -> Self {
        Self {
            layout: LaneLayout::Fixed,
            off: Some(reason),
            rebalances: 0,
            failed: 0,
            last_error: None,
        }
    }
}

impl fmt::Display for ElasticStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.off {
            return write!(f, "not elastic: {reason}");
        }
        let layout = match self.layout {
            LaneLayout::Fixed => "fixed",
            LaneLayout::Wide => "wide",
        };
        write!(
            f,
            "elastic, {layout} now; {} rebalances, {} failed",
            self.rebalances, self.failed
        )?;
        match &self.last_error {
            Some(error) => write!(f, ", the last with: {error}"),
            None => Ok(()),
        }
    }
}

/// The layouts of a service, and the thread that changes them.
pub(super) struct Elastic {
    layouts: Arc<dyn LaneLayouts>,
    control: Mutex<Control>,
    /// Tells the thread of something.
    told: Condvar,
}

struct Control {
    switch: Switch,
    /// The number of times that something was told.
    epoch: u64,
    /// What the thread waits for, if it waits.
    awaited: Option<Event>,
    /// Threads of lanes that have ended.
    ended: usize,
    rebalances: u64,
    failed: u64,
    last_error: Option<String>,
}

impl Elastic {
    pub(super) fn new(layouts: Arc<dyn LaneLayouts>, idle_after: Duration) -> Self {
        Self {
            layouts,
            control: Mutex::new(Control {
                switch: Switch::new(idle_after),
                epoch: 0,
                awaited: None,
                ended: 0,
                rebalances: 0,
                failed: 0,
                last_error: None,
            }),
            told: Condvar::new(),
        }
    }

    /// Notes that requests are in a lane's queue.
    pub(super) fn added(&self, lane: Lane, hold: &AtomicBool) {
        match lane {
            Lane::Interactive => {
                let mut control = lock(&self.control);
                control.epoch += 1;
                let acts = control.switch.query(Instant::now());
                hold.store(control.switch.holds(), Ordering::Release);
                drop(control);
                if acts {
                    self.told.notify_one();
                }
            }
            Lane::Bulk => self.tell(Event::BulkComes),
        }
    }

    /// Notes that a bulk batch is no longer on the way.
    pub(super) fn bulk_ended(&self) {
        self.tell(Event::BulkEnds);
    }

    /// Notes that a lane's thread has ended.
    pub(super) fn thread_ended(&self) {
        lock(&self.control).ended += 1;
        self.told.notify_one();
    }

    fn tell(&self, event: Event) {
        let mut control = lock(&self.control);
        control.epoch += 1;
        let wake = control.awaited == Some(event);
        drop(control);
        if wake {
            self.told.notify_one();
        }
    }

    /// Changes layouts until all threads of lanes have ended, and leaves the SMs as they were at first.
    pub(super) fn run(&self, engine: &Engine) {
        let bulk = engine.lane(Lane::Bulk);
        let threads = engine.threads().count();
        let mut control = lock(&self.control);
        while control.ended < threads {
            let epoch = control.epoch;
            drop(control);
            let view = view(engine);
            control = lock(&self.control);
            if control.epoch != epoch {
                continue;
            }
            let now = Instant::now();
            let step = control.switch.step(now, view);
            bulk.hold.store(control.switch.holds(), Ordering::Release);
            match step {
                Step::Look => {}
                Step::Turn(layout) => {
                    drop(control);
                    let result = self.turn(layout);
                    control = lock(&self.control);
                    control.switch.turned(Instant::now(), result.is_ok());
                    bulk.hold.store(control.switch.holds(), Ordering::Release);
                    control.note(result);
                    drop(control);
                    // Bulk work may have waited for it.
                    bulk.want();
                    control = lock(&self.control);
                }
                Step::Wait { until, event } => {
                    if event == Event::BulkEnds {
                        drop(control);
                        // Nobody else may be waiting for the batches.
                        bulk.want();
                        control = lock(&self.control);
                        if control.epoch != epoch {
                            continue;
                        }
                    }
                    if control.ended == threads {
                        break;
                    }
                    control.awaited = Some(event);
                    control = match until {
                        None => wait(&self.told, control),
                        Some(until) => {
                            let time = until.saturating_duration_since(now);
                            let woken = self.told.wait_timeout(control, time);
                            woken.unwrap_or_else(PoisonError::into_inner).0
                        }
                    };
                    control.awaited = None;
                }
            }
        }
        let layout = control.switch.layout();
        drop(control);
        if layout == LaneLayout::Wide && engine.dead.get().is_none() {
            let result = self.turn(LaneLayout::Fixed);
            lock(&self.control).note(result);
        }
    }

    fn turn(&self, layout: LaneLayout) -> Result<(), String> {
        let turn = || match layout {
            LaneLayout::Wide => self.layouts.widen(),
            LaneLayout::Fixed => self.layouts.restore(),
        };
        // They may be some other's.
        let turned = panics::catch(turn);
        let result = match turned {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(message) => Err(format!("the change of the layout panicked: {message}")),
        };
        match &result {
            Ok(()) => log::debug!("the lanes' layout is {layout:?} now"),
            Err(error) => {
                log::warn!("the lanes' layout cannot become {layout:?}, and stays: {error}");
            }
        }
        result
    }

    /// Returns the figures.
    pub(super) fn status(&self) -> ElasticStatus {
        let control = lock(&self.control);
        ElasticStatus {
            layout: control.switch.layout(),
            off: None,
            rebalances: control.rebalances,
            failed: control.failed,
            last_error: control.last_error.clone(),
        }
    }
}

impl Control {
    fn note(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.rebalances += 1,
            Err(error) => {
                self.failed += 1;
                self.last_error = Some(error);
            }
        }
    }
}

/// Looks at the lanes, one after the other.
fn view(engine: &Engine) -> View {
    let queries = !engine.lane(Lane::Interactive).lock().is_empty();
    let bulk = engine.lane(Lane::Bulk).lock();
    View {
        queries,
        bulk: !bulk.is_empty(),
        bulk_batches: bulk.batches(),
        dead: engine.dead.get().is_some(),
    }
}
