//! What the threads of a queue count while they work. Each thread has counters of its own, which it alone writes, so
//! that counting is a load and a store; a snapshot adds them up.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::{histogram::Recorder, layout::status};

/// A counter that one thread writes and any thread reads.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only one thread does.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    /// Raises it to a number. Only one thread does.
    #[inline]
    pub(crate) fn raise(&self, number: u64) {
        if self.get() < number {
            self.0.store(number, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many tasks of a method a thread times one by one before it times one in [`ONE_IN`].
const ALL_OF_FIRST: u64 = 64;
/// The clock takes about as long as an empty task, so most are not timed.
const ONE_IN: u64 = 64;

/// Returns whether a task is timed, where so many came before it.
#[inline]
pub(crate) fn is_timed(before: u64) -> bool {
    before < ALL_OF_FIRST || before.is_multiple_of(ONE_IN)
}

/// When a task that is timed came, if that is known, and when its handler was called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    since: Option<Instant>,
    start: Instant,
}

impl Times {
    /// Notes that a handler is called now.
    pub(crate) fn start(since: Option<Instant>) -> Self {
        Self {
            since,
            start: Instant::now(),
        }
    }
}

/// The counters of one method on one thread.
#[derive(Default)]
pub(crate) struct MethodCounters {
    pub(crate) done: Counter,
    pub(crate) failed: Counter,
    pub(crate) panicked: Counter,
    pub(crate) bad_payload: Counter,
    pub(crate) waiting: Recorder,
    pub(crate) handling: Recorder,
}

impl MethodCounters {
    /// Counts a task that was run, with its times if they were measured. It comes before the answer, so that whoever has
    /// that finds the task counted.
    #[inline]
    pub(crate) fn count(&self, status: u8, times: Option<Times>) {
        match status {
            status::DONE => self.done.add(1),
            status::FAILED => self.failed.add(1),
            status::BAD_PAYLOAD => self.bad_payload.add(1),
            _ => self.panicked.add(1),
        }
        if let Some(times) = times {
            self.record(&times);
        }
    }

    #[cold]
    fn record(&self, times: &Times) {
        self.handling.record(times.start.elapsed());
        if let Some(since) = times.since {
            self.waiting
                .record(times.start.saturating_duration_since(since));
        }
    }

    /// Returns the number of tasks that were run.
    #[inline]
    pub(crate) fn ran(&self) -> u64 {
        self.done.get() + self.failed.get() + self.panicked.get()
    }
}

/// The counters of one thread.
pub(crate) struct ThreadCounters {
    /// By the index of the handler.
    pub(crate) methods: Box<[MethodCounters]>,
    pub(crate) unknown_methods: Counter,
    /// Tasks that were answered as closed without being run.
    pub(crate) discarded: Counter,
    /// Panics of clients' code that is no handler.
    pub(crate) caught: Counter,
    /// Tasks of CPU code that it took out of where they wait.
    pub(crate) taken: Counter,
}

impl ThreadCounters {
    pub(crate) fn new(methods: usize) -> Self {
        Self {
            methods: (0..methods).map(|_| MethodCounters::default()).collect(),
            unknown_methods: Counter::default(),
            discarded: Counter::default(),
            caught: Counter::default(),
            taken: Counter::default(),
        }
    }
}

/// The counters of a ring, which its polling thread writes.
#[derive(Default)]
pub(crate) struct RingCounters {
    pub(crate) taken: Counter,
    pub(crate) deepest: Counter,
    /// How often the ring had to wait because no job was free.
    pub(crate) out_of_jobs: Counter,
}

/// The counters of a polling thread.
#[derive(Default)]
pub(crate) struct PollerCounters {
    pub(crate) sleeps: Counter,
    pub(crate) rests: Counter,
    /// In nanoseconds; the thread notes it when it ends.
    pub(crate) cpu_time: Counter,
}

/// What is counted of one way for CPU code to submit, by whichever thread does so.
#[derive(Default)]
pub(crate) struct Submissions {
    submitted: AtomicU64,
    refused: AtomicU64,
}

impl Submissions {
    /// Counts a task before anyone can find it, so that no snapshot has more ends than submissions. A look at the pool's
    /// state comes after this: see [`Pool::is_idle`](crate::pool::Pool::is_idle).
    #[inline]
    pub(crate) fn count(&self) {
        self.submitted.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a count back: the task was not submitted after all.
    pub(crate) fn uncount(&self) {
        self.submitted.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a refusal that the client is told.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the numbers of submissions and of refusals.
    pub(crate) fn get(&self) -> (u64, u64) {
        let refused = self.refused.load(Ordering::Relaxed);
        (self.submitted(), refused)
    }

    /// Returns the number of submissions, those included that are about to be refused.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::SeqCst)
    }
}
