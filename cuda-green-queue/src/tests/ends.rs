//! Ends with kernels at work: each submission is accepted and answered, or refused, and nobody hangs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use cuda_green::{
    GpuMemoryPool,
    sim::{Injection, Launch, Sim},
    sys::CUresult,
};

use super::{
    gpu::{Gpu, Refused, Warp, warps},
    *,
};
use crate::{Error, layout::status};

/// Each warp calls until it is refused. `out[0]` counts answers of handlers, `out[1]` those that say closed.
fn until_closed(launch: &Launch<'_>) {
    let out = launch.arg_u64(1).unwrap();
    warps(launch, 4, |warp| {
        loop {
            match warp.call(0, Double(1)) {
                Ok((status::DONE, _)) => warp.add(out, 1),
                Ok((status::CLOSED, _)) => warp.add(out + 8, 1),
                Ok(other) => panic!("{other:?}"),
                Err(Refused::Closed | Refused::Stopped) => break,
                Err(Refused::Full | Refused::NoFuture) => std::thread::yield_now(),
            }
        }
    });
}

fn outs(gpu: &Gpu) -> cuda_green::TypedBuffer<u64> {
    let pool = GpuMemoryPool::on(&gpu.device, 1 << 20).unwrap();
    let out = pool.allocate_typed::<u64>(2).unwrap();
    out.copy_from(&[0, 0]).unwrap();
    out
}

#[test]
fn kernels_that_call_for_ever_end_with_the_queue() {
    for end in 0..4 {
        let gpu = Gpu::new("h200@13.0", until_closed);
        let ran = Arc::new(AtomicU64::new(0));
        let count = ran.clone();
        let queue = TaskQueueBuilder::default()
            .handler(move |Double(n)| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(n)
            })
            .lanes(2)
            .depth(8)
            .workers(1)
            .build(&gpu.device)
            .unwrap();
        let out = outs(&gpu);
        gpu.launch(&queue, out.address(), 0);
        while ran.load(Ordering::SeqCst) < 20 {
            std::thread::yield_now();
        }
        match end {
            0 => drop(queue.shutdown().unwrap()),
            1 => drop(queue),
            2 => {
                queue.close();
                gpu.stream.synchronize().unwrap();
                let config = cuda_green::LaunchConfig::linear(1, 1);
                // SAFETY: nothing is launched.
                let refused = unsafe { queue.launch(&gpu.stream, &gpu.kernel, &config, &[]) };
                assert!(matches!(refused, Err(Error::Closed)));
                drop(queue);
            }
            // The other order: the stream's owner waits on another thread.
            _ => std::thread::scope(|scope| {
                let waiting = scope.spawn(|| gpu.stream.synchronize().unwrap());
                drop(queue);
                waiting.join().unwrap();
            }),
        }
        gpu.stream.synchronize().unwrap();
        let mut answers = [0; 2];
        out.copy_to(&mut answers).unwrap();
        assert_eq!(answers[0], ran.load(Ordering::SeqCst), "end {end}");
        if end != 1 && end != 3 {
            assert_eq!(answers[1], 0, "all that was accepted is run");
        }
        drop(out);
    }
}

/// Many warps wait for answers that no handler will give, since the only worker is held up.
#[test]
fn kernels_that_wait_are_answered_as_closed_when_the_queue_is_dropped() {
    let gpu = Gpu::new("h200@13.0", |launch| {
        let out = launch.arg_u64(1).unwrap();
        warps(launch, 24, |warp| match warp.call(0, Double(1)) {
            Ok((status::DONE, _)) => warp.add(out, 1),
            Ok((status::CLOSED, _)) => warp.add(out + 8, 1),
            other => panic!("{other:?}"),
        });
    });
    let door = Arc::new(cpu::Door::default());
    let passing = door.clone();
    let queue = TaskQueueBuilder::default()
        .handler(move |Double(n)| {
            passing.pass();
            Ok(n)
        })
        .lanes(1)
        .depth(64)
        .job_capacity(4)
        .workers(1)
        .build(&gpu.device)
        .unwrap();
    let out = outs(&gpu);
    gpu.launch(&queue, out.address(), 0);
    door.wait_for(1);
    // What is submitted after the end has begun is refused.
    let submitted = |queue: &crate::TaskQueue| {
        let rings = &queue.stats().devices[0].rings;
        rings.iter().filter_map(|ring| ring.submitted).sum::<u64>()
    };
    while submitted(&queue) < 24 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| drop(queue));
        // Those that no worker has are answered while the handler is still held up.
        let mut answers = [0; 2];
        while answers[1] == 0 {
            out.copy_to(&mut answers).unwrap();
        }
        door.open();
        assert_eq!(answers[0], 0);
    });
    let mut answers = [0; 2];
    out.copy_to(&mut answers).unwrap();
    assert_eq!(answers, [1, 23]);
}

