//! Code of clients that panics, locks that handlers hold, and ends beside submissions: nothing is lost, and no thread ends.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use super::*;
use crate::{
    SubmitError, Submitter, TaskError, TaskFuture,
    jobs::{CpuTask, PointerJob, Reply},
    pool::{Pool, PoolNumbers},
    registry::Registry,
    workers::Workers,
};

/// Panics without a word on the terminal.
fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// A waker of a runtime that is broken.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        panic_quietly();
    }
}

fn poll_with_a_broken_waker<O>(future: &mut TaskFuture<O>) {
    let waker = Waker::from(Arc::new(Broken));
    let polled = Pin::new(future).poll(&mut Context::from_waker(&waker));
    assert!(matches!(polled, Poll::Pending));
}

/// A task and an output that panic when they are dropped, if they say so.
struct Sharp(bool);

impl Drop for Sharp {
    fn drop(&mut self) {
        if self.0 {
            panic_quietly();
        }
    }
}

impl HostTask for Sharp {
    type Output = Sharp;
}

#[test]
fn a_worker_outlives_wakers_that_panic() {
    let door = Arc::new(cpu::Door::default());
    let passing = door.clone();
    let queues = TaskQueueBuilder::default()
        .handler(move |Double(n)| {
            passing.pass();
            Ok(2 * n)
        })
        .workers(1)
        .build_for(&[])
        .unwrap();
    let mut moved = queues.submit(Double(1)).unwrap();
    let mut copied = queues.submit_copy(Double(2)).unwrap();
    poll_with_a_broken_waker(&mut moved);
    poll_with_a_broken_waker(&mut copied);
    door.open();
    assert_eq!(queues.submit(Double(3)).unwrap().wait(), Ok(6));
    assert_eq!((moved.wait(), copied.wait()), (Ok(2), Ok(4)));
    let stats = queues.shutdown().unwrap();
    assert_eq!((stats.caught_panics, stats.handled()), (2, 3));
}

#[test]
fn a_worker_outlives_outputs_that_panic_when_they_are_dropped() {
    let door = Arc::new(cpu::Door::default());
    let passing = door.clone();
    let queues = TaskQueueBuilder::default()
        .host_handler(move |mut task: Sharp| {
            passing.pass();
            Ok(Sharp(std::mem::take(&mut task.0)))
        })
        .workers(1)
        .build_for(&[])
        .unwrap();
    for _ in 0..3 {
        drop(queues.submit(Sharp(true)).unwrap());
    }
    let last = queues.submit(Sharp(false)).unwrap();
    door.open();
    assert!(last.wait().is_ok());
    let stats = queues.shutdown().unwrap();
    assert_eq!((stats.caught_panics, stats.handled()), (3, 4));
}

/// Discarded tasks whose end panics have an answer all the same.
#[test]
fn tasks_that_panic_when_they_are_dropped_are_answered_as_closed() {
    let door = Arc::new(cpu::Door::default());
    let passing = door.clone();
    let queues = TaskQueueBuilder::default()
        .host_handler(move |Name(name)| {
            passing.pass();
            Ok(name)
        })
        .host_handler(|mut task: Sharp| Ok(Sharp(std::mem::take(&mut task.0))))
        .workers(1)
        .build_for(&[])
        .unwrap();
    let held = queues.submit(Name("held".into())).unwrap();
    door.wait_for(1);
    let waiting: Vec<_> = (0..3)
        .map(|_| queues.submit(Sharp(true)).unwrap())
        .collect();
    let submitter = queues.submitter().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(queues));
        // Full is not enough: what waits would still be run.
        while !matches!(
            submitter.try_submit(Name(String::new())),
            Err(SubmitError::Closed(_))
        ) {
            std::thread::yield_now();
        }
        door.open();
        for future in waiting {
            assert!(matches!(future.wait(), Err(TaskError::Closed)));
        }
    });
    assert_eq!(held.wait(), Ok("held".to_owned()));
    let stats = submitter.stats();
    let ended = stats.handled() + stats.discarded;
    assert_eq!(ended, stats.pointers.submitted, "{stats}");
    assert_eq!(stats.caught_panics, 3);
}

/// A handler waits for a task while it holds a lock that other tasks take.
#[test]
fn a_handler_may_hold_a_lock_while_it_waits() {
    struct Holding(Arc<Mutex<u64>>);
    impl HostTask for Holding {
        type Output = u64;
    }
    struct Taking(Arc<Mutex<u64>>);
    impl HostTask for Taking {
        type Output = ();
    }
    for workers in [1, 2] {
        let queues = TaskQueueBuilder::default()
            .host_handler(|Holding(lock)| {
                let submitter = Submitter::current().ok_or(TaskFailure(1))?;
                let number = lock.lock().unwrap();
                // Those come first, and there is no room for them.
                for _ in 0..40 {
                    let lock = lock.clone();
                    drop(submitter.submit(Taking(lock)).map_err(|_| TaskFailure(2))?);
                }
                let moved = submitter
                    .submit(Double(*number))
                    .map_err(|_| TaskFailure(3))?;
                let copied = submitter
                    .submit_copy(Double(*number))
                    .map_err(|_| TaskFailure(4))?;
                let sum = moved.wait().map_err(|_| TaskFailure(5))?
                    + copied.wait().map_err(|_| TaskFailure(6))?;
                drop(number);
                Ok(sum)
            })
            .host_handler(|Taking(lock)| {
                *lock.lock().unwrap() += 1;
                Ok(())
            })
            .handler(|Double(n)| Ok(2 * n))
            .cpu_depth(8)
            .workers(workers)
            .build_for(&[])
            .unwrap();
        let lock = Arc::new(Mutex::new(5));
        let mut sum = queues.submit(Holding(lock.clone())).unwrap();
        assert_eq!(sum.wait_timeout(Duration::from_secs(60)), Some(Ok(20)));
        let stats = queues.shutdown().unwrap();
        assert_eq!(*lock.lock().unwrap(), 45);
        assert_eq!(stats.handled(), 43);
    }
}

