//! Resident kernels that take tasks from CPU code.

mod turns;
mod wakers;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use bytemuck::{Pod, Zeroable};
use cuda_green::{GreenContext, Kernel, LaunchConfig, Stream, sim::Launch, sys::CUresult};
use cuda_green_queue::{
    Error, ResidentQueue, SubmitError, Task, TaskError, TaskFailure,
    simulated::{InboxSide, Next},
};

use crate::fixture::{Add, Gpu, Square};

/// Launches the resident kernel of a queue.
fn launch(queue: &ResidentQueue, stream: &Stream, kernel: &Kernel) -> cuda_green_queue::Result<()> {
    // SAFETY: the argument is that of the kernel, and the queue is fenced.
    unsafe {
        queue.launch(
            stream,
            kernel,
            &LaunchConfig::linear(2, 32),
            &[&queue.device_inbox(), &0_u64],
        )
    }
}

/// Runs a block for each of two lanes, on threads of their own.
fn two_blocks(launch: &Launch<'_>, block: impl Fn(InboxSide<'_>) + Sync) {
    thread::scope(|scope| {
        for lane in 0..2 {
            let block = &block;
            scope.spawn(move || block(InboxSide::argument(launch, 0, lane).unwrap()));
        }
    });
}

/// Returns a resident kernel whose two blocks answer with the squares of numbers.
fn squares(gpu: &Gpu) -> Kernel {
    gpu.kernel("resident", |launch| {
        two_blocks(launch, |block| block.serve(|Square(n)| Ok(n * n)));
    })
}

/// Returns a queue of two lanes, a block for each of which is there in [`two_blocks`].
fn two_lanes(gpu: &Gpu) -> ResidentQueue {
    ResidentQueue::builder()
        .lanes(2)
        .build(&gpu.device)
        .unwrap()
}

/// A kernel whose end the driver does not record is there until all fenced work is over.
#[test]
fn a_kernel_whose_end_is_unknown_keeps_others_out() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let queue = two_lanes(&gpu);
    let stream = gpu.stream();
    // The first is that of the fence before.
    let code = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    gpu.sim.fail("cuEventRecord", 2, code).unwrap();
    let refused = launch(&queue, &stream, &kernel);
    assert!(matches!(refused, Err(Error::CudaGreen(_))), "{refused:?}");
    assert!(matches!(queue.wait(), Err(Error::Resident)));
    let second = launch(&queue, &stream, &kernel);
    assert!(matches!(second, Err(Error::Resident)), "{second:?}");
    let future = queue.submit(Square(3)).unwrap();
    assert_eq!(future.wait().unwrap(), 9);
    queue.leave();
    while queue.wait().is_err() {
        thread::yield_now();
    }
    launch(&queue, &stream, &kernel).unwrap();
    queue.shutdown().unwrap();
}

/// A task is done before `finish` lets the kernel go, though it is behind one that another thread is about to submit.
#[test]
fn what_was_submitted_before_finish_is_done() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let queue = ResidentQueue::builder()
        .lanes(2)
        .depth(1 << 12)
        .build(&gpu.device)
        .unwrap();
    let stream = gpu.stream();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(queue.try_submit(Square(1)));
                }
            });
        }
        let undone = (0..150).filter(|_| {
            launch(&queue, &stream, &kernel).unwrap();
            let mut future = queue.submit(Square(7)).unwrap();
            queue.finish();
            queue.wait().unwrap();
            future.try_take() != Some(Ok(49))
        });
        let undone = undone.count();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(undone, 0);
    });
}

/// A launch that was refused leaves nothing behind for which the end of the queue would wait.
#[test]
fn a_refused_launch_has_no_fence() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let [first, second] = [(), ()].map(|()| {
        let queue = two_lanes(&gpu);
        let stream = gpu.stream();
        launch(&queue, &stream, &kernel).unwrap();
        (queue, stream)
    });
    let refused = launch(&first.0, &second.1, &kernel);
    assert!(matches!(refused, Err(Error::Resident)), "{refused:?}");
    let (sender, receiver) = mpsc::channel();
    let ending = thread::spawn(move || {
        drop(first);
        sender.send(()).unwrap();
    });
    let ended = receiver.recv_timeout(Duration::from_secs(20));
    drop(second);
    ending.join().unwrap();
    assert_eq!(
        ended,
        Ok(()),
        "the first queue waits for the kernel of the second"
    );
}

