//! Kernels that submit tasks to a resident kernel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use cuda_green::{GpuMemoryPool, LaunchConfig};
use cuda_green_queue::{
    Error, KernelQueue,
    simulated::{DeviceSide, InboxSide, Next, Place, Status},
};

use crate::fixture::{Gpu, Square};

/// Threads of one kernel call a resident kernel through small rings, while that is told to leave and launched again.
/// Each answer is that of its own call, and all is done once.
#[test]
fn a_kernel_calls_a_resident_one_across_its_launches() {
    const THREADS: u64 = 3;
    const TASKS: u64 = 80;
    let gpu = Gpu::new();
    let done = Arc::new(AtomicU64::new(0));
    let count = done.clone();
    let resident = gpu.kernel("resident", move |launch| {
        thread::scope(|scope| {
            for lane in 0..2 {
                let block = InboxSide::argument(launch, 0, lane).unwrap();
                let count = &count;
                scope.spawn(move || {
                    block.serve(|Square(n)| {
                        count.fetch_add(1, Ordering::Relaxed);
                        Ok(n * n)
                    });
                });
            }
        });
    });
    // The launch that is to answer the second half, at least.
    let launches = Arc::new(AtomicU64::new(0));
    let launched = launches.clone();
    let submits = gpu.kernel("submits", move |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let result = launch.arg_u64(1).unwrap();
        thread::scope(|scope| {
            for first in (0..THREADS).map(|thread| thread * TASKS) {
                let (queue, launched) = (&queue, &launched);
                scope.spawn(move || {
                    for n in first..first + TASKS {
                        while n == first + TASKS / 2 && launched.load(Ordering::Relaxed) < 2 {
                            thread::yield_now();
                        }
                        let place = Place {
                            lane: (n % 2) as u32,
                            priority: (n / 2 % 2) as u32,
                        };
                        let mut future = queue.call(place, &Square(n)).unwrap();
                        // Some are not waited for.
                        if n % 4 != 0 {
                            let square = future.wait().unwrap();
                            launch.atomic_add_u64(result, square).unwrap();
                        }
                    }
                });
            }
        });
    });
    let queue = KernelQueue::builder()
        .lanes(2)
        .priorities(2)
        .depth(8)
        .futures(4)
        .build(&gpu.device)
        .unwrap();
    let pool = GpuMemoryPool::on(&gpu.device, 8).unwrap();
    let result = pool.allocate_typed::<u64>(1).unwrap();
    result.copy_from(&[0]).unwrap();
    let (producers, consumers) = (gpu.stream(), gpu.stream());
    let config = LaunchConfig::linear(2, 32);
    let launch_resident = || {
        // SAFETY: the arguments are those of the kernel, and the queue is fenced.
        unsafe {
            let args = [&queue.device_inbox() as _, &0_u64 as _];
            queue.launch(&consumers, &resident, &config, &args)
        }
    };
    // SAFETY: the arguments are those of the kernel, and all live until it has ended.
    unsafe {
        let args = [&queue.device_queue() as _, &result.address() as _];
        producers.launch(&submits, &config, &args).unwrap();
    }
    queue.fence_on(&producers).unwrap();
    while !producers.is_done().unwrap() {
        launch_resident().unwrap();
        // On one core it would leave before its threads begin, each time.
        let before = done.load(Ordering::Relaxed);
        for _ in 0..1000 {
            if done.load(Ordering::Relaxed) != before {
                break;
            }
            thread::yield_now();
        }
        queue.leave();
        queue.wait().unwrap();
        launches.fetch_add(1, Ordering::Relaxed);
    }
    launch_resident().unwrap();
    queue.shutdown().unwrap();
    let mut squares = [0];
    result.copy_to(&mut squares).unwrap();
    let all = THREADS * TASKS;
    let waited = (0..all).filter(|n| n % 4 != 0);
    assert_eq!(squares[0], waited.map(|n| n * n).sum());
    assert_eq!(done.load(Ordering::Relaxed), all);
}

/// The queue may be dropped while its resident kernel runs.
#[test]
fn dropped_it_lets_the_kernel_leave() {
    let gpu = Gpu::new();
    let returned = Arc::new(AtomicU64::new(0));
    let count = returned.clone();
    let kernel = gpu.kernel("resident", move |launch| {
        let block = InboxSide::argument(launch, 0, 0).unwrap();
        block.serve(|Square(n)| Ok(n));
        count.fetch_add(1, Ordering::Relaxed);
    });
    let queue = KernelQueue::builder().build(&gpu.device).unwrap();
    // SAFETY: the arguments are those of the kernel, and the queue is fenced.
    unsafe {
        let args = [&queue.device_inbox() as _, &0_u64 as _];
        let config = LaunchConfig::linear(1, 32);
        queue
            .launch(&gpu.stream(), &kernel, &config, &args)
            .unwrap();
    }
    drop(queue);
    assert_eq!(returned.load(Ordering::Relaxed), 1);
}

