//! Submissions by CPU threads, without a GPU.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{SubmitError, Submitter, TaskError, TaskFailure, TaskFuture, TaskQueues};

fn queues(builder: TaskQueueBuilder) -> TaskQueues {
    builder.build_for(&[]).unwrap()
}

/// A door that handlers stand before until it is opened.
#[derive(Default)]
pub(super) struct Door {
    open: Mutex<bool>,
    opened: Condvar,
    pub(super) waiting: AtomicUsize,
}

impl Door {
    pub(super) fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }

    pub(super) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub(super) fn close(&self) {
        *self.open.lock().unwrap() = false;
    }

    pub(super) fn wait_for(&self, count: usize) {
        while self.waiting.load(Ordering::SeqCst) < count {
            std::thread::yield_now();
        }
    }
}

/// A runtime of one thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn both_ways_have_the_same_handlers() {
    let queues = queues(builder());
    assert!(queues.is_empty());
    for n in 0..200 {
        assert_eq!(queues.submit(Double(n)).unwrap().wait(), Ok(n * 2));
        assert_eq!(queues.submit_copy(Double(n)).unwrap().wait(), Ok(n * 2));
        assert_eq!(block_on(queues.submit_copy(Increment(7)).unwrap()), Ok(8));
        assert_eq!(block_on(queues.submit(Increment(7)).unwrap()), Ok(8));
    }
    let hello = queues.submit(Name("you".into())).unwrap();
    assert_eq!(hello.wait(), Ok("Hello, you".to_owned()));
    let submitter = queues.submitter().clone();
    queues.shutdown().unwrap();
    let stats = submitter.stats();
    assert_eq!(
        (stats.pointers.submitted, stats.copies.submitted),
        (401, 400)
    );
    assert_eq!(stats.handled(), 801);
}

#[test]
fn a_handler_that_fails_or_panics_fails_its_task_alone() {
    let queues = queues(builder().workers(1));
    for _ in 0..50 {
        for future in [
            queues.submit(Fail(9)).unwrap(),
            queues.submit_copy(Fail(9)).unwrap(),
        ] {
            assert_eq!(future.wait(), Err(TaskError::Failed(TaskFailure(9))));
        }
        for future in [
            queues.submit(Fail(0)).unwrap(),
            queues.submit_copy(Fail(0)).unwrap(),
        ] {
            assert_eq!(future.wait(), Err(TaskError::Panicked));
        }
    }
    assert_eq!(queues.submit(Increment(1)).unwrap().wait(), Ok(2));
    let submitter = queues.submitter().clone();
    queues.shutdown().unwrap();
    let stats = submitter.stats();
    let method = stats.methods.iter().find(|one| one.method == Some(0xFFFE));
    let method = method.unwrap();
    assert_eq!((method.done, method.failed, method.panicked), (0, 100, 100));
}

