//! Kernels that submit tasks to a resident kernel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use cuda_green::{GpuMemoryPool, LaunchConfig};
use cuda_green_queue::{
    KernelQueue,
    simulated::{DeviceSide, InboxSide, Place},
};

use crate::fixture::{Gpu, Square};

/// Threads of one kernel call a resident kernel through small rings, while that is told to leave and launched again.
/// Each answer is that of its own call, and all is done once.
#[test]
fn a_kernel_calls_a_resident_one_across_its_launches() {
    const THREADS: u64 = 3;
    const TASKS: u64 = 400;
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
    let submits = gpu.kernel("submits", |launch| {
        let queue = DeviceSide::argument(launch, 0).unwrap();
        let result = launch.arg_u64(1).unwrap();
        thread::scope(|scope| {
            for first in (0..THREADS).map(|thread| thread * TASKS) {
                let queue = &queue;
                scope.spawn(move || {
                    for n in first..first + TASKS {
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
    let mut launches = 0;
    while !producers.is_done().unwrap() {
        launch_resident().unwrap();
        queue.leave();
        queue.wait().unwrap();
        launches += 1;
    }
    assert!(launches > 1);
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
