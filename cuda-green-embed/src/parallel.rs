//! Pieces of work on several threads, with their results in order.

use std::{
    panic::resume_unwind,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::lock::{lock, wait};

/// Returns what `work` gives for each number below `count`, in order. Up to so many threads take the numbers one after
/// another, the calling one among them. Threads that the system refuses to start are left out.
///
/// # Panics
/// If `work` panics: the panic comes out of this call.
pub(crate) fn in_order<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return done;
            }
            done.push((number, work(number)));
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count))
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, take).ok())
            .collect();
        let mut done = take();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Calls `take`, on the calling thread, with what `work` gives for each number below `count`, in order and as soon as it
/// is there. Up to so many threads take the numbers one after another; the calling one does whenever the next result is
/// not there. After an error of `take` no further number is begun.
///
/// # Errors
/// Those of `take`.
///
/// # Panics
/// If `work` or `take` panics: the panic comes out of this call.
pub(crate) fn each_in_order<T: Send, E>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    if threads.min(count) < 2 {
        return (0..count).try_for_each(|number| take(work(number)));
    }
    let shared = Shared {
        next: AtomicUsize::new(0),
        count,
        results: Mutex::new((0..count).map(|_| None).collect()),
        changed: Condvar::new(),
    };
    // Works on the next number; returns false if there is none. The result is none after a panic.
    let step = || {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return false;
        }
        let mut done = Done {
            shared: &shared,
            number,
            result: None,
        };
        done.result = Some(work(number));
        true
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            // One that the system refuses to start is left out.
            let _ = thread::Builder::new().spawn_scoped(scope, || while step() {});
        }
        let _end = End(&shared);
        for number in 0..count {
            let result = loop {
                let mut results = lock(&shared.results);
                if let Some(result) = results.get_mut(number).and_then(Option::take) {
                    break result;
                }
                drop(results);
                if !step() {
                    let results = lock(&shared.results);
                    // All numbers are begun, so it comes.
                    if results.get(number).is_some_and(Option::is_none) {
                        drop(wait(&shared.changed, results));
                    }
                }
            };
            match result {
                Some(result) => take(result)?,
                // The panic comes out of the scope.
                None => return Ok(()),
            }
        }
        Ok(())
    })
}

/// The results of numbers that are not taken yet; within, none for a number whose work panicked.
struct Shared<T> {
    next: AtomicUsize,
    count: usize,
    results: Mutex<Vec<Option<Option<T>>>>,
    changed: Condvar,
}

/// Hands over a number's result, also if the work panics.
struct Done<'a, T> {
    shared: &'a Shared<T>,
    number: usize,
    result: Option<T>,
}

impl<T> Drop for Done<'_, T> {
    fn drop(&mut self) {
        let result = self.result.take();
        if let Some(place) = lock(&self.shared.results).get_mut(self.number) {
            *place = Some(result);
        }
        self.shared.changed.notify_one();
    }
}

/// Lets the other threads begin no further number.
struct End<'a, T>(&'a Shared<T>);

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        self.0.next.store(self.0.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::{each_in_order, in_order};

    #[test]
    fn results_are_taken_in_order_until_one_is_refused() {
        for threads in [0, 1, 2, 7, 100] {
            for count in [0, 1, 5, 64] {
                for refused in [0, 3, usize::MAX] {
                    let mut taken = Vec::new();
                    let all = each_in_order(
                        count,
                        threads,
                        |number| number * number,
                        |square| {
                            if taken.len() == refused {
                                return Err("refused");
                            }
                            taken.push(square);
                            Ok(())
                        },
                    );
                    let expected = (0..count.min(refused)).map(|number| number * number);
                    assert_eq!(taken, expected.collect::<Vec<_>>());
                    assert_eq!(all.is_err(), refused < count);
                }
            }
        }
    }

    #[test]
    fn a_panic_comes_out_and_ends_the_work() {
        for threads in [1, 2, 7] {
            for bad in [0, 5, 63] {
                let taken = AtomicUsize::new(0);
                let work = |number| {
                    assert_ne!(number, bad, "as asked");
                };
                let take = |()| {
                    taken.fetch_add(1, Ordering::Relaxed);
                    Ok::<(), ()>(())
                };
                let run = AssertUnwindSafe(|| each_in_order(64, threads, work, take));
                assert!(catch_unwind(run).is_err());
                assert!(taken.into_inner() <= bad);
            }
        }
    }

    #[test]
    fn results_are_in_order_whatever_the_threads() {
        for threads in [0, 1, 2, 7, 100] {
            for count in [0, 1, 5, 64] {
                let squares: Vec<_> = (0..count).map(|number| number * number).collect();
                assert_eq!(in_order(count, threads, |number| number * number), squares);
            }
        }
    }
}
