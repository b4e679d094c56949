//! What submissions by CPU code cost. Prints, and asserts nothing:
//! `cargo test --release -p cuda-green-queue --lib -- --ignored --nocapture figures`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    gpu::{Gpu, Warp},
    *,
};
use crate::IdlePolicy;

const TASKS: u32 = 400_000;

fn nanoseconds(of: Duration) -> f64 {
    of.as_nanos() as f64 / f64::from(TASKS)
}

/// A worker spins beside a thread that submits and takes the outputs, so two cores are needed.
#[test]
#[ignore = "a measurement"]
fn figures_of_submissions() {
    let queues = builder().workers(1).cpu_depth(1024).build_for(&[]).unwrap();
    for _ in 0..3 {
        let start = Instant::now();
        for n in 0..u64::from(TASKS) {
            let future = queues.submit_pointer(Double(n)).unwrap();
            assert_eq!(future.wait(), Ok(2 * n));
        }
        println!(
            "pointer, one at a time: {:.0} ns",
            nanoseconds(start.elapsed())
        );
        let start = Instant::now();
        let mut waiting = VecDeque::with_capacity(256);
        for n in 0..u64::from(TASKS) {
            if waiting.len() == 256 {
                let future: crate::TaskFuture<u64> = waiting.pop_front().unwrap();
                future.wait().unwrap();
            }
            waiting.push_back(queues.submit_pointer(Double(n)).unwrap());
        }
        waiting
            .drain(..)
            .for_each(|future| assert!(future.wait().is_ok()));
        println!(
            "pointer, 256 at a time: {:.0} ns",
            nanoseconds(start.elapsed())
        );
        let start = Instant::now();
        for n in 0..u64::from(TASKS) {
            let future = queues.submit_copy(Double(n)).unwrap();
            assert_eq!(future.wait(), Ok(2 * n));
        }
        println!(
            "copy, one at a time: {:.0} ns",
            nanoseconds(start.elapsed())
        );
    }
    queues.shutdown().unwrap();
}

/// The polling thread's part of a task: what it takes for tasks that wait in a ring already.
#[test]
#[ignore = "a measurement"]
fn figures_of_the_polling_thread() {
    let gpu = Gpu::new("h200@13.0", |launch| {
        let warp = Warp::new(launch, 0);
        for n in 0..TASKS / 8 {
            warp.submit(0, Increment(n)).unwrap();
        }
    });
    let queue = TaskQueueBuilder::default()
        .inline_handler(|Increment(n)| Ok(n))
        .depth(1 << 16)
        .idle(IdlePolicy::spinning())
        .build(&gpu.device)
        .unwrap();
    let start = Instant::now();
    gpu.launch(&queue, 0, 0);
    gpu.stream.synchronize().unwrap();
    while queue.stats().handled() < u64::from(TASKS / 8) {
        std::thread::yield_now();
    }
    println!(
        "inline, with the simulator's part: {:.0} ns",
        nanoseconds(start.elapsed() * 8)
    );
    println!("{}", queue.stats());
    queue.shutdown().unwrap();
}
