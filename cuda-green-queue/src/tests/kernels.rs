//! Kernels that submit, on simulated devices of 0, 1 and 2 GPUs, old and new.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cuda_green::{
    Driver, GpuMemoryPool,
    sim::{Launch, Sim},
};

use super::{
    gpu::{Gpu, Warp, warps},
    *,
};
use crate::{TaskQueues, layout::status};

const PROFILES: [&str; 4] = ["t4@11.4", "h200@12.4", "h200@13.0", "h200@newest"];

fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(number)
}

/// Each warp makes calls of all kinds, and adds 1 to `out` for each right answer.
fn calls(launch: &Launch<'_>) {
    let (out, n) = (launch.arg_u64(1).unwrap(), launch.arg_u64(2).unwrap());
    warps(launch, 4, |warp| {
        for i in 0..n {
            let priority = (i % 3) as u32;
            let x = u64::from(warp.number) * 1000 + i;
            let answers = [
                (warp.call(priority, Double(x)), (status::DONE, x * 2)),
                (
                    warp.call(priority, Increment(x as u32)),
                    (status::DONE, x + 1),
                ),
                (warp.call(priority, Fail(5)), (status::FAILED, 5)),
                (warp.call(priority, Fail(0)), (status::PANICKED, 0)),
                (
                    warp.call_raw(priority, 77, &[1; 8]),
                    (status::UNKNOWN_METHOD, 0),
                ),
                (
                    warp.call_raw(priority, Double::METHOD, &[1; 7]),
                    (status::BAD_PAYLOAD, 0),
                ),
            ];
            for (answer, (status, output)) in answers {
                let (got, bytes) = answer.unwrap();
                if (got, number(&bytes)) == (status, output) {
                    warp.add(out, 1);
                }
            }
        }
    });
}

#[test]
fn each_task_has_the_answer_of_its_handler() {
    for profile in PROFILES {
        let gpu = Gpu::new(profile, calls);
        let queue = builder().build(&gpu.device).unwrap();
        let pool = GpuMemoryPool::on(&gpu.device, 1 << 20).unwrap();
        let out = pool.allocate_typed::<u64>(1).unwrap();
        out.copy_from(&[0]).unwrap();
        gpu.launch(&queue, out.address(), 20);
        gpu.stream.synchronize().unwrap();
        let mut right = [0];
        out.copy_to(&mut right).unwrap();
        assert_eq!(right, [4 * 20 * 6], "{profile}");
        // Each task is counted before its answer.
        let stats = queue.stats();
        assert_eq!(stats.handled(), 4 * 20 * 4);
        assert_eq!(stats.unknown_method, Some(77));
        let rings = &stats.devices[0].rings;
        assert_eq!(rings.iter().map(|ring| ring.taken).sum::<u64>(), 480);
        assert_eq!(
            rings.iter().filter_map(|ring| ring.submitted).sum::<u64>(),
            480
        );
        assert!(
            rings
                .iter()
                .all(|ring| ring.deepest >= 1 && ring.deepest <= 16)
        );
        assert_eq!(stats.unknown_methods, 80);
        let by_name = |name: &str| {
            stats
                .methods
                .iter()
                .find(|one| one.name.contains(name))
                .unwrap()
        };
        let (double, increment, fail) = (by_name("Double"), by_name("Increment"), by_name("Fail"));
        assert_eq!(
            (double.done, double.bad_payloads, increment.done),
            (80, 80, 80)
        );
        assert_eq!((fail.failed, fail.panicked), (80, 80));
        assert!(double.waiting.count() > 0 && increment.handling.count() > 0);
        assert_eq!(increment.waiting.count(), 0);
        queue.shutdown().unwrap();
    }
}

/// Far more tasks than there are slots and jobs, and sums that match.
#[test]
fn nothing_is_lost_or_done_twice_under_pressure() {
    for (workers, jobs) in [(1, 1), (2, 4), (3, 64)] {
        let gpu = Gpu::new("h200@13.0", |launch| {
            let n = launch.arg_u64(2).unwrap();
            warps(launch, 4, |warp| {
                for i in 0..n {
                    let value = (u64::from(warp.number) << 32) | i;
                    warp.submit((i % 3) as u32, Double(value)).unwrap();
                    warp.submit((i % 3) as u32, Increment(i as u32)).unwrap();
                }
            });
        });
        let sums = Arc::new([const { AtomicU64::new(0) }; 2]);
        let (first, second) = (sums.clone(), sums.clone());
        let queue = TaskQueueBuilder::default()
            .handler(move |Double(n)| Ok(first[0].fetch_add(n, Ordering::SeqCst)))
            .inline_handler(move |Increment(n)| {
                second[1].fetch_add(n.into(), Ordering::SeqCst);
                Ok(n)
            })
            .lanes(2)
            .priorities(3)
            .depth(8)
            .futures(8)
            .workers(workers)
            .job_capacity(jobs)
            .segment_bytes(1 << 16)
            .build(&gpu.device)
            .unwrap();
        gpu.launch(&queue, 0, 500);
        gpu.stream.synchronize().unwrap();
        let submitter = queue.submitter().clone();
        queue.shutdown().unwrap();
        let one: u64 = (0..500).sum();
        let warps: u64 = (0..4).map(|number: u64| (number << 32) * 500 + one).sum();
        assert_eq!(sums[0].load(Ordering::SeqCst), warps);
        assert_eq!(sums[1].load(Ordering::SeqCst), one * 4);
        assert_eq!(submitter.stats().handled(), 4 * 500 * 2);
    }
}

