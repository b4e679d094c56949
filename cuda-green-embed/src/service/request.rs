//! A request: the tokens of one text, and the place for its vector.

use std::{
    cell::Cell,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::observe::Trace;
use crate::{
    error::{Error, Result},
    lock::lock,
    panics,
};

thread_local! {
    static WAKING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread calls a waker. The rest of the batch is then answered by this thread, so it must not wait
/// for that.
pub(crate) fn is_waking() -> bool {
    WAKING.get()
}

/// The seat of a request that waits.
pub(super) const NO_SEAT: usize = usize::MAX;

/// The tokens of one text, and the place for its vector.
pub(super) struct Request {
    pub(super) tokens: Vec<u32>,
    /// The index of the text in its call, for errors.
    pub(super) text: usize,
    pub(super) deadline: Option<Instant>,
    pub(super) arrived: Instant,
    pub(super) tokenized_in: Duration,
    pub(super) trace: Trace,
    /// The seat that it was submitted to last; [`NO_SEAT`] before.
    pub(super) seat: AtomicUsize,
    slot: Mutex<Slot>,
}

/// A vector or an error, and how long it took.
pub(super) struct Answer {
    pub(super) result: Result<Vec<f32>>,
    pub(super) times: Times,
}

/// The time that a request spent on each part of its way.
#[derive(Clone, Copy, Default)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))] // only recorded there
pub(super) struct Times {
    pub(super) tokenize: Duration,
    pub(super) queue: Duration,
    pub(super) inference: Duration,
}

enum Slot {
    /// No answer yet, and whom to wake when there is one.
    Waiting(Option<Waker>),
    Answered(Answer),
    Taken,
    /// The future was dropped.
    Abandoned,
}

impl Request {
    pub(super) fn new(
        tokens: Vec<u32>,
        text: usize,
        deadline: Option<Instant>,
        tokenized_in: Duration,
        trace: Trace,
    ) -> Self {
        Self {
            tokens,
            text,
            deadline,
            arrived: Instant::now(),
            tokenized_in,
            trace,
            seat: AtomicUsize::new(NO_SEAT),
            slot: Mutex::new(Slot::Waiting(None)),
        }
    }

    /// Answers it and wakes whoever waits. Only the first answer counts. No lock is held.
    pub(super) fn answer(&self, result: Result<Vec<f32>>, times: Times) {
        self.trace.delivering();
        let mut slot = lock(&self.slot);
        let Slot::Waiting(waker) = &mut *slot else {
            return;
        };
        let waker = waker.take();
        *slot = Slot::Answered(Answer { result, times });
        drop(slot);
        if let Some(waker) = waker {
            // A waker is the caller's code; the others of the batch are still to be answered.
            // It may poll a task that wakes another one.
            let before = WAKING.replace(true);
            let woken = panics::catch(|| waker.wake());
            WAKING.set(before);
            if let Err(message) = woken {
                log::error!("the waker of an embedding request panicked: {message}");
            }
        }
    }

    /// Takes the answer, or leaves a waker to be woken when it is there.
    pub(super) fn poll(&self, waker: &Waker) -> Poll<Answer> {
        // Cloned and dropped without the lock: both are the caller's code.
        let mut new = Some(waker.clone());
        let mut slot = lock(&self.slot);
        let (answer, _old) = match &mut *slot {
            Slot::Waiting(old) => (None, mem::replace(old, new.take())),
            Slot::Answered(_) => match mem::replace(&mut *slot, Slot::Taken) {
                Slot::Answered(answer) => (Some(answer), None),
                _ => (None, None),
            },
            Slot::Taken | Slot::Abandoned => {
                let result = Err(Error::AlreadyTaken);
                let times = Times::default();
                (Some(Answer { result, times }), None)
            }
        };
        drop(slot);
        match answer {
            Some(answer) => {
                self.trace.end();
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }

    /// Takes the answer if it is there.
    pub(super) fn take(&self) -> Option<Answer> {
        let mut slot = lock(&self.slot);
        if !matches!(*slot, Slot::Answered(_)) {
            return None;
        }
        let taken = mem::replace(&mut *slot, Slot::Taken);
        drop(slot);
        self.trace.end();
        match taken {
            Slot::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// Gives it up: no answer is wanted any more. Returns whether there was none yet.
    pub(super) fn abandon(&self) -> bool {
        let mut slot = lock(&self.slot);
        let was_waiting = matches!(*slot, Slot::Waiting(_));
        let old = mem::replace(&mut *slot, Slot::Abandoned);
        drop(slot);
        drop(old);
        self.trace.end();
        was_waiting
    }

    pub(super) fn is_abandoned(&self) -> bool {
        matches!(*lock(&self.slot), Slot::Abandoned)
    }

    /// Returns whether it was in a batch that was submitted, or that was about to be.
    pub(super) fn was_submitted(&self) -> bool {
        self.seat.load(Ordering::Relaxed) != NO_SEAT
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}
