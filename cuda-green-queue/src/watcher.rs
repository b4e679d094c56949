//! The thread that finds out whether launched work is over, so that the polling threads may rest.
//!
//! These never call the driver themselves: a call can wait for another thread's, which may itself wait for a kernel that
//! waits for a polling thread.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    control::Control,
    error::{Error, Result},
    segment::Segment,
};

/// Time between two questions: some microseconds of a core each.
const EVERY: Duration = Duration::from_millis(10);

#[derive(Default)]
struct State {
    /// Work was announced, and is not known to be over.
    busy: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of a device that asks the driver. Dropped, it ends.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread, which sleeps until work is announced.
    pub(crate) fn start(segment: &Arc<Segment>, control: &Arc<Control>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (watched, segment, control) = (shared.clone(), segment.clone(), control.clone());
        let thread = thread::Builder::new()
            .name(format!("queue-watch-{}", segment.device().ordinal()))
            .spawn(move || watch(&watched, &segment, &control))
            .map_err(Error::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Notes that work was announced. Wakes the thread only if there was none before.
    pub(crate) fn announce(&self) {
        let mut state = self.shared.lock();
        if !state.busy {
            state.busy = true;
            self.shared.changed.notify_one();
        }
    }

    /// Ends the thread, and waits for that if it is to.
    pub(crate) fn end(&mut self, waits: bool) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && waits
            && thread.join().is_err()
        {
            log::error!("the thread that asks for the end of kernels panicked");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end(true);
    }
}

fn watch(shared: &Shared, segment: &Segment, control: &Control) {
    let mut state = shared.lock();
    while !state.ended {
        if !state.busy {
            state = wait(shared.changed.wait(state));
            continue;
        }
        let waited = shared.changed.wait_timeout(state, EVERY);
        state = wait(waited.map_err(|error| PoisonError::new(error.into_inner()))).0;
        if state.ended {
            break;
        }
        // What is announced after this is asked for in the next turn.
        state.busy = false;
        drop(state);
        let launches = control.launches();
        // Of a device that is lost, no work goes on.
        let is_over = segment.is_unused().unwrap_or(true);
        if is_over {
            control.note_over(launches);
        }
        state = shared.lock();
        state.busy |= !is_over;
    }
}

fn wait<T>(result: std::result::Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
