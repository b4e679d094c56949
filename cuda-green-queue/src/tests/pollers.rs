//! Polling threads: what they take first, how deep they find a ring, and whose streams they serve.

use std::sync::{Arc, Mutex};

use cuda_green::{Driver, sim::Sim};

use super::{
    gpu::{Gpu, Warp},
    *,
};
use crate::Error;

/// One job for many tasks of two priorities: each has its share of it.
#[test]
fn weights_hold_where_jobs_are_scarce() {
    const EACH: u64 = 400;
    for (jobs, workers) in [(1, 1), (2, 1), (8, 2)] {
        let door = Arc::new(cpu::Door::default());
        let passing = door.clone();
        let gpu = Gpu::new("h200@13.0", |launch| {
            let warp = Warp::new(launch, 0);
            for priority in [1, 0] {
                for _ in 0..EACH {
                    let task = Double(priority.into());
                    warp.submit(priority, task).unwrap();
                }
            }
        });
        let order = Arc::new(Mutex::new(Vec::new()));
        let list = order.clone();
        let queue = TaskQueueBuilder::default()
            .handler(move |Double(priority)| {
                passing.pass();
                list.lock().unwrap().push(priority);
                Ok(priority)
            })
            .lanes(1)
            .priorities(2)
            .depth(512)
            .job_capacity(jobs)
            .workers(workers)
            .build(&gpu.device)
            .unwrap();
        gpu.launch(&queue, 0, 0);
        gpu.stream.synchronize().unwrap();
        door.open();
        let stats = queue.shutdown().unwrap();
        assert_eq!(stats.handled(), 2 * EACH);
        let order = order.lock().unwrap();
        let urgent = |order: &[u64]| order.iter().filter(|one| **one == 0).count();
        // Each round has 64 urgent tasks and 32 others, in any order of the two.
        let rounds = 5;
        let first = &order[..rounds * 96];
        let found = urgent(first);
        assert!(
            (rounds * 64 - 64..=rounds * 64 + 64).contains(&found),
            "{found} of {} were urgent, with {jobs} jobs",
            first.len()
        );
    }
}

#[test]
fn the_deepest_fill_of_a_ring_is_exact() {
    for more in [0, 1, 11, 15] {
        let door = Arc::new(cpu::Door::default());
        let (passing, waiting) = (door.clone(), door.clone());
        let gpu = Gpu::new("h200@13.0", move |launch| {
            let warp = Warp::new(launch, 0);
            warp.submit(0, Increment(0)).unwrap();
            waiting.wait_for(1);
            for n in 0..more {
                warp.submit(0, Increment(n)).unwrap();
            }
        });
        let queue = TaskQueueBuilder::default()
            .inline_handler(move |Increment(n)| {
                passing.pass();
                Ok(n)
            })
            .lanes(1)
            .depth(16)
            .build(&gpu.device)
            .unwrap();
        gpu.launch(&queue, 0, 0);
        gpu.stream.synchronize().unwrap();
        door.open();
        let stats = queue.shutdown().unwrap();
        let ring = stats.devices[0].rings[0];
        assert_eq!(
            (ring.taken, ring.deepest),
            (1 + u64::from(more), 1 + u64::from(more))
        );
    }
}

#[test]
fn a_stream_of_another_gpu_is_refused() {
    let sim = Sim::new("2xh200@13.0").unwrap();
    sim.register_concurrent_kernel("user", |_| panic!("it is not launched"));
    let driver = Driver::simulated(&sim).unwrap();
    let gpus = [0, 1].map(|ordinal| Gpu::on(sim.clone(), &driver, ordinal));
    let queue = builder().build(&gpus[0].device).unwrap();
    let config = cuda_green::LaunchConfig::linear(1, 1);
    let argument = queue.device_queue();
    // SAFETY: it is refused.
    let launched = unsafe {
        let args: [&dyn cuda_green::KernelArg; 1] = [&argument];
        queue.launch(&gpus[1].stream, &gpus[1].kernel, &config, &args)
    };
    for refused in [launched, queue.fence_on(&gpus[1].stream)] {
        let Err(Error::CudaGreen(cuda_green::Error::ForeignDevice {
            device: 1,
            expected: 0,
            ..
        })) = refused
        else {
            panic!("{refused:?}");
        };
    }
    let stats = queue.shutdown().unwrap();
    assert!(stats.devices[0].rings.iter().all(|ring| ring.taken == 0));
}

/// The last figures have everything: the threads' CPU time, too, though they have ended.
#[test]
fn a_shutdown_returns_the_last_figures() {
    let gpu = Gpu::new("h200@13.0", |launch| {
        let warp = Warp::new(launch, 0);
        for n in 0..10 {
            warp.submit(2, Double(n)).unwrap();
        }
    });
    let queue = builder().build(&gpu.device).unwrap();
    gpu.launch(&queue, 0, 0);
    let stats = queue.shutdown().unwrap();
    let device = &stats.devices[0];
    assert_eq!((device.rings[2].taken, stats.handled()), (10, 10));
    assert_eq!(device.rings[2].submitted, Some(10));
    assert_eq!(device.pollers.len(), 1);
    assert_eq!(
        device.pollers[0].cpu_time.is_some(),
        cfg!(target_os = "linux")
    );
    let text = stats.to_string();
    for part in [
        "  5 rings without a task\n  lane 0, priority 2: 10 submitted, 10 taken",
        " s of CPU time",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