/// Threads submit to all lanes and priorities of small rings, with few entries for answers; some drop their futures
/// before the answer. Each answer is that of its own task, and each task is done once.
#[test]
fn many_threads_submit_to_two_blocks() {
    const THREADS: u64 = 4;
    const TASKS: u64 = 300;
    let gpu = Gpu::new();
    let done = Arc::new(AtomicU64::new(0));
    let sum = done.clone();
    let kernel = gpu.kernel("resident", move |launch| {
        two_blocks(launch, |block| {
            block.serve(|Square(n)| {
                sum.fetch_add(n, Ordering::Relaxed);
                Ok(n * n)
            });
        });
    });
    let queue = ResidentQueue::builder()
        .lanes(2)
        .priorities(2)
        .depth(8)
        .futures(4)
        .build(&gpu.device)
        .unwrap();
    launch(&queue, &gpu.stream(), &kernel).unwrap();
    thread::scope(|scope| {
        for first in (0..THREADS).map(|thread| thread * TASKS) {
            let queue = &queue;
            scope.spawn(move || {
                for n in first..first + TASKS {
                    let (lane, priority) = ((n % 2) as u32, (n / 2 % 2) as u32);
                    let mut task = Square(n);
                    let future = loop {
                        task = match queue.try_submit_to(lane, priority, task) {
                            Ok(future) => break future,
                            Err(SubmitError::Full(task)) => task,
                            Err(error) => panic!("{error}"),
                        };
                        assert_eq!(task, Square(n), "another task came back");
                        thread::yield_now();
                    };
                    match n % 3 {
                        0 => drop(future),
                        _ => assert_eq!(future.wait(), Ok(n * n)),
                    }
                }
            });
        }
    });
    queue.shutdown().unwrap();
    let all = THREADS * TASKS;
    assert_eq!(done.load(Ordering::Relaxed), (0..all).sum());
}

/// The kernel is told to leave again and again, and goes on in the stream of another context: no task is lost, done twice
/// or out of order.
#[test]
fn it_leaves_and_the_next_launch_goes_on() {
    const TASKS: u64 = 300;
    let gpu = Gpu::new();
    let seen: Arc<Mutex<[Vec<u64>; 2]>> = Arc::default();
    let order = seen.clone();
    let kernel = gpu.kernel("resident", move |launch| {
        two_blocks(launch, |block| {
            block.serve(|Square(n)| {
                order.lock().unwrap()[(n % 2) as usize].push(n);
                Ok(n * n)
            });
        });
    });
    let queue = ResidentQueue::builder()
        .lanes(2)
        .depth(8)
        .build(&gpu.device)
        .unwrap();
    let other = GreenContext::primary(&gpu.device, Default::default()).unwrap();
    let streams = [gpu.stream(), other.create_stream().unwrap()];
    let launches = AtomicU64::new(0);
    thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            for n in 0..TASKS {
                // So that there are some.
                while n == TASKS / 2 && launches.load(Ordering::Relaxed) < 2 {
                    thread::yield_now();
                }
                let future = loop {
                    match queue.try_submit_to((n % 2) as u32, 0, Square(n)) {
                        Ok(future) => break future,
                        Err(_) => thread::yield_now(),
                    }
                };
                // Some wait for their answers across a relaunch.
                if n % 5 == 0 {
                    assert_eq!(future.wait(), Ok(n * n));
                }
            }
        });
        while !submitter.is_finished() {
            let number = launches.fetch_add(1, Ordering::Relaxed);
            launch(&queue, &streams[(number % 2) as usize], &kernel).unwrap();
            let again = launch(&queue, &streams[0], &kernel);
            assert!(matches!(again, Err(Error::Resident)), "{again:?}");
            queue.leave();
            queue.wait().unwrap();
        }
    });
    launch(&queue, &streams[0], &kernel).unwrap();
    queue.shutdown().unwrap();
    let seen = seen.lock().unwrap();
    for (lane, seen) in (0..).zip(seen.iter()) {
        let expected = (0..TASKS / 2).map(|n| 2 * n + lane);
        assert_eq!(*seen, expected.collect::<Vec<_>>());
    }
}

