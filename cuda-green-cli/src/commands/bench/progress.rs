//! The state that a flood shares with its measurement.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(feature = "embed")]
use std::time::Instant;

/// The state that a flood's threads share with the measurement.
#[derive(Default)]
pub struct Progress {
    stop: AtomicBool,
    /// The work that is done, in the flood's unit.
    done: AtomicU64,
}

impl Progress {
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns the work that is done so far, in the flood's unit.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Counts work as done.
    pub fn add(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    /// Calls `action`, and returns also the work that is done a second meanwhile.
    #[cfg(feature = "embed")]
    pub fn during<T>(
        &self,
        action: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, f64)> {
        let (start, before) = (Instant::now(), self.done());
        let value = action()?;
        let units = self.done() - before;
        Ok((value, units as f64 / start.elapsed().as_secs_f64()))
    }
}

/// Stops a flood when it is dropped.
pub struct StopAtEnd<'a>(&'a Progress);

impl<'a> StopAtEnd<'a> {
    pub fn of(progress: &'a Progress) -> Self {
        Self(progress)
    }
}

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