/// Drops a value on another thread, which has to come back soon.
fn drop_soon(value: impl Send + 'static) {
    let (ended, wait) = mpsc::channel();
    thread::spawn(move || {
        drop(value);
        let _ = ended.send(());
    });
    let waited = wait.recv_timeout(Duration::from_secs(60));
    waited.expect("the drop waits for a kernel that waits for it");
}

/// Kernels wait for answers and for room; no resident kernel is there, or it has left, or it is in the same stream behind
/// them. What it did has its answer, and all else is closed.
#[test]
fn dropped_it_closes_what_kernels_wait_for() {
    for (launches, behind) in [(0, false), (1, false), (1, true)] {
        let gpu = Gpu::new();
        let resident = gpu.kernel("resident", |launch| {
            // Returns on its own after one task.
            let mut block = InboxSide::argument(launch, 0, 0).unwrap();
            match block.take_next() {
                Next::Task(task) => block.answer::<Square>(task, Ok(1)).unwrap(),
                Next::Empty | Next::Leave => {}
            }
        });
        let begun = Arc::new(AtomicU64::new(0));
        let counted = begun.clone();
        let submits = gpu.kernel("submits", move |launch| {
            let queue = DeviceSide::argument(launch, 0).unwrap();
            let (place, result) = (Place::default(), launch.arg_u64(1).unwrap());
            let first = queue.call(place, &Square(1)).unwrap();
            let others: Vec<_> = (0..5)
                .map(|n| queue.call(place, &Square(n)).unwrap())
                .collect();
            counted.store(1, Ordering::Relaxed);
            let mut done = 0;
            for mut future in others.into_iter().chain([first]) {
                match future.wait() {
                    Ok(_) => done += 1,
                    Err(status) => assert_eq!(status, Status::Closed),
                }
            }
            // At most as many as the ring has slots are accepted still.
            let mut refused = Ok(());
            for _ in 0..16 {
                refused = queue.submit(place, &Square(7));
            }
            assert_eq!(refused, Err(Status::Closed));
            launch.atomic_add_u64(result, 10 + done).unwrap();
        });
        let queue = KernelQueue::builder()
            .depth(8)
            .futures(8)
            .build(&gpu.device)
            .unwrap();
        let pool = GpuMemoryPool::on(&gpu.device, 8).unwrap();
        let result = pool.allocate_typed::<u64>(1).unwrap();
        result.copy_from(&[0]).unwrap();
        let (producers, consumers) = (gpu.stream(), gpu.stream());
        let config = LaunchConfig::linear(1, 32);
        // SAFETY: the arguments are those of the kernel, and all live until it has ended.
        unsafe {
            let args = [&queue.device_queue() as _, &result.address() as _];
            producers.launch(&submits, &config, &args).unwrap();
        }
        queue.fence_on(&producers).unwrap();
        while begun.load(Ordering::Relaxed) == 0 {
            assert!(!producers.is_done().unwrap());
            thread::yield_now();
        }
        for _ in 0..launches {
            let stream = if behind { &producers } else { &consumers };
            // SAFETY: the arguments are those of the kernel, and the queue is fenced.
            unsafe {
                let args = [&queue.device_inbox() as _, &0_u64 as _];
                queue.launch(stream, &resident, &config, &args).unwrap();
            }
            if !behind {
                queue.wait().unwrap();
            }
        }
        drop_soon(queue);
        let mut found = [0];
        result.copy_to(&mut found).unwrap();
        let done = if behind { 0 } else { launches };
        assert_eq!(found, [10 + done], "{launches} launches, behind: {behind}");
    }
}

/// A shutdown lets the resident kernel do what waits, and closes the rest.
#[test]
fn shut_down_it_does_what_waits() {
    let gpu = Gpu::new();
    let resident = gpu.kernel("resident", |launch| {
        let block = InboxSide::argument(launch, 0, 0).unwrap();
        block.serve(|Square(n)| Ok(n * n));
    });
    let begun = Arc::new(AtomicU64::new(0));
    let counted = begun.clone();
    let submits = gpu.kernel("submits", move |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let result = launch.arg_u64(1).unwrap();
        let mut future = queue.call(Place::default(), &Square(9)).unwrap();
        counted.store(1, Ordering::Relaxed);
        launch
            .atomic_add_u64(result, future.wait().unwrap())
            .unwrap();
        // Nobody does these, however late they come.
        let late = loop {
            match queue.call(Place::default(), &Square(2)) {
                Ok(mut future) => match future.wait() {
                    Ok(_) => {}
                    Err(status) => break status,
                },
                Err(status) => break status,
            }
        };
        assert_eq!(late, Status::Closed);
        launch.atomic_add_u64(result, 1000).unwrap();
    });
    let queue = KernelQueue::builder().build(&gpu.device).unwrap();
    let pool = GpuMemoryPool::on(&gpu.device, 8).unwrap();
    let result = pool.allocate_typed::<u64>(1).unwrap();
    result.copy_from(&[0]).unwrap();
    let (producers, consumers) = (gpu.stream(), gpu.stream());
    let config = LaunchConfig::linear(1, 32);
    // SAFETY: the arguments are those of the kernels, and all live until they have ended.
    unsafe {
        let args = [&queue.device_queue() as _, &result.address() as _];
        producers.launch(&submits, &config, &args).unwrap();
        queue.fence_on(&producers).unwrap();
        while begun.load(Ordering::Relaxed) == 0 {
            assert!(!producers.is_done().unwrap());
            thread::yield_now();
        }
        let args = [&queue.device_inbox() as _, &0_u64 as _];
        queue.launch(&consumers, &resident, &config, &args).unwrap();
    }
    queue.shutdown().unwrap();
    let mut found = [0];
    result.copy_to(&mut found).unwrap();
    assert_eq!(found, [1081]);
}