/// A kernel that was told to leave takes no other task; one that is to finish does all.
#[test]
fn leave_is_at_once_and_finish_after_all() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let queue = two_lanes(&gpu);
    // The command comes before the kernel: it sees that before any task, unless the launch takes it back.
    let stream = gpu.stream();
    let body = Arc::new(Mutex::new(()));
    let gate = body.clone();
    let gated = gpu.kernel("submits", move |launch| {
        drop(gate.lock().unwrap());
        two_blocks(launch, |mut block| {
            assert!(matches!(block.take_next(), Next::Leave));
        });
    });
    let closed = body.lock().unwrap();
    launch(&queue, &stream, &gated).unwrap();
    let mut futures: Vec<_> = (0..50)
        .map(|n| queue.try_submit(Square(n)).unwrap())
        .collect();
    queue.leave();
    drop(closed);
    queue.wait().unwrap();
    assert!(futures.iter_mut().all(|future| future.try_take().is_none()));
    launch(&queue, &stream, &kernel).unwrap();
    queue.shutdown().unwrap();
    for (n, future) in (0..).zip(&mut futures) {
        assert_eq!(future.try_take(), Some(Ok(n * n)));
        assert_eq!(future.try_take(), Some(Err(TaskError::Taken)));
    }
}

#[test]
fn what_waits_when_the_queue_ends_is_closed() {
    let gpu = Gpu::new();
    let queue = ResidentQueue::builder()
        .lanes(2)
        .depth(8)
        .build(&gpu.device)
        .unwrap();
    let mut futures = Vec::new();
    let refused = loop {
        match queue.try_submit(Square(futures.len() as u64)) {
            Ok(future) => futures.push(future),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SubmitError::Full(Square(16)));
    assert_eq!(futures.len(), 16);
    assert!(!futures[0].is_done());
    assert_eq!(futures[0].wait_timeout(Duration::from_millis(1)), None);
    let waiting = futures.split_off(8);
    thread::scope(|scope| {
        let awaited = scope.spawn(|| waiting.into_iter().map(block_on).collect::<Vec<_>>());
        let waited = scope.spawn(|| futures.into_iter().map(|future| future.wait()).collect());
        drop(queue);
        let results: [Vec<_>; 2] = [awaited.join().unwrap(), waited.join().unwrap()];
        assert_eq!(results.concat(), vec![Err(TaskError::Closed); 16]);
    });
}

/// A task of two words, which the queue of the next test has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Large([u64; 2]);

impl Task for Large {
    const METHOD: u16 = 3;
    type Output = [u8; 24];
}

#[test]
fn what_cannot_be_done_is_said() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel("resident", |launch| {
        two_blocks(launch, |mut block| {
            while let Some(taken) = block.wait_next() {
                match taken.task::<Square>() {
                    Some(Square(0)) => {
                        let failure = Err(TaskFailure(u32::MAX));
                        block.answer::<Square>(taken, failure).unwrap();
                    }
                    // Not the output that is expected.
                    Some(Square(_)) => block.answer::<Add>(taken, Ok(())).unwrap(),
                    None => block.refuse(taken),
                }
            }
        });
    });
    let queue = ResidentQueue::builder()
        .lanes(2)
        .payload_bytes(20)
        .build(&gpu.device)
        .unwrap();
    launch(&queue, &gpu.stream(), &kernel).unwrap();
    let failed = queue.try_submit(Square(0)).unwrap().wait();
    assert_eq!(failed, Err(TaskFailure(u32::MAX).into()));
    let other = queue.try_submit(Square(1)).unwrap().wait();
    assert_eq!(other, Err(TaskError::BadOutput));
    let unknown = queue.try_submit(Large([1, 2])).unwrap().wait();
    assert_eq!(unknown, Err(TaskError::UnknownMethod));
    for (lane, priority) in [(2, 0), (0, 1), (u32::MAX, u32::MAX)] {
        let nowhere = queue.try_submit_to(lane, priority, Square(3));
        assert_eq!(nowhere.unwrap_err(), SubmitError::NoSuchRing(Square(3)));
    }
    queue.shutdown().unwrap();
    let small = ResidentQueue::builder()
        .payload_bytes(1 << 20)
        .build(&gpu.device);
    assert!(matches!(small, Err(Error::InvalidLayout { .. })));
}

