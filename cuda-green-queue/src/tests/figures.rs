//! What submissions by CPU code cost, and what the polling thread's part of a task does. Prints, and asserts nothing:
//! `cargo test --release -p cuda-green-queue --lib -- --ignored --nocapture --test-threads=1 figures`.
//!
//! Each figure is the least of many short measurements, since other programs take cores meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    gpu::{Gpu, Warp},
    *,
};
use crate::{IdlePolicy, TaskFuture, TaskQueues};

const REPEATS: usize = 60;

/// Prints the least and the middle of some nanoseconds a task.
fn print(what: &str, tasks: u32, mut times: Vec<Duration>) {
    times.sort_unstable();
    let of = |time: Duration| time.as_nanos() as f64 / f64::from(tasks);
    println!(
        "{what}: {:.1} ns, in the middle {:.1} ns",
        of(times[0]),
        of(times[times.len() / 2])
    );
}

fn repeat(what: &str, tasks: u32, mut once: impl FnMut() -> Duration) {
    once();
    print(what, tasks, (0..REPEATS).map(|_| once()).collect());
}

/// Submits many tasks and then takes all outputs.
fn batches(queues: &TaskQueues, copied: bool, submitting: &mut Vec<Duration>) -> Duration {
    let start = Instant::now();
    let mut waiting = VecDeque::<TaskFuture<u64>>::with_capacity(512);
    let mut spent = Duration::ZERO;
    for _ in 0..8 {
        let begin = Instant::now();
        for n in 0..512 {
            waiting.push_back(match copied {
                true => queues.submit_copy(Double(n)).unwrap(),
                false => queues.submit_pointer(Double(n)).unwrap(),
            });
        }
        spent += begin.elapsed();
        for future in waiting.drain(..) {
            future.wait().unwrap();
        }
    }
    submitting.push(spent);
    start.elapsed()
}

/// A worker spins beside a thread that submits and takes the outputs, so two cores are needed.
#[test]
#[ignore = "a measurement"]
fn figures_of_submissions() {
    for workers in [1, 4] {
        println!("{workers} workers");
        let queues = builder().workers(workers).cpu_depth(1024);
        let queues = queues.build_for(&[]).unwrap();
        for (way, copied) in [("pointer", false), ("copy", true)] {
            let mut submitting = Vec::new();
            repeat(&format!("{way}, submitted and run"), 8 * 512, || {
                batches(&queues, copied, &mut submitting)
            });
            print(&format!("{way}, submitted"), 8 * 512, submitting);
            repeat(&format!("{way}, one at a time"), 1000, || {
                let start = Instant::now();
                for n in 0..1000 {
                    let future = match copied {
                        true => queues.submit_copy(Double(n)),
                        false => queues.submit_pointer(Double(n)),
                    };
                    assert_eq!(future.unwrap().wait(), Ok(2 * n));
                }
                start.elapsed()
            });
        }
        queues.shutdown().unwrap();
    }
}

/// The polling thread's part of a task: what it takes for tasks that wait in a ring already.
#[test]
#[ignore = "a measurement"]
fn figures_of_the_polling_thread() {
    const TASKS: u32 = 1 << 14;
    const LAST: u32 = TASKS - 1;
    let end = Arc::new(AtomicBool::new(false));
    let ended = end.clone();
    let door = Arc::new(cpu::Door::default());
    let passing = door.clone();
    let gpu = Gpu::new("h200@13.0", |launch| {
        let warp = Warp::new(launch, 0);
        for n in 0..TASKS {
            warp.submit(0, Increment(n)).unwrap();
        }
    });
    let queue = TaskQueueBuilder::default()
        .inline_handler(move |Increment(n)| {
            match n {
                0 => passing.pass(),
                LAST => ended.store(true, Ordering::Release),
                _ => {}
            }
            Ok(n)
        })
        .depth(2 * TASKS)
        .lanes(1)
        .idle(IdlePolicy::spinning())
        .build(&gpu.device)
        .unwrap();
    repeat("inline, taken", TASKS, || {
        door.close();
        gpu.launch(&queue, 0, 0);
        gpu.stream.synchronize().unwrap();
        let start = Instant::now();
        door.open();
        while !end.swap(false, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        start.elapsed()
    });
    queue.shutdown().unwrap();
}
