//! Pieces of work on several threads, with their results in order.

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

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

#[cfg(test)]
mod tests {
    use super::in_order;

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