/// A shutdown ends although kernels would go on submitting for ever, and so faster than they are served.
#[test]
fn shut_down_it_ends_under_load() {
    let gpu = Gpu::new();
    let done = Arc::new(AtomicU64::new(0));
    let served = done.clone();
    let resident = gpu.kernel("resident", move |launch| {
        let block = InboxSide::argument(launch, 0, 0).unwrap();
        block.serve(|Square(n)| {
            served.fetch_add(1, Ordering::Relaxed);
            // The ring is full again before the next look at it.
            thread::sleep(Duration::from_millis(1));
            Ok(n)
        });
    });
    let submits = gpu.kernel("submits", |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let result = launch.arg_u64(1).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut accepted = 0;
                    loop {
                        match queue.try_submit(Place::default(), &Square(1)) {
                            Ok(()) => accepted += 1,
                            Err(Status::Full) => thread::yield_now(),
                            Err(status) => {
                                assert_eq!(status, Status::Closed);
                                break;
                            }
                        }
                    }
                    launch.atomic_add_u64(result, accepted).unwrap();
                });
            }
        });
    });
    let queue = KernelQueue::builder().depth(64).build(&gpu.device).unwrap();
    let pool = GpuMemoryPool::on(&gpu.device, 8).unwrap();
    let result = pool.allocate_typed::<u64>(1).unwrap();
    result.copy_from(&[0]).unwrap();
    let (producers, consumers) = (gpu.stream(), gpu.stream());
    let config = LaunchConfig::linear(1, 32);
    // SAFETY: the arguments are those of the kernels, and all live until they have ended.
    unsafe {
        let args = [&queue.device_queue() as _, &result.address() as _];
        producers.launch(&submits, &config, &args).unwrap();
        queue.fence_on(&producers).unwrap();
        let args = [&queue.device_inbox() as _, &0_u64 as _];
        queue.launch(&consumers, &resident, &config, &args).unwrap();
    }
    while done.load(Ordering::Relaxed) < 50 {
        thread::yield_now();
    }
    let (ended, wait) = mpsc::channel();
    thread::spawn(move || ended.send(queue.shutdown()));
    let ended = wait.recv_timeout(Duration::from_secs(60));
    ended
        .expect("the shutdown waits for an empty ring")
        .unwrap();
    let mut accepted = [0];
    result.copy_to(&mut accepted).unwrap();
    let done = done.load(Ordering::Relaxed);
    // What came after the last look is not done, and the rest is, once.
    assert!(
        done <= accepted[0] && accepted[0] <= done + 64,
        "{done} of {accepted:?}"
    );
}

/// A launch that leaves lanes without a block, or a block without a warp, would leave tasks where they are.
#[test]
fn a_launch_that_cannot_serve_all_lanes_is_refused() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel("resident", |_| {});
    let queue = KernelQueue::builder().lanes(4).build(&gpu.device).unwrap();
    let stream = gpu.stream();
    let launch = |config: LaunchConfig| {
        // SAFETY: the arguments are those of the kernel, and the queue is fenced.
        unsafe {
            let args = [&queue.device_inbox() as _, &0_u64 as _];
            queue.launch(&stream, &kernel, &config, &args)
        }
    };
    for (config, numbers) in [
        (LaunchConfig::linear(3, 64), (3, 64)),
        (LaunchConfig::linear(4, 31), (4, 31)),
        (LaunchConfig::new([3, 1, 1], [8, 2, 1]), (3, 16)),
    ] {
        let refused = launch(config);
        assert!(
            matches!(refused, Err(Error::InvalidLaunch { lanes: 4, blocks, threads }) if (blocks, threads) == numbers),
            "{refused:?}"
        );
    }
    launch(LaunchConfig::new([2, 2, 1], [16, 2, 1])).unwrap();
    queue.wait().unwrap();
    launch(LaunchConfig::linear(5, 48)).unwrap();
}