#[test]
fn a_full_queue_returns_the_task_and_runs_all_others() {
    let door = Arc::new(Door::default());
    let passing = door.clone();
    let queues = queues(
        TaskQueueBuilder::default()
            .handler(|Double(n)| Ok(n * 2))
            .host_handler(move |Name(name)| {
                passing.pass();
                Ok(name)
            })
            .cpu_depth(8)
            .workers(1),
    );
    let held = queues.submit(Name("held".into())).unwrap();
    door.wait_for(1);
    let mut accepted = Vec::new();
    let mut refused = 0;
    for n in 0..100 {
        for result in [
            queues.try_submit(Double(n)),
            queues.try_submit_copy(Double(n)),
        ] {
            match result {
                Ok(future) => accepted.push((n, future)),
                Err(SubmitError::Full(task)) => {
                    assert_eq!(task, Double(n));
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!((accepted.len(), refused), (16, 184));
    // Those that wait for room get it.
    std::thread::scope(|scope| {
        let waiting = [
            scope.spawn(|| queues.submit(Double(1000)).unwrap().wait()),
            scope.spawn(|| queues.submit_copy(Double(1000)).unwrap().wait()),
        ];
        door.open();
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), Ok(2000));
        }
    });
    for (n, future) in accepted {
        assert_eq!(future.wait(), Ok(n * 2));
    }
    assert_eq!(held.wait(), Ok("held".to_owned()));
    let stats = queues.stats();
    // Those that waited were not refused.
    assert_eq!((stats.pointers.refused, stats.copies.refused), (92, 92));
}

#[test]
fn a_type_without_a_handler_is_returned() {
    let queues = queues(TaskQueueBuilder::default());
    let error = queues.submit(Name("x".into())).unwrap_err();
    assert!(error.to_string().contains("Name"), "{error}");
    assert_eq!(error.into_task(), Name("x".into()));
    assert!(matches!(
        queues.submit_copy(Double(1)),
        Err(SubmitError::NoHandler(Double(1)))
    ));
}

/// A handler that submits tasks and waits for them, on one worker, deeper than there are workers.
#[test]
fn handlers_wait_for_tasks_that_they_submit() {
    struct Tree(u32);
    impl HostTask for Tree {
        type Output = u64;
    }
    let queues = queues(
        TaskQueueBuilder::default()
            .host_handler(|Tree(depth)| {
                let submitter = Submitter::current().ok_or(TaskFailure(1))?;
                if depth == 0 {
                    return Ok(1);
                }
                let children = [0, 1].map(|_| submitter.submit(Tree(depth - 1)));
                let copied = submitter.submit_copy(Increment(depth));
                let mut sum = 0;
                for child in children {
                    sum += child
                        .map_err(|_| TaskFailure(2))?
                        .wait()
                        .map_err(|_| TaskFailure(3))?;
                }
                let next = copied.map_err(|_| TaskFailure(4))?.wait();
                (next == Ok(depth + 1)).then_some(sum).ok_or(TaskFailure(5))
            })
            .handler(|Increment(n)| Ok(n + 1))
            .workers(1),
    );
    assert_eq!(queues.submit(Tree(6)).unwrap().wait(), Ok(64));
}

/// Handlers that wait for each other without end get an error, and none hangs.
#[test]
fn handlers_that_wait_too_deeply_get_an_error() {
    struct Endless(u32);
    impl HostTask for Endless {
        type Output = u32;
    }
    let queues = queues(
        TaskQueueBuilder::default()
            .host_handler(|Endless(depth)| {
                let submitter = Submitter::current().ok_or(TaskFailure(0))?;
                let next = submitter
                    .submit(Endless(depth + 1))
                    .map_err(|_| TaskFailure(0))?;
                match next.wait() {
                    Ok(depth) => Ok(depth),
                    Err(TaskError::Failed(failure)) => Err(failure),
                    Err(_) => Err(TaskFailure(depth)),
                }
            })
            .workers(1),
    );
    let result = queues.submit(Endless(0)).unwrap().wait();
    let Err(TaskError::Failed(TaskFailure(depth))) = result else {
        panic!("{result:?}");
    };
    assert!((16..=64).contains(&depth), "{depth}");
}

/// More submissions by a handler than there is room for, while no other worker could make room.
#[test]
fn a_handler_that_submits_into_a_full_queue_makes_room_itself() {
    struct Flood;
    impl HostTask for Flood {
        type Output = u64;
    }
    let queues = queues(
        TaskQueueBuilder::default()
            .host_handler(|Flood| {
                let submitter = Submitter::current().ok_or(TaskFailure(0))?;
                let futures: Vec<TaskFuture<u64>> = (0..500)
                    .flat_map(|n| {
                        [
                            submitter.submit(Double(n)),
                            submitter.submit_copy(Double(n)),
                        ]
                    })
                    .collect::<Result<_, _>>()
                    .map_err(|_| TaskFailure(1))?;
                futures
                    .into_iter()
                    .map(|future| future.wait().map_err(|_| TaskFailure(2)))
                    .sum()
            })
            .handler(|Double(n)| Ok(n * 2))
            .cpu_depth(8)
            .workers(1),
    );
    assert_eq!(queues.submit(Flood).unwrap().wait(), Ok(499 * 500 * 2));
}

#[test]
fn a_future_that_is_dropped_or_timed_out_leaves_the_task_alone() {
    let door = Arc::new(Door::default());
    let passing = door.clone();
    let ran = Arc::new(AtomicU64::new(0));
    let count = ran.clone();
    let queues = queues(
        TaskQueueBuilder::default()
            .handler(move |Double(n)| {
                passing.pass();
                count.fetch_add(n, Ordering::SeqCst);
                Ok(n * 2)
            })
            .workers(1),
    );
    drop(queues.submit(Double(1)).unwrap());
    drop(queues.submit_copy(Double(10)).unwrap());
    let mut future = queues.submit(Double(100)).unwrap();
    assert_eq!(future.wait_timeout(Duration::from_millis(1)), None);
    assert!(!future.is_done());
    door.open();
    assert_eq!(future.wait_timeout(Duration::MAX), Some(Ok(200)));
    assert_eq!(future.try_take(), Some(Err(TaskError::Taken)));
    queues.shutdown().unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 111);
}