/// Whatever call of the driver fails while a queue is made, nothing is left.
#[test]
fn each_call_of_the_driver_may_fail_when_a_queue_is_made() {
    for profile in ["t4@11.4", "h200@13.0"] {
        let mut calls = 0;
        let mut nth = 0;
        let mut failed = 0;
        while nth <= calls {
            let sim = Sim::new(profile).unwrap();
            let device = cuda_green::Driver::simulated(&sim)
                .unwrap()
                .device(0)
                .unwrap();
            if nth > 0 {
                let code = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
                sim.inject(Injection::fail("*", code).unwrap().at(nth));
            }
            let before = sim.calls();
            let made = builder().build(&device);
            if nth == 0 {
                calls = sim.calls() - before;
                assert!(calls > 5, "{calls} calls");
            }
            match made {
                Ok(queue) => {
                    assert_eq!(queue.submit(Double(1)).unwrap().wait(), Ok(2));
                    queue.shutdown().unwrap();
                }
                Err(Error::CudaGreen(_)) => failed += 1,
                Err(other) => panic!("{other}"),
            }
            sim.clear_injections();
            // What could not be ended is ended by the next allocation.
            drop(builder().build(&device).unwrap());
            drop(device);
            sim.assert_no_leaks();
            nth += 1;
        }
        assert!(failed >= 3, "{profile}: {failed} of {calls}");
    }
}

/// A kernel crashes while others wait: the queue ends all the same.
#[test]
fn a_device_that_is_lost_holds_up_no_end() {
    for shuts_down in [false, true] {
        let gpu = Gpu::new("h200@13.0", |launch| {
            let warp = Warp::new(launch, 0);
            warp.call(0, Double(1)).unwrap();
            let _ = launch.write(0xdead_0000, &[1]);
        });
        let queue = builder().build(&gpu.device).unwrap();
        gpu.launch(&queue, 0, 0);
        let fault = gpu.stream.synchronize();
        assert!(fault.is_err());
        let stats = queue.stats();
        assert!(stats.devices[0].unreadable.is_some());
        assert!(stats.to_string().contains("not known"), "{stats}");
        assert_eq!(queue.submit(Double(3)).unwrap().wait(), Ok(6));
        if shuts_down {
            assert!(queue.shutdown().is_err());
        } else {
            drop(queue);
        }
    }
}

/// A handler of a kernel's task that submits, and waits for tasks of both ways.
#[test]
fn a_handler_of_a_kernels_task_submits() {
    let gpu = Gpu::new("h200@13.0", |launch| {
        let out = launch.arg_u64(1).unwrap();
        warps(launch, 4, |warp| {
            for i in 0..20 {
                let (status, output) = warp.call(1, Double(i)).unwrap();
                if status == status::DONE && output == (i + 3).to_le_bytes() {
                    warp.add(out, 1);
                }
            }
        });
    });
    let nested = Arc::new(AtomicUsize::new(0));
    let count = nested.clone();
    let queue = TaskQueueBuilder::default()
        .handler(move |Double(n)| {
            count.fetch_add(1, Ordering::SeqCst);
            let submitter = crate::Submitter::current().ok_or(TaskFailure(1))?;
            let copied = submitter
                .submit_copy(Increment(n as u32))
                .map_err(|_| TaskFailure(2))?;
            let moved = submitter.submit(Increment(1)).map_err(|_| TaskFailure(3))?;
            let (copied, moved) = (copied.wait(), moved.wait());
            match (copied, moved) {
                (Ok(copied), Ok(moved)) => Ok(u64::from(copied) + u64::from(moved)),
                _ => Err(TaskFailure(4)),
            }
        })
        .handler(|Increment(n)| Ok(n + 1))
        .workers(1)
        .build(&gpu.device)
        .unwrap();
    let out = outs(&gpu);
    gpu.launch(&queue, out.address(), 0);
    gpu.stream.synchronize().unwrap();
    let mut right = [0; 2];
    out.copy_to(&mut right).unwrap();
    assert_eq!((right[0], nested.load(Ordering::SeqCst)), (80, 80));
}
