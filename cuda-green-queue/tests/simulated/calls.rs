//! Kernels that submit tasks to the CPU.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cuda_green::{GpuMemoryPool, Kernel, KernelArg, LaunchConfig};
use cuda_green_queue::{
    TaskFailure, TaskQueue,
    simulated::{DeviceSide, Place, Status},
};

use crate::fixture::{Add, Gpu, Square};

const WARPS: u64 = 4;
const TASKS: u64 = 100;

/// Launches a kernel that takes the queue and the address of a number, 0 at first. Returns the number when the kernel has
/// ended.
fn result_of(gpu: &Gpu, queue: &TaskQueue, kernel: &Kernel, threads: u32) -> u64 {
    let pool = GpuMemoryPool::on(&gpu.device, 8).unwrap();
    let result = pool.allocate_typed::<u64>(1).unwrap();
    result.copy_from(&[0]).unwrap();
    let stream = gpu.stream();
    let config = LaunchConfig::linear(1, threads);
    let args: [&dyn KernelArg; 2] = [&queue.device_queue(), &result.address()];
    // SAFETY: the arguments are those of the kernel, and all live until it has ended.
    unsafe { queue.launch(&stream, kernel, &config, &args) }.unwrap();
    stream.synchronize().unwrap();
    let mut number = [0];
    result.copy_to(&mut number).unwrap();
    number[0]
}

/// Threads that stand for warps call and submit through small rings; every answer is that of its own call, and all is
/// done once.
#[test]
fn warps_call_and_submit() {
    let gpu = Gpu::new();
    let sum = Arc::new(AtomicU64::new(0));
    let added = sum.clone();
    let queue = TaskQueue::builder()
        .lanes(2)
        .depth(8)
        .futures(2)
        .handler(|Square(n)| Ok(n * n))
        .inline_handler(move |Add(n)| {
            added.fetch_add(n, Ordering::Relaxed);
            Ok(())
        })
        .build(&gpu.device)
        .unwrap();
    let kernel = gpu.kernel("submits", |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let result = launch.arg_u64(1).unwrap();
        thread::scope(|scope| {
            for warp in 0..WARPS {
                let queue = &queue;
                scope.spawn(move || {
                    let sum = a_warp(queue, warp);
                    launch.atomic_add_u64(result, sum).unwrap();
                });
            }
        });
    });
    let squares = result_of(&gpu, &queue, &kernel, 128);
    let all = WARPS * TASKS;
    assert_eq!(squares, (0..all).map(|n| n * n).sum());
    queue.shutdown().unwrap();
    assert_eq!(sum.load(Ordering::Relaxed), 33 * (0..all).sum::<u64>());
}

/// Returns the sum of the answers.
fn a_warp(queue: &DeviceSide<'_>, warp: u64) -> u64 {
    let mut sum = 0;
    for n in warp * TASKS..(warp + 1) * TASKS {
        let place = Place {
            lane: (n % 2) as u32,
            priority: (n / 2 % 2) as u32,
        };
        sum += queue.call(place, &Square(n)).unwrap().wait().unwrap();
        queue.submit(place, &Add(n)).unwrap();
        // Eight lanes of a warp at a time.
        for _ in 0..4 {
            while let Err(status) = queue.try_submit_warp(place, &[Add(n); 8]) {
                assert_eq!(status, Status::Full);
                thread::yield_now();
            }
        }
    }
    sum
}

#[test]
fn kernels_learn_what_went_wrong() {
    let gpu = Gpu::new();
    let queue = TaskQueue::builder()
        .payload_bytes(8)
        .handler(|Square(_)| -> Result<u64, _> { Err(TaskFailure(77)) })
        .build(&gpu.device)
        .unwrap();
    let kernel = gpu.kernel("submits", |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let place = Place::default();
        let mut failing = queue.call(place, &Square(1)).unwrap();
        assert_eq!(failing.wait(), Err(Status::Failed(77)));
        let mut unknown = queue.call(place, &Add(1)).unwrap();
        assert_eq!(unknown.wait(), Err(Status::UnknownMethod));
        let nowhere = Place { lane: 4, ..place };
        assert_eq!(queue.try_submit(nowhere, &Add(1)), Err(Status::Invalid));
        drop(queue.call(place, &Square(2)).unwrap());
        // The driver counts this as the kernel's success.
        launch.store_u64(launch.arg_u64(1).unwrap(), 1).unwrap();
    });
    let done = result_of(&gpu, &queue, &kernel, 32);
    assert_eq!(done, 1);
    queue.shutdown().unwrap();
}

