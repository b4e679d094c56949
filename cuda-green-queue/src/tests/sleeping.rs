//! Workers that search, sleep and are woken: no task waits while a worker has nothing to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// Lets workers come to any point between a search and a sleep.
fn pause(round: u64) {
    let time = Duration::from_micros(round * 7 % 120);
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[test]
fn a_task_finds_workers_that_go_to_sleep() {
    let queues = builder().workers(3).build_for(&[]).unwrap();
    for round in 0..2_000 {
        pause(round);
        let mut future = match round % 2 {
            0 => queues.submit(Double(round)).unwrap(),
            _ => queues.submit_copy(Double(round)).unwrap(),
        };
        assert_eq!(future.wait_timeout(LONG), Some(Ok(2 * round)));
    }
    queues.shutdown().unwrap();
}

/// The first of two tasks ends only when the second has begun, for which another worker has to be woken.
#[test]
fn two_tasks_find_two_workers() {
    let begun = Arc::new(AtomicU64::new(0));
    let count = begun.clone();
    let queues = TaskQueueBuilder::default()
        .handler(move |Double(number)| {
            count.fetch_add(1, Ordering::SeqCst);
            let start = Instant::now();
            while count.load(Ordering::SeqCst) < number {
                if start.elapsed() > LONG {
                    return Err(TaskFailure(1));
                }
                std::thread::yield_now();
            }
            Ok(number)
        })
        .workers(2)
        .build_for(&[])
        .unwrap();
    for round in 1..=1_000 {
        pause(round);
        let first = queues.submit(Double(2 * round)).unwrap();
        if round % 3 == 0 {
            pause(round);
        }
        let second = match round % 2 {
            0 => queues.submit(Double(2 * round)).unwrap(),
            _ => queues.submit_copy(Double(2 * round)).unwrap(),
        };
        assert_eq!(
            (first.wait(), second.wait()),
            (Ok(2 * round), Ok(2 * round))
        );
    }
    queues.shutdown().unwrap();
}
