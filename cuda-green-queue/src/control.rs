//! The words by which a queue tells its polling threads that it ends, that work begins, and that there is none.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use crossbeam_utils::CachePadded;

use crate::sleepers::Sleepers;

/// The rings are open.
pub(crate) const OPEN: u8 = 0;
/// The rings are closed; kernels may still use what they were granted.
pub(crate) const CLOSING: u8 = 1;
/// No kernel uses the queue any more: the threads end when the rings are empty.
pub(crate) const FINISHING: u8 = 2;

/// What the polling threads of a device read between two tasks.
#[derive(Default)]
struct Words {
    state: AtomicU8,
    discard: AtomicBool,
    /// The number of times that work was announced.
    launches: AtomicU64,
    /// The number of those that are known to be over.
    over: AtomicU64,
}

/// What a queue tells the polling threads of a device.
#[derive(Default)]
pub(crate) struct Control {
    words: CachePadded<Words>,
    sleepers: Sleepers,
}

impl Control {
    /// Closes the rings.
    pub(crate) fn close(&self) {
        self.words.state.fetch_max(CLOSING, Ordering::SeqCst);
        self.sleepers.wake_all();
    }

    /// Answers what is found from now on as closed.
    pub(crate) fn discard(&self) {
        self.words.discard.store(true, Ordering::SeqCst);
    }

    /// Notes that no kernel uses the queue any more.
    pub(crate) fn finish(&self) {
        self.words.state.fetch_max(FINISHING, Ordering::SeqCst);
        self.sleepers.wake_all();
    }

    /// Announces work that may submit, and wakes the threads.
    pub(crate) fn announce(&self) {
        self.words.launches.fetch_add(1, Ordering::SeqCst);
        self.sleepers.wake_all();
    }

    /// Notes that all work is over of which this many launches were announced.
    pub(crate) fn note_over(&self, launches: u64) {
        self.words.over.fetch_max(launches, Ordering::Relaxed);
    }

    /// Returns one of the constants above.
    #[inline]
    pub(crate) fn state(&self) -> u8 {
        self.words.state.load(Ordering::Acquire)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state() == OPEN
    }

    #[inline]
    pub(crate) fn is_discarding(&self) -> bool {
        self.words.discard.load(Ordering::Relaxed)
    }

    /// Returns the number of times that work was announced.
    #[inline]
    pub(crate) fn launches(&self) -> u64 {
        self.words.launches.load(Ordering::Relaxed)
    }

    /// Returns whether some work is not known to be over.
    pub(crate) fn is_busy(&self) -> bool {
        self.words.over.load(Ordering::Relaxed) < self.launches()
    }

    /// Sleeps, until it is woken or at most this long, unless the state or the launches are no longer these.
    pub(crate) fn sleep(&self, time: Duration, state: u8, launches: u64) {
        self.sleepers.sleep_for(time, || {
            self.state() != state || self.launches() != launches
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Each change ends a sleep that would be far too long, whenever it comes.
    #[test]
    fn what_a_queue_tells_ends_every_sleep() {
        let long = Duration::from_secs(3600);
        for round in 0..600 {
            let control = Arc::new(Control::default());
            let sleeping = {
                let control = control.clone();
                std::thread::spawn(move || {
                    let (state, launches) = (OPEN, 0);
                    while control.state() == state && control.launches() == launches {
                        control.sleep(long, state, launches);
                    }
                })
            };
            (0..round % 50).for_each(|_| std::thread::yield_now());
            match round % 3 {
                0 => control.close(),
                1 => control.finish(),
                _ => control.announce(),
            }
            sleeping.join().unwrap();
        }
    }

    #[test]
    fn work_is_over_when_the_last_that_was_announced_is() {
        let control = Control::default();
        assert!(!control.is_busy());
        control.announce();
        let first = control.launches();
        control.announce();
        control.note_over(first);
        assert!(control.is_busy());
        control.note_over(control.launches());
        control.note_over(first);
        assert!(!control.is_busy());
    }
}