/// Those who got their answers keep all entries when the queue closes: a call that waits for one ends.
#[test]
fn a_call_without_an_entry_learns_that_the_queue_is_closed() {
    let gpu = Gpu::new();
    let runs = Arc::new(AtomicU64::new(0));
    let counted = runs.clone();
    let queue = TaskQueue::builder()
        .futures(2)
        .handler(move |Square(n)| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(n * n)
        })
        .build(&gpu.device)
        .unwrap();
    let kernel = gpu.kernel("submits", |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let result = launch.arg_u64(1).unwrap();
        let held = [1, 2].map(|n| queue.call(Place::default(), &Square(n)).unwrap());
        let refused = queue.call(Place::default(), &Square(3)).map(drop);
        if refused == Err(Status::Closed) {
            launch.atomic_add_u64(result, 1).unwrap();
        }
        drop(held);
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            while runs.load(Ordering::Relaxed) < 2 {
                thread::yield_now();
            }
            queue.close();
        });
        assert_eq!(result_of(&gpu, &queue, &kernel, 32), 1);
    });
    assert_eq!(queue.shutdown().unwrap().handled(), 2);
}

/// Tries to submit a task of each lane of a warp that fills a ring, which is empty. Returns whether there came to be room.
fn fills(side: &DeviceSide<'_>, place: Place) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(10) {
        match side.try_submit_warp(place, &[Add(1); 32]) {
            Ok(()) => return true,
            Err(Status::Full) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
    false
}

/// The slots of an empty ring are all given back, though the other ring of its polling thread has a task that waits for a
/// job: the handler of the one before waits for this kernel.
#[test]
fn a_warp_fits_into_an_empty_ring_beside_one_that_waits() {
    let gpu = Gpu::new();
    let is_open = Arc::new(AtomicBool::new(false));
    let (gate, opens) = (is_open.clone(), is_open);
    let sum = Arc::new(AtomicU64::new(0));
    let (adds, added) = (sum.clone(), sum);
    let queue = TaskQueue::builder()
        .handler(move |Square(n)| {
            while !gate.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Ok(n)
        })
        .inline_handler(move |Add(n)| {
            adds.fetch_add(n, Ordering::SeqCst);
            Ok(())
        })
        .lanes(1)
        .priorities(2)
        .depth(32)
        .job_capacity(1)
        .workers(1)
        .build(&gpu.device)
        .unwrap();
    let kernel = gpu.kernel("submits", move |launch| {
        let side = DeviceSide::argument(launch, 0).unwrap();
        let place = |priority| Place { lane: 0, priority };
        for n in 0..2 {
            side.try_submit(place(0), &Square(n)).unwrap();
        }
        side.try_submit(place(1), &Add(1)).unwrap();
        while added.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        let fits = fills(&side, place(1));
        opens.store(true, Ordering::SeqCst);
        launch
            .store_u64(launch.arg_u64(1).unwrap(), fits.into())
            .unwrap();
    });
    assert_eq!(result_of(&gpu, &queue, &kernel, 32), 1);
    queue.shutdown().unwrap();
}

/// The same beside a ring that is never empty.
#[test]
fn a_warp_fits_into_an_empty_ring_beside_a_busy_one() {
    let gpu = Gpu::new();
    let sum = Arc::new(AtomicU64::new(0));
    let (adds, added) = (sum.clone(), sum);
    let queue = TaskQueue::builder()
        .inline_handler(move |Add(n)| {
            if n == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            adds.fetch_add(n, Ordering::SeqCst);
            Ok(())
        })
        .lanes(2)
        .depth(32)
        .build(&gpu.device)
        .unwrap();
    let kernel = gpu.kernel("submits", move |launch| {
        let side = DeviceSide::argument(launch, 0).unwrap();
        let place = |lane| Place { lane, priority: 0 };
        let is_over = AtomicBool::new(false);
        (0..32).for_each(|_| side.submit(place(0), &Add(0)).unwrap());
        let fits = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    side.submit(place(0), &Add(0)).unwrap();
                }
            });
            side.try_submit(place(1), &Add(1)).unwrap();
            while added.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            let fits = fills(&side, place(1));
            is_over.store(true, Ordering::SeqCst);
            fits
        });
        launch
            .store_u64(launch.arg_u64(1).unwrap(), fits.into())
            .unwrap();
    });
    assert_eq!(result_of(&gpu, &queue, &kernel, 32), 1);
    queue.shutdown().unwrap();
}
