//! The thread by which a manager follows changes of the plan that it joined.

use std::{
    io, mem,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::state::ManagerState;
use crate::{
    error::Result,
    names,
    sharing::{self, EventCount, LONGEST_PAUSE},
    sharing_error::SharingError,
};

/// The pauses of a thread that waits for work on SMs which it is to leave, or for their users: an eighth of the time that
/// it has waited, so that a change takes so much longer at most, and within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_micros(250);
const LONG_PAUSE: Duration = Duration::from_millis(50);

/// A thread that follows a plan until this value ends.
#[derive(Debug)]
pub(super) struct Watcher {
    events: Arc<EventCount>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    owner: u32,
}

impl Watcher {
    /// Starts the thread of a manager that joined a plan.
    ///
    /// # Errors
    /// [`SharingError::NotJoined`]; [`SharingError::Io`] where the system starts no thread.
    pub(super) fn start(state: &Arc<ManagerState<String>>) -> Result<Self> {
        let shared = state.shared.as_ref().ok_or(SharingError::NotJoined)?;
        let events = shared.membership.events();
        let is_over = Arc::new(AtomicBool::new(false));
        let (state, of_thread) = (Arc::downgrade(state), Arc::clone(&is_over));
        let wakes = Arc::clone(&events);
        let thread = thread::Builder::new()
            .name("cuda-green-plan".to_owned())
            .spawn(move || watch(&state, &wakes, &of_thread))
            .map_err(|error| SharingError::Io {
                what: "starting the thread that follows the plan of",
                path: "this process".into(),
                error,
            })?;
        Ok(Self {
            events,
            is_over,
            thread: Some(thread),
            owner: std::process::id(),
        })
    }
}

fn watch(state: &Weak<ManagerState<String>>, events: &EventCount, is_over: &AtomicBool) {
    sharing::become_follower();
    let mut hindered_since = None;
    loop {
        // Before the look: what changes after it ends the wait at once.
        let seen = events.read();
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let Some(state) = state.upgrade() else {
            return;
        };
        // A subscriber or a logger may panic. What it left undone is done when something changes, or a second later.
        let followed = panic::catch_unwind(AssertUnwindSafe(|| state.follow()));
        let is_done = followed.unwrap_or_else(|panic| {
            // It may panic when it is dropped, too.
            mem::forget(panic);
            true
        });
        drop(state);
        if is_done {
            hindered_since = None;
            events.wait(seen, LONGEST_PAUSE);
        } else {
            let since = *hindered_since.get_or_insert_with(Instant::now);
            let pause = (since.elapsed() / 8).clamp(SHORTEST_PAUSE, LONG_PAUSE);
            events.wait(seen, pause);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // A forked child has no such thread, and would wait for ever.
        if self.owner != std::process::id() {
            std::mem::forget(self.thread.take());
            return;
        }
        self.is_over.store(true, Ordering::SeqCst);
        self.events.notify();
        let Some(thread) = self.thread.take() else {
            return;
        };
        // In the closure of a `PartitionStream` it may wait for this thread to leave that; it ends by itself then.
        let waits_for_this = names::refuse_inside().is_err();
        // A subscriber of its events may drop the manager.
        let is_this = thread.thread().id() == thread::current().id();
        if !waits_for_this && !is_this && thread.join().is_err() {
            log::error!(
                "{}",
                io::Error::other("the thread that follows a plan panicked")
            );
        }
    }
}
