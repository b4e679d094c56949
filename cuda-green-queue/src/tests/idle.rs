//! Polling threads without work.

use std::{sync::Arc, time::Duration};

use super::{
    gpu::{Gpu, Warp},
    *,
};
use crate::{IdlePolicy, PollerStats, TaskQueue};

fn poller(queue: &TaskQueue) -> PollerStats {
    queue.stats().devices[0].pollers[0]
}

fn until(queue: &TaskQueue, is_so: impl Fn(PollerStats) -> bool) -> PollerStats {
    loop {
        let stats = poller(queue);
        if is_so(stats) {
            return stats;
        }
        std::thread::yield_now();
    }
}

/// A polling thread rests before a launch and after its end, but not while the kernel runs, however silent it is.
#[test]
fn polling_threads_rest_only_while_no_kernel_runs() {
    for profile in ["h200@13.0", "t4@11.4"] {
        let door = Arc::new(cpu::Door::default());
        let passing = door.clone();
        let gpu = Gpu::new(profile, |launch| {
            let answer = Warp::new(launch, 0).call(0, Double(1));
            assert_eq!(
                answer.map(|answer| answer.0),
                Ok(crate::layout::status::DONE)
            );
        });
        let idle = IdlePolicy {
            pause_after: Duration::ZERO,
            sleep_after: Duration::ZERO,
            sleep: Duration::from_micros(1),
            rest_after: Duration::ZERO,
            // Far too long for the test, were it not for the launch that ends it.
            rest: Duration::from_secs(3600),
        };
        let queue = TaskQueueBuilder::default()
            .handler(move |Double(n)| {
                passing.pass();
                Ok(n)
            })
            .workers(1)
            .idle(idle)
            .build(&gpu.device)
            .unwrap();
        until(&queue, |poller| poller.rests > 0);
        gpu.launch(&queue, 0, 0);
        door.wait_for(1);
        let before = poller(&queue);
        let later = until(&queue, |poller| poller.sleeps > before.sleeps + 20);
        assert_eq!(later.rests, before.rests, "{profile}");
        door.open();
        gpu.stream.synchronize().unwrap();
        let rested = until(&queue, |poller| poller.rests > later.rests);
        // The next launch finds a thread that rests.
        gpu.launch(&queue, 0, 0);
        gpu.stream.synchronize().unwrap();
        until(&queue, |poller| poller.rests > rested.rests);
        queue.shutdown().unwrap();
    }
}