/// A slow handler holds up neither other rings nor inline handlers of other priorities.
#[test]
fn a_slow_handler_delays_no_other_ring() {
    let door = Arc::new(cpu::Door::default());
    let passing = door.clone();
    let gpu = Gpu::new("h200@13.0", |launch| {
        let out = launch.arg_u64(1).unwrap();
        let warp = Warp::new(launch, 0);
        for _ in 0..8 {
            warp.submit(1, Double(1)).unwrap();
        }
        // Its ring waits for a job now; the other goes on.
        for i in 0..50 {
            let answer = warp.call(0, Increment(i)).unwrap();
            assert_eq!(number(&answer.1), u64::from(i) + 1);
        }
        warp.add(out, 1);
    });
    let queue = TaskQueueBuilder::default()
        .handler(move |Double(n)| {
            passing.pass();
            Ok(n)
        })
        .inline_handler(|Increment(n)| Ok(n + 1))
        .job_capacity(1)
        .workers(1)
        .build(&gpu.device)
        .unwrap();
    let pool = GpuMemoryPool::on(&gpu.device, 1 << 20).unwrap();
    let out = pool.allocate_typed::<u64>(1).unwrap();
    out.copy_from(&[0]).unwrap();
    gpu.launch(&queue, out.address(), 0);
    gpu.stream.synchronize().unwrap();
    let mut ended = [0];
    out.copy_to(&mut ended).unwrap();
    assert_eq!(ended, [1]);
    assert!(queue.stats().devices[0].rings[1].out_of_jobs > 0);
    door.open();
    queue.shutdown().unwrap();
}

#[test]
fn sets_are_of_any_number_of_gpus() {
    let sim = Sim::new("2xh200@13.0").unwrap();
    sim.register_concurrent_kernel("user", calls);
    let driver = Driver::simulated(&sim).unwrap();
    let gpus = [0, 1].map(|ordinal| Gpu::on(sim.clone(), &driver, ordinal));
    let queues = builder().build_on(&driver).unwrap();
    assert_eq!((queues.len(), queues.why_empty()), (2, None));
    assert!(
        queues.to_string().starts_with("queues on GPU 0 ("),
        "{queues}"
    );
    let mut outs = Vec::new();
    for gpu in &gpus {
        let pool = GpuMemoryPool::on(&gpu.device, 1 << 20).unwrap();
        let out = pool.allocate_typed::<u64>(1).unwrap();
        out.copy_from(&[0]).unwrap();
        let queue = queues.queue_of(&gpu.device).unwrap();
        gpu.launch(queue, out.address(), 10);
        outs.push(out);
    }
    for n in 0..100 {
        assert_eq!(queues.submit_copy(Double(n)).unwrap().wait(), Ok(n * 2));
    }
    for gpu in &gpus {
        gpu.stream.synchronize().unwrap();
    }
    let submitter = queues.submitter().clone();
    queues.shutdown().unwrap();
    for out in outs {
        let mut right = [0];
        out.copy_to(&mut right).unwrap();
        assert_eq!(right, [4 * 10 * 6]);
    }
    assert_eq!(submitter.stats().handled(), 2 * 4 * 10 * 4 + 100);
    drop(gpus);

    let none = Sim::with_visible("h200@13.0", Some("")).unwrap();
    let queues: TaskQueues = builder()
        .build_on(&Driver::simulated(&none).unwrap())
        .unwrap();
    assert!(queues.is_empty());
    assert!(queues.why_empty().unwrap().contains("GPU"), "{queues}");
    assert_eq!(queues.submit(Double(4)).unwrap().wait(), Ok(8));
}

#[test]
fn figures_have_a_text() {
    let gpu = Gpu::new("h200@13.0", calls);
    let queue = builder().build(&gpu.device).unwrap();
    let text = queue.stats().to_string();
    for part in ["GPU 0: ", "  6 rings without a task", "waiting -"] {
        assert!(text.contains(part), "{text}");
    }
}
