//! A queue with one thread that serves it, started when something comes in and ended when nothing has for a while.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    sync::native::{Condvar, Mutex, MutexGuard},
};

/// How long the thread stays when there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);

pub(crate) struct Inbox<T> {
    contents: Mutex<Contents<T>>,
    changed: Condvar,
}

struct Contents<T> {
    items: Vec<T>,
    /// Whether a thread serves it, or was started to.
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

    /// Puts something in, and starts the thread where none serves.
    pub(crate) fn send(&self, item: T, start: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        let mut contents = self.started(start)?;
        contents.items.push(item);
        drop(contents);
        self.changed.notify_one();
        Ok(())
    }

    /// Starts the thread where none serves.
    pub(crate) fn wake(&self, start: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        self.started(start).map(drop)
    }

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

    /// What came in, after waiting for something as long as said.
    pub(crate) fn receive(&self, patience: Duration) -> Vec<T> {
        let contents = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(contents, patience, |contents| contents.items.is_empty());
        let mut contents = waited;
        std::mem::take(&mut contents.items)
    }

    /// What came in; `None` where nothing did for so long that the thread is to end.
    pub(crate) fn receive_or_end(&self) -> Option<Vec<T>> {
        let items = self.receive(IDLE);
        if !items.is_empty() {
            return Some(items);
        }
        let mut contents = self.lock();
        contents.served = !contents.items.is_empty();
        contents.served.then(|| std::mem::take(&mut contents.items))
    }

    /// Serves what comes in until nothing does any more.
    pub(crate) fn serve(&self, mut each: impl FnMut(Vec<T>)) {
        let served = self.served();
        while let Some(items) = self.receive_or_end() {
            each(items);
        }
        drop(served);
    }

    /// Lets another thread take over where this one panics.
    pub(crate) fn served(&self) -> Served<'_, T> {
        Served(self)
    }
}

pub(crate) struct Served<'a, T>(&'a Inbox<T>);

impl<T> Drop for Served<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut contents = self.0.lock();
            contents.served = false;
            let left = std::mem::take(&mut contents.items);
            drop(contents);
            // What is in there says itself that it will not be done.
            drop(left);
        }
    }
}

/// Starts a thread that nobody joins.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map(drop)
}

/// Runs code of another's; a panic in it is logged.
pub(crate) fn caught(what: &str, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        log::error!("{what} panicked at the end of GPU work");
    }
}