/// A handler that waits for ever, and cannot, is told so.
#[test]
fn a_wait_without_end_in_too_many_handlers_is_refused() {
    let queues = queues(
        TaskQueueBuilder::default()
            .handler(|Double(n)| {
                let Some(n) = n.checked_sub(1) else {
                    return Ok(0);
                };
                let submitter = Submitter::current().unwrap();
                let mut future = submitter.submit(Double(n)).unwrap();
                match future.wait_timeout(Duration::MAX) {
                    Some(Err(TaskError::TooDeep)) => Ok(1),
                    other => other.unwrap().map_err(|_| TaskFailure(1)),
                }
            })
            .workers(1),
    );
    assert_eq!(queues.submit(Double(40)).unwrap().wait(), Ok(1));
    assert_eq!(queues.submit(Double(10)).unwrap().wait(), Ok(0));
    queues.shutdown().unwrap();
}

/// Tasks and outputs are dropped once, whether they were run, discarded, or nobody waits.
#[test]
fn nothing_is_dropped_twice_or_leaked() {
    static LIVE: AtomicUsize = AtomicUsize::new(0);
    struct Counted;
    impl Counted {
        fn new() -> Self {
            LIVE.fetch_add(1, Ordering::SeqCst);
            Self
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            assert_ne!(LIVE.fetch_sub(1, Ordering::SeqCst), 0);
        }
    }
    impl HostTask for Counted {
        type Output = Counted;
    }
    for end in 0..3 {
        let door = Arc::new(Door::default());
        let passing = door.clone();
        let queues = queues(
            TaskQueueBuilder::default()
                .host_handler(move |task: Counted| {
                    passing.pass();
                    drop(task);
                    Ok(Counted::new())
                })
                .cpu_depth(8)
                .workers(1),
        );
        let futures: Vec<_> = (0..12)
            .filter_map(|_| queues.try_submit(Counted::new()).ok())
            .collect();
        assert!(futures.len() >= 8);
        door.wait_for(1);
        match end {
            0 => {
                door.open();
                queues.shutdown().unwrap();
                for future in futures {
                    assert!(future.wait().is_ok());
                }
            }
            1 => {
                drop(futures);
                door.open();
                drop(queues);
            }
            _ => {
                std::thread::scope(|scope| {
                    let ending = scope.spawn(move || drop(queues));
                    // The one that runs gets its answer, and the others are closed.
                    let closed = futures.into_iter().skip(1).map(TaskFuture::wait);
                    let opener = scope.spawn(|| door.open());
                    for result in closed {
                        assert!(matches!(result, Ok(_) | Err(TaskError::Closed)));
                    }
                    opener.join().unwrap();
                    ending.join().unwrap();
                });
            }
        }
        assert_eq!(LIVE.load(Ordering::SeqCst), 0, "end {end}");
    }
}

#[test]
fn a_submitter_outlives_its_queues_and_is_refused() {
    for discards in [false, true] {
        let queues = queues(builder());
        let submitter = queues.submitter().clone();
        if discards {
            drop(queues);
        } else {
            queues.shutdown().unwrap();
        }
        assert!(matches!(
            submitter.submit(Double(1)),
            Err(SubmitError::Closed(Double(1)))
        ));
        assert!(matches!(
            submitter.try_submit_copy(Double(1)),
            Err(SubmitError::Closed(_))
        ));
    }
}

