//! Random work on a small GPU: it all ends, in order, and what is apart stays apart.

use super::*;
use proptest::prelude::*;

const LIMITS: SmLimits = SmLimits {
    threads: 2048,
    blocks: 32,
    shared: 228 << 10,
};

/// A kernel of a random client: its stream, and its blocks, their threads, time and load.
type KernelSpec = (u64, u64, u32, u32, bool);

fn kernels() -> impl Strategy<Value = Vec<KernelSpec>> {
    let kernel = (
        0_u64..4,
        1_u64..200,
        1_u32..33,
        1_u32..100_000,
        any::<bool>(),
    );
    prop::collection::vec(kernel, 1..30)
}

fn lane(stream: u64, context: u64) -> LaneOf {
    LaneOf {
        lane: Lane::Stream(context * 100 + stream),
        device: 0,
        context,
        blocking: false,
    }
}

fn submit(
    timeline: &mut Timeline,
    kernel: KernelSpec,
    context: u64,
    sms: std::ops::Range<u32>,
) -> Mark {
    let (stream, blocks, warps, ns, busy) = kernel;
    let lane = lane(stream, context);
    let work = Work {
        blocks,
        threads: warps * 32,
        shared: 1024,
        block_ns: ns.into(),
        load: busy.into(),
        priority: -(stream as i32),
        sms: sms.collect(),
    };
    timeline.submit(lane, Some(work), &[]);
    timeline.mark(lane)
}

fn assert_empty(timeline: &Timeline) {
    assert!(timeline.ops.is_empty() && timeline.gpus[0].waiting.is_empty());
    for sm in &timeline.gpus[0].sms {
        assert!(sm.batches.is_empty());
        assert_eq!(sm.free.threads, LIMITS.threads);
        assert_eq!(sm.free.blocks, LIMITS.blocks);
        assert_eq!(sm.free.shared, LIMITS.shared);
    }
    assert!(timeline.lanes.values().all(|lane| lane.kernels == 0));
}

proptest! {
    /// Whatever the work: it all ends, in its stream's order, no sooner than the SMs allow, and no
    /// later than one block after the other would.
    #[test]
    fn everything_ends_in_time(kernels in kernels()) {
        let mut timeline = Timeline::new(1, 8, LIMITS);
        let marks: Vec<(u64, Mark)> = kernels
            .iter()
            .map(|kernel| (kernel.0, submit(&mut timeline, *kernel, 0, 0..8)))
            .collect();
        timeline.wait_all(0, None);
        assert_empty(&timeline);
        let times: Vec<(u64, u64)> =
            marks.iter().map(|(stream, mark)| (*stream, mark.time().unwrap())).collect();
        for stream in 0..4 {
            let own: Vec<u64> =
                times.iter().filter(|(of, _)| *of == stream).map(|(_, time)| *time).collect();
            prop_assert!(own.is_sorted());
        }
        let end = times.iter().map(|(_, time)| *time).max().unwrap();
        prop_assert!(timeline.now() >= end);
        let total = |busy: bool| -> u64 {
            let of = kernels.iter().filter(|kernel| !busy || kernel.4);
            of.map(|(_, blocks, _, ns, _)| blocks * u64::from(*ns)).sum()
        };
        prop_assert!(end * 8 >= total(true), "{end} ns for {} of work", total(true));
        let launches = kernels.len() as u64 * LAUNCH_NS;
        prop_assert!(end <= total(false) + launches + 100_000);
    }

    /// Work on other SMs changes nothing, and the same calls give the same times.
    #[test]
    fn disjoint_sms_do_not_meet(ours in kernels(), theirs in kernels()) {
        let run = |with: bool| {
            let mut timeline = Timeline::new(1, 8, LIMITS);
            let mut marks = Vec::new();
            for (index, kernel) in ours.iter().enumerate() {
                if with && let Some(other) = theirs.get(index) {
                    submit(&mut timeline, *other, 1, 3..8);
                } else {
                    // The host takes its time all the same.
                    timeline.spend(LAUNCH_NS);
                }
                marks.push(submit(&mut timeline, *kernel, 0, 0..3));
            }
            timeline.wait_all(0, None);
            assert_empty(&timeline);
            marks.iter().map(|mark| mark.time().unwrap()).collect::<Vec<_>>()
        };
        let alone = run(false);
        prop_assert_eq!(&alone, &run(false));
        prop_assert_eq!(&alone, &run(true));
    }
}
