//! Ends of queues: what is accepted is run, unless the queue is dropped, and nobody waits for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use cuda_green::{Driver, GreenContext, LaunchConfig, Module, sim::Sim};
use cuda_green_queue::{
    SubmitError, Submitter, TaskFuture, TaskQueues,
    simulated::{DeviceSide, Place},
};

use crate::fixture::{PTX, Square};

type Submitted = Result<TaskFuture<u64>, SubmitError<Square>>;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Threads submit while a queue ends. Each task that was accepted is run: also one that is behind another which is still
/// being submitted, and one whose thread looked just before the end. A queue that is closed may live on.
fn is_run(submit: fn(&Submitter, u64) -> Submitted, end: fn(TaskQueues) -> Option<TaskQueues>) {
    for round in 0..150_u64 {
        let queues = TaskQueues::builder()
            .handler(|Square(n)| Ok(n * n))
            .workers(1)
            .cpu_depth(1 << 12)
            .build_for(&[])
            .unwrap();
        let submitters: Vec<_> = (0..6)
            .map(|_| {
                let submitter = queues.submitter().clone();
                thread::spawn(move || {
                    let mut futures = Vec::new();
                    while let Ok(future) = submit(&submitter, 3) {
                        // The last ones are those that the end could have overlooked.
                        futures.truncate(8);
                        futures.insert(0, future);
                    }
                    futures
                })
            })
            .collect();
        thread::sleep(Duration::from_micros(round * 7));
        let own: Vec<_> = (0..20)
            .map(|_| submit(queues.submitter(), 3).unwrap())
            .collect();
        let kept = end(queues);
        let others = submitters.into_iter().map(|thread| thread.join().unwrap());
        for mut future in others.flatten().chain(own) {
            assert_eq!(future.wait_timeout(LONG), Some(Ok(9)), "in round {round}");
        }
        drop(kept);
    }
}

fn by_moving(submitter: &Submitter, n: u64) -> Submitted {
    submitter.submit(Square(n))
}

fn by_copying(submitter: &Submitter, n: u64) -> Submitted {
    submitter.submit_copy(Square(n))
}

fn by_shutdown(queues: TaskQueues) -> Option<TaskQueues> {
    queues.shutdown().unwrap();
    None
}

fn by_close(queues: TaskQueues) -> Option<TaskQueues> {
    queues.close();
    Some(queues)
}

#[test]
fn tasks_that_move_are_run_before_a_shutdown() {
    is_run(by_moving, by_shutdown);
}

#[test]
fn tasks_that_are_copied_are_run_before_a_shutdown() {
    is_run(by_copying, by_shutdown);
}

#[test]
fn tasks_that_move_are_run_after_a_close() {
    is_run(by_moving, by_close);
}

#[test]
fn tasks_that_are_copied_are_run_after_a_close() {
    is_run(by_copying, by_close);
}

/// Kernels of two GPUs, one of which ends when the other was told that its queue is closed.
#[test]
fn a_drop_closes_all_queues_of_a_set_before_it_waits() {
    let sim = Sim::new("2xh200@13.0").unwrap();
    let driver = Driver::simulated(&sim).unwrap();
    let devices = [driver.device(0).unwrap(), driver.device(1).unwrap()];
    let is_closed = Arc::new(AtomicBool::new(false));
    let (seen, told) = (is_closed.clone(), is_closed.clone());
    sim.register_concurrent_kernel("does_nothing", move |_| {
        while !seen.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    });
    sim.register_concurrent_kernel("submits", move |launch| {
        let side = DeviceSide::argument(launch, 0).unwrap();
        while side.submit(Place::default(), &Square(1)).is_ok() {
            thread::yield_now();
        }
        told.store(true, Ordering::SeqCst);
    });
    let queues = TaskQueues::builder()
        .inline_handler(|Square(n)| Ok(n * n))
        .build_for(&devices)
        .unwrap();
    for (queue, name) in queues.queues().iter().zip(["does_nothing", "submits"]) {
        let context = GreenContext::primary(queue.device(), Default::default()).unwrap();
        let kernel = Module::load_ptx(queue.device(), PTX)
            .unwrap()
            .kernel(name)
            .unwrap();
        let config = LaunchConfig::linear(1, 32);
        let args = [&queue.device_queue() as _, &0_u64 as _];
        // SAFETY: the arguments are those of the kernel.
        unsafe { queue.launch(&context.create_stream().unwrap(), &kernel, &config, &args) }
            .unwrap();
    }
    let (sender, receiver) = mpsc::channel();
    let ending = thread::spawn(move || {
        drop(queues);
        sender.send(()).unwrap();
    });
    let ended = receiver.recv_timeout(LONG);
    is_closed.store(true, Ordering::SeqCst); // lets the first kernel end in any case
    ending.join().unwrap();
    assert_eq!(
        ended,
        Ok(()),
        "the drop waits for a kernel that waits for it"
    );
}