/// Threads submit while the queues end: each task is either refused, or has an answer.
#[test]
fn every_submission_beside_an_end_has_an_answer() {
    for round in 0..60 {
        let queues = queues(builder().cpu_depth(8));
        let ran = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|number| {
                    let (submitter, ran) = (queues.submitter().with_priority(number), ran.clone());
                    scope.spawn(move || {
                        let mut pending = Vec::new();
                        for n in 0.. {
                            let submitted = if n % 2 == 0 {
                                submitter.submit(Double(n))
                            } else {
                                submitter.submit_copy(Double(n))
                            };
                            match submitted {
                                Ok(future) => pending.push((n, future)),
                                Err(SubmitError::Closed(_)) => break,
                                Err(other) => panic!("{other}"),
                            }
                            ran.fetch_add(1, Ordering::SeqCst);
                        }
                        for (n, future) in pending {
                            match future.wait() {
                                Ok(output) => assert_eq!(output, n * 2),
                                Err(TaskError::Closed) => {}
                                Err(other) => panic!("{other}"),
                            }
                        }
                    })
                })
                .collect();
            while ran.load(Ordering::SeqCst) < round * 3 {
                std::hint::spin_loop();
            }
            match round % 3 {
                0 => drop(queues.shutdown().unwrap()),
                1 => drop(queues),
                _ => {
                    queues.close();
                    drop(queues);
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

/// A handler that holds the queues themselves, and is the last to do so.
#[test]
fn queues_may_end_on_a_thread_of_their_own() {
    struct Last(Arc<Mutex<Option<TaskQueues>>>, bool);
    impl HostTask for Last {
        type Output = ();
    }
    for shuts_down in [false, true] {
        let place = Arc::new(Mutex::new(None));
        let queues = queues(
            TaskQueueBuilder::default()
                .host_handler(|Last(place, shuts_down)| {
                    let queues = place.lock().unwrap().take();
                    match queues {
                        Some(queues) if shuts_down => {
                            queues.shutdown().map(drop).map_err(|_| TaskFailure(1))
                        }
                        queues => {
                            drop(queues);
                            Ok(())
                        }
                    }
                })
                .workers(2),
        );
        let submitter = queues.submitter().clone();
        *place.lock().unwrap() = Some(queues);
        let last = submitter.submit(Last(place, shuts_down)).unwrap();
        assert_eq!(last.wait(), Ok(()));
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Moved(u64),
    Copied(u64),
    Failing(u32),
    Wait(usize),
    Forget(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0u64..1000).prop_map(Act::Moved),
        3 => (0u64..1000).prop_map(Act::Copied),
        1 => (0u32..3).prop_map(Act::Failing),
        4 => any::<usize>().prop_map(Act::Wait),
        1 => any::<usize>().prop_map(Act::Forget),
    ];
    prop::collection::vec(act, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sequence of submissions and waits, against what the handlers compute.
    #[test]
    fn answers_are_those_of_the_handlers(acts in acts(), priority in 0u32..5, workers in 1usize..3) {
        let queues = queues(builder().cpu_depth(64).workers(workers));
        let submitter = queues.submitter().with_priority(priority);
        let mut pending: Vec<(u64, TaskFuture<u64>)> = Vec::new();
        let mut failing = Vec::new();
        let (mut submitted, mut failures, mut panics) = (0u64, 0u64, 0u64);
        for act in acts {
            match act {
                Act::Moved(n) => { submitted += 1; pending.push((n, submitter.submit(Double(n)).unwrap())); }
                Act::Copied(n) => { submitted += 1; pending.push((n, submitter.submit_copy(Double(n)).unwrap())); }
                Act::Failing(code) => {
                    if code == 0 { panics += 1 } else { failures += 1 }
                    failing.push((code, submitter.submit_copy(Fail(code)).unwrap()));
                }
                Act::Wait(which) if !pending.is_empty() => {
                    let (n, future) = pending.swap_remove(which % pending.len());
                    prop_assert_eq!(future.wait(), Ok(n * 2));
                }
                Act::Forget(which) if !pending.is_empty() => drop(pending.swap_remove(which % pending.len())),
                Act::Wait(_) | Act::Forget(_) => {}
            }
        }
        for (code, future) in failing {
            let expected = if code == 0 { TaskError::Panicked } else { TaskError::Failed(TaskFailure(code)) };
            prop_assert_eq!(future.wait(), Err(expected));
        }
        for (n, future) in pending {
            prop_assert_eq!(future.wait(), Ok(n * 2));
        }
        let pool = queues.submitter().clone();
        queues.shutdown().unwrap();
        let stats = pool.stats();
        prop_assert_eq!(stats.methods[0].done, submitted);
        prop_assert_eq!((stats.methods[2].failed, stats.methods[2].panicked), (failures, panics));
    }
}