/// Every length of a payload, and an output longer than a word, arrives whole.
#[test]
fn payloads_and_outputs_of_several_words() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel("resident", |launch| {
        two_blocks(launch, |block| {
            block.serve(|Large([a, b])| {
                let mut output = [0; 24];
                output[..8].copy_from_slice(&a.to_le_bytes());
                output[8..16].copy_from_slice(&b.to_le_bytes());
                output[16..].copy_from_slice(&(a ^ b).to_le_bytes());
                Ok(output)
            });
        });
    });
    let queue = ResidentQueue::builder()
        .lanes(2)
        .depth(8)
        .build(&gpu.device)
        .unwrap();
    launch(&queue, &gpu.stream(), &kernel).unwrap();
    for n in 0..500_u64 {
        let words = [n.wrapping_mul(0x9E37_79B9_7F4A_7C15), !n];
        let output = queue.try_submit(Large(words)).unwrap().wait().unwrap();
        let expected = [words[0], words[1], words[0] ^ words[1]].map(u64::to_le_bytes);
        assert_eq!(output[..], expected.concat());
    }
    queue.shutdown().unwrap();
}

/// Many are awaited at once, one that is dropped meanwhile among them; and again after the thread that looks was idle.
#[test]
fn futures_are_awaited() {
    let gpu = Gpu::new();
    let kernel = squares(&gpu);
    let queue = two_lanes(&gpu);
    let stream = gpu.stream();
    for round in 0..3 {
        let mut dropped = queue.try_submit(Square(1)).unwrap();
        let futures: Vec<_> = (0..40)
            .map(|n| queue.try_submit(Square(n)).unwrap())
            .collect();
        let mut context = Context::from_waker(Waker::noop());
        // Registered while nobody answers.
        assert_eq!(pin!(&mut dropped).poll(&mut context), Poll::Pending);
        drop(dropped);
        let waiting: Vec<_> = futures
            .into_iter()
            .map(|future| thread::spawn(move || block_on(future)))
            .collect();
        launch(&queue, &stream, &kernel).unwrap();
        for (n, thread) in (0..).zip(waiting) {
            assert_eq!(thread.join().unwrap(), Ok(n * n), "round {round}");
        }
        queue.finish();
        queue.wait().unwrap();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A launch may wait for the end of its kernel, as with `CUDA_LAUNCH_BLOCKING`: another thread tells that to leave.
#[test]
fn a_launch_that_waits_for_its_kernel_can_be_ended() {
    let gpu = Gpu::new();
    let queue = two_lanes(&gpu);
    let stream = gpu.stream();
    // A kernel that is not concurrent runs on the thread that launches.
    let module = cuda_green::Module::load_ptx(&gpu.device, crate::fixture::PTX).unwrap();
    gpu.sim.register_kernel("resident", |launch| {
        two_blocks(launch, |block| block.serve(|Square(n)| Ok(n * n)));
    });
    let kernel = module.kernel("resident").unwrap();
    thread::scope(|scope| {
        let launching = scope.spawn(|| launch(&queue, &stream, &kernel));
        assert_eq!(queue.try_submit(Square(9)).unwrap().wait(), Ok(81));
        let again = launch(&queue, &stream, &kernel);
        assert!(matches!(again, Err(Error::Resident)), "{again:?}");
        queue.leave();
        queue.wait().unwrap();
        launching.join().unwrap().unwrap();
    });
}

/// A submission waits for room, which the kernel makes, and no longer than it may; the figures say what happened.
#[test]
fn a_submission_waits_for_room() {
    let gpu = Gpu::new();
    let queue = ResidentQueue::builder()
        .lanes(2)
        .depth(8)
        .build(&gpu.device)
        .unwrap();
    let mut futures: Vec<_> = (0..16).map(|n| queue.submit(Square(n)).unwrap()).collect();
    let short = Duration::from_millis(1);
    let refused = queue.submit_timeout(Square(16), short).unwrap_err();
    assert_eq!(refused, SubmitError::Full(Square(16)));
    let stats = queue.stats();
    assert_eq!((stats.submitted(), stats.taken()), (16, 0));
    assert!(
        stats
            .rings
            .iter()
            .all(|ring| (ring.submitted, ring.depth) == (8, 8))
    );
    assert!(stats.rings.iter().any(|ring| ring.refused > 0), "{stats}");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.submit(Square(16)).unwrap());
        let kernel = squares(&gpu);
        launch(&queue, &gpu.stream(), &kernel).unwrap();
        futures.push(waiting.join().unwrap());
    });
    for (n, future) in (0..).zip(futures) {
        assert_eq!(future.wait(), Ok(n * n));
    }
    queue.finish();
    queue.wait().unwrap();
    let stats = queue.stats();
    assert_eq!((stats.submitted(), stats.taken()), (17, 17), "{stats}");
    queue.shutdown().unwrap();
}
