//! Submissions that wait for room.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{ResidentFuture, ResidentQueue};
use crate::task::{SubmitError, Task};

/// Attempts before a thread that waits for room sleeps between two of them.
const SPINS: u32 = 1_000;
const NAP: Duration = Duration::from_micros(20);

impl ResidentQueue {
    /// Submits a task to the lanes in turn, with the highest priority, and waits while there is no room: for ever, if no
    /// kernel is resident.
    ///
    /// # Errors
    /// As [`try_submit_to`](Self::try_submit_to), but for [`SubmitError::Full`].
    pub fn submit<T: Task>(&self, task: T) -> Result<ResidentFuture<T::Output>, SubmitError<T>> {
        self.submit_until(task, None)
    }

    /// Submits a task as [`submit`](Self::submit) does, and waits at most this long.
    ///
    /// # Errors
    /// As [`try_submit_to`](Self::try_submit_to).
    pub fn submit_timeout<T: Task>(
        &self,
        task: T,
        timeout: Duration,
    ) -> Result<ResidentFuture<T::Output>, SubmitError<T>> {
        // A time that the clock cannot have does not come.
        self.submit_until(task, Instant::now().checked_add(timeout))
    }

    fn submit_until<T: Task>(
        &self,
        mut task: T,
        deadline: Option<Instant>,
    ) -> Result<ResidentFuture<T::Output>, SubmitError<T>> {
        let mut attempts = 0;
        loop {
            task = match self.try_submit(task) {
                Err(SubmitError::Full(task)) => task,
                result => return result,
            };
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(SubmitError::Full(task));
            }
            if attempts < SPINS {
                attempts += 1;
                std::hint::spin_loop();
            } else {
                thread::sleep(left.map_or(NAP, |left| left.min(NAP)));
            }
        }
    }
}
