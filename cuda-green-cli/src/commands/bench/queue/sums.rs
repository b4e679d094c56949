//! Sums of what handlers were called with, kept by each thread for itself, so that a sum costs them almost nothing.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// A sum of one thread, on a line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Line {
    sum: AtomicU64,
    count: AtomicU64,
}

/// The sums of all threads.
#[derive(Clone, Default)]
pub struct Sums(Arc<Mutex<Vec<Arc<Line>>>>);

thread_local! {
    /// The line of this thread, and the address of the sums that it is of.
    static OWN: RefCell<Option<(Sums, Arc<Line>)>> = const { RefCell::new(None) };
}

impl Sums {
    /// Adds a number.
    pub fn add(&self, number: u64) {
        OWN.with_borrow_mut(|own| {
            let line = match own {
                Some((sums, line)) if Arc::ptr_eq(&sums.0, &self.0) => line,
                _ => &mut own.insert((self.clone(), self.line())).1,
            };
            // No other thread writes to this line.
            for (word, by) in [(&line.sum, number), (&line.count, 1)] {
                word.store(
                    word.load(Ordering::Relaxed).wrapping_add(by),
                    Ordering::Relaxed,
                );
            }
        });
    }

    fn line(&self) -> Arc<Line> {
        let line = Arc::new(Line::default());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&line));
        line
    }

    /// Returns how many numbers were added, and their sum, which wraps. Exact once the tasks' ends were seen.
    pub fn get(&self) -> (u64, u64) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = |of: fn(&Line) -> &AtomicU64| {
            let words = lines.iter().map(|line| of(line).load(Ordering::Acquire));
            words.fold(0, u64::wrapping_add)
        };
        (all(|line| &line.count), all(|line| &line.sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_several_threads_add_up_and_do_not_mix() {
        let (one, other) = (Sums::default(), Sums::default());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for number in 0..100 {
                        one.add(number);
                        other.add(u64::MAX);
                    }
                });
            }
        });
        assert_eq!(one.get(), (300, 3 * 4950));
        assert_eq!(other.get(), (300, 300_u64.wrapping_neg()));
    }
}