/// The number of another type's handler is not enough.
#[test]
fn a_type_that_only_moves_is_not_copied_to_the_handler_of_another() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
    #[repr(C)]
    struct Same(u64);
    impl Task for Same {
        const METHOD: u16 = Double::METHOD;
        type Output = u64;
    }
    let queues = builder()
        .host_handler(|Same(n)| Ok(n + 1))
        .build_for(&[])
        .unwrap();
    for refused in [queues.submit_copy(Same(1)), queues.try_submit_copy(Same(1))] {
        let error = refused.unwrap_err();
        assert!(
            matches!(error, SubmitError::OnlyMoves(Same(1))),
            "{error:?}"
        );
        assert!(error.to_string().contains("handler"), "{error}");
    }
    assert_eq!(queues.submit(Same(1)).unwrap().wait(), Ok(2));
    assert_eq!(queues.submit_copy(Double(1)).unwrap().wait(), Ok(2));
}

fn open_pool() -> Pool {
    let mut registry = Registry::new();
    registry.add(false, |Double(n)| Ok(n)).unwrap();
    let numbers = PoolNumbers {
        priorities: 2,
        job_capacity: 1,
        cpu_depth: 8,
    };
    Pool::new(registry, numbers).unwrap()
}

/// Returns a pool whose workers have ended.
fn ended_pool() -> Pool {
    let pool = open_pool();
    pool.end();
    pool
}

/// A thread that found the pool open is waited for, however long it takes to bring its task, in either way.
#[test]
fn workers_wait_for_a_submission_that_was_counted() {
    for copies in [false, true] {
        let pool = Arc::new(open_pool());
        let workers = Workers::start(&pool, 2).unwrap();
        match copies {
            true => pool.copies().count(),
            false => pool.pointers().count(),
        }
        let joining = std::thread::spawn(move || workers.join());
        while pool.is_open() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(30));
        assert!(!joining.is_finished(), "a task is on its way");
        let place = CpuTask::new(Double(7), pool.id(), 0, None);
        if copies {
            let (reply, bytes) = (Reply::host(place.clone()), 7_u64.to_le_bytes());
            // The ring is closed, but has slots that were granted before.
            let submitted = pool.host().submit(0, Double::METHOD, &bytes, reply);
            assert_eq!(submitted, crate::host_rings::Submitted::Accepted);
            pool.after_submission();
        } else {
            assert!(pool.push_pointer(0, PointerJob::new(place.clone())).is_ok());
        }
        joining.join().unwrap();
        let answer = TaskFuture::new(place).wait_timeout(Duration::ZERO);
        assert_eq!(answer, Some(Ok(7)));
        assert_eq!(pool.discarded(), 0);
    }
}

/// A thread that looked just before the task came does not keep it from its answer.
#[test]
fn a_task_after_the_end_waits_for_another_look() {
    let pool = &ended_pool();
    let place = CpuTask::new(Double(1), pool.id(), 0, None);
    let reply = Reply::host(place.clone());
    let submitted = pool.host().submit(0, Double::METHOD, &[0; 8], reply);
    assert_eq!(submitted, crate::host_rings::Submitted::Accepted);
    std::thread::scope(|scope| {
        let other = pool.host().hold(0);
        assert!(other.is_some());
        let submitting = scope.spawn(|| pool.after_submission());
        std::thread::sleep(Duration::from_millis(30));
        drop(other);
        submitting.join().unwrap();
    });
    let answer = TaskFuture::new(place).wait_timeout(Duration::ZERO);
    assert_eq!(answer, Some(Err(TaskError::Closed)));
    assert_eq!(pool.discarded(), 1);
}

/// Threads that submit when the workers have ended find each other's tasks, and answer them.
#[test]
fn what_comes_after_the_end_is_answered_by_whoever_brings_it() {
    for _ in 0..1_000 {
        let pool = ended_pool();
        let (answered, pool) = (AtomicUsize::new(0), &pool);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let answered = &answered;
                scope.spawn(move || {
                    let mut futures = Vec::new();
                    for n in 0..2 {
                        let place = CpuTask::new(Double(n), pool.id(), 0, None);
                        let reply = Reply::host(place.clone());
                        let bytes = n.to_le_bytes();
                        pool.host()
                            .submit(thread % 2, Double::METHOD, &bytes, reply);
                        pool.after_submission();
                        futures.push(TaskFuture::new(place));
                        let place = CpuTask::new(Double(n), pool.id(), 0, None);
                        let job = PointerJob::new(place.clone());
                        assert!(pool.push_pointer(thread % 2, job).is_ok());
                        futures.push(TaskFuture::new(place));
                    }
                    for mut future in futures {
                        let answer = future.wait_timeout(Duration::from_secs(20));
                        assert_eq!(answer, Some(Err(TaskError::Closed)));
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(answered.into_inner(), 16);
        assert_eq!(pool.discarded(), 16);
    }
}
