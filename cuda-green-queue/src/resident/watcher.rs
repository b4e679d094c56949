//! The thread that looks for the answers to futures which are awaited.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::Waker,
    thread,
    time::Duration,
};

use super::rings::InboxRings;
use crate::protocol::Call;

/// Rounds without an answer in which the thread yields, before it sleeps between two rounds.
const YIELDS: u32 = 500;
const NAP: Duration = Duration::from_micros(50);

/// The calls that are awaited, and whoever is to be woken.
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
        match state.calls.iter_mut().find(|(other, _)| *other == call) {
            Some((_, old)) => old.clone_from(waker),
            None => state.calls.push((call, waker.clone())),
        }
        drop(state);
        watcher.changed.notify_one();
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
        calls.into_iter().for_each(|(_, waker)| waker.wake());
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
            let Some(rings) = rings.upgrade().filter(|_| !state.ended) else {
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
            over.into_iter().for_each(|(_, waker)| waker.wake());
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
