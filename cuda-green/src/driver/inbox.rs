//! A queue with one worker thread, which starts when an item arrives and ends after a second without any.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    sync::native::{Condvar, Mutex, MutexGuard},
};

/// Time after which an idle worker thread ends.
const IDLE: Duration = Duration::from_secs(1);

/// A queue of items for one worker thread.
pub(crate) struct Inbox<T> {
    contents: Mutex<Contents<T>>,
    changed: Condvar,
}

struct Contents<T> {
    items: Vec<T>,
    /// Whether a worker thread runs or was started.
    served: bool,
}

impl<T> Inbox<T> {
    pub(crate) const fn new() -> Self {
        Self {
            contents: Mutex::new(Contents {
                items: Vec::new(),
                served: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Contents<T>> {
        self.contents.lock()
    }

    /// Adds an item, and starts the worker thread if none runs.
    pub(crate) fn send(&self, item: T, start: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        let mut contents = self.started(start)?;
        contents.items.push(item);
        drop(contents);
        self.changed.notify_one();
        Ok(())
    }

    /// Starts the worker thread if none runs.
    pub(crate) fn wake(&self, start: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        self.started(start).map(drop)
    }

    /// Returns the contents, locked, once a worker thread runs.
    fn started(
        &self,
        start: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<MutexGuard<'_, Contents<T>>> {
        let mut contents = self.lock();
        if !contents.served {
            start().map_err(|error| Error::NoThread {
                reason: error.to_string(),
            })?;
            contents.served = true;
        }
        Ok(contents)
    }

    /// Takes all items, waiting up to `timeout` for the first.
    pub(crate) fn receive(&self, timeout: Duration) -> Vec<T> {
        let contents = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(contents, timeout, |contents| contents.items.is_empty());
        let mut contents = waited;
        std::mem::take(&mut contents.items)
    }

    /// Takes all items, or returns `None` if there were none for so long that the worker thread is to end.
    pub(crate) fn receive_or_end(&self) -> Option<Vec<T>> {
        let items = self.receive(IDLE);
        if !items.is_empty() {
            return Some(items);
        }
        let mut contents = self.lock();
        contents.served = !contents.items.is_empty();
        contents.served.then(|| std::mem::take(&mut contents.items))
    }

    /// Runs the worker thread's loop: passes items to `each` as they arrive, until the thread is to end.
    pub(crate) fn serve(&self, mut each: impl FnMut(Vec<T>)) {
        let served = self.served();
        while let Some(items) = self.receive_or_end() {
            each(items);
        }
        drop(served);
    }

    /// Returns a guard for the worker thread, which lets another one take over if this one panics.
    pub(crate) fn served(&self) -> WorkerGuard<'_, T> {
        WorkerGuard(self)
    }
}

/// Empties the inbox if its worker thread panics, so that the next item starts another thread.
pub(crate) struct WorkerGuard<'a, T>(&'a Inbox<T>);

impl<T> Drop for WorkerGuard<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut contents = self.0.lock();
            contents.served = false;
            let left = std::mem::take(&mut contents.items);
            drop(contents);
            // Each item reports in its own destructor that it will not be done.
            drop(left);
        }
    }
}

/// Starts a detached thread.
pub(crate) fn spawn_detached(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<()> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map(drop)
}

/// Runs code that is not this crate's, and logs a panic in it.
pub(crate) fn catch_panic(what: &str, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        log::error!("{what} panicked at the end of GPU work");
    }
}
