//! The thread that looks for the answers to futures which are awaited.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::Waker,
    thread,
    time::Duration,
};

use super::rings::InboxRings;
use crate::{contain::contain, protocol::Call};

/// Rounds without an answer in which the thread yields, before it sleeps between two rounds.
const YIELDS: u32 = 500;
const NAP: Duration = Duration::from_micros(50);

/// The calls that are awaited, and whoever is to be woken.
///
/// Wakers run the user's code when they are cloned, woken and dropped, which may come back here and may panic. None of it
/// happens while the lock is held, and the thread outlives a panic.
#[derive(Default)]
pub(super) struct Watcher {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: Vec<(Call, Waker)>,
    /// Whether there is a thread.
    runs: bool,
    ended: bool,
}

impl Watcher {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes `waker` when the end of a call is known, and nobody else for this call. Returns `false` if the queue has
    /// ended, or if there is no thread that could look.
    pub(super) fn watch(rings: &Arc<InboxRings>, call: Call, waker: &Waker) -> bool {
        let watcher = rings.watcher();
        let waker = waker.clone();
        let mut state = watcher.lock();
        if state.ended {
            return false;
        }
        if !state.runs {
            let (own, rings) = (watcher.clone(), Arc::downgrade(rings));
            let thread = thread::Builder::new().name("queue-watcher".to_owned());
            if let Err(error) = thread.spawn(move || own.run(&rings)) {
                log::warn!("no thread to look for the answers of a resident kernel: {error}");
                return false;
            }
            state.runs = true;
        }
        let mut replaced = None;
        match state.calls.iter_mut().find(|(other, _)| *other == call) {
            Some((_, old)) => replaced = Some(std::mem::replace(old, waker)),
            None => state.calls.push((call, waker)),
        }
        drop(state);
        watcher.changed.notify_one();
        drop(replaced);
        true
    }

    /// Wakes nobody for this call.
    pub(super) fn forget(&self, call: Call) {
        let mut state = self.lock();
        if let Some(index) = state.calls.iter().position(|(other, _)| *other == call) {
            let forgotten = state.calls.swap_remove(index);
            // A waker may run code when it is dropped.
            drop(state);
            drop(forgotten);
        }
    }

    /// Wakes everyone, since no answer will come any more, and ends the thread.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        self.changed.notify_one();
        wake(calls);
    }

    fn run(&self, rings: &Weak<InboxRings>) {
        let mut quiet = 0;
        loop {
            let mut state = self.lock();
            while state.calls.is_empty() && !state.ended {
                quiet = 0;
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return;
            }
            let Some(rings) = rings.upgrade() else {
                return;
            };
            let over = state
                .calls
                .extract_if(.., |(call, _)| rings.is_over(*call))
                .collect::<Vec<_>>();
            drop(state);
            if over.is_empty() {
                quiet += 1;
            } else {
                quiet = 0;
            }
            wake(over);
            // Not held while it sleeps: it may be the last one.
            drop(rings);
            if quiet < YIELDS {
                thread::yield_now();
            } else {
                thread::sleep(NAP);
            }
        }
    }
}

/// Wakes whoever awaits these calls. To be called without the lock.
fn wake(calls: Vec<(Call, Waker)>) {
    for (_, waker) in calls {
        contain("a waker", || waker.wake());
    }
}
