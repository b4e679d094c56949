//! Random work on a small GPU: it all ends, in order, and what is apart stays apart.

use std::collections::BTreeSet;

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
        let work = timeline.work_of(0, None);
        timeline.wait_work(&work);
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
            let work = timeline.work_of(0, None);
        timeline.wait_work(&work);
            assert_empty(&timeline);
            marks.iter().map(|mark| mark.time().unwrap()).collect::<Vec<_>>()
        };
        let alone = run(false);
        prop_assert_eq!(&alone, &run(false));
        prop_assert_eq!(&alone, &run(true));
    }
}

/// One step of a random client: work in a lane with an effect, or that lane waits for another.
#[derive(Clone, Copy, Debug)]
enum Step {
    Submit(u64, Effect),
    Wait(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let effect = prop_oneof![Just(Effect::AtOnce), Just(Effect::OnThread)];
    let step = prop_oneof![
        3 => (0_u64..4, effect).prop_map(|(lane, effect)| Step::Submit(lane, effect)),
        1 => (0_u64..4, 0_u64..4).prop_map(|(lane, other)| Step::Wait(lane, other)),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    /// Whatever is opened first, each effect begins when all that it follows are over, and no later.
    #[test]
    fn effects_begin_in_the_order_of_their_work(steps in steps(), choices in prop::collection::vec(any::<prop::sample::Index>(), 40)) {
        let mut timeline = Timeline::new(1, 4, LIMITS);
        // What each lane follows, and the effects that are not over with what they follow.
        let mut lanes: [BTreeSet<u64>; 4] = Default::default();
        let mut pending: Vec<(u64, BTreeSet<u64>, Mark)> = Vec::new();
        let mut next = Vec::new();
        for step in steps {
            match step {
                Step::Submit(stream, effect) => {
                    let of = lane(stream, 1);
                    let before = lanes[stream as usize].clone();
                    let held = timeline.submit_effect(of, None, effect, &[]);
                    let must_wait = effect == Effect::OnThread || !before.is_empty();
                    prop_assert_eq!(held.is_some(), must_wait);
                    let Some(held) = held else { continue };
                    prop_assert_eq!(held.is_next, before.is_empty());
                    next.extend(held.is_next.then_some(held.op));
                    lanes[stream as usize].insert(held.op);
                    let mark = timeline.mark(of);
                    prop_assert!(timeline.mark_waits_for_gate(&mark) && timeline.next_waits_for_gate(of));
                    pending.push((held.op, before, mark));
                }
                Step::Wait(stream, other) => {
                    let mark = timeline.mark(lane(other, 1));
                    timeline.submit(lane(stream, 1), None, &[&mark]);
                    let others = lanes[other as usize].clone();
                    lanes[stream as usize].extend(others);
                }
            }
        }
        for choice in choices {
            if next.is_empty() {
                break;
            }
            let op = next.swap_remove(choice.index(next.len()));
            let begin = timeline.open(op);
            for (_, before, _) in &mut pending {
                before.remove(&op);
            }
            let (over, left): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(id, ..)| *id == op);
            prop_assert!(over.iter().all(|(_, before, mark)| before.is_empty() && mark.time().is_some()));
            prop_assert!(left.iter().all(|(.., mark)| mark.time().is_none()));
            pending = left;
            next.extend(begin);
            let mut may: Vec<u64> = pending.iter().filter(|(_, before, _)| before.is_empty()).map(|(id, ..)| *id).collect();
            may.sort_unstable();
            next.sort_unstable();
            prop_assert_eq!(&next, &may);
        }
        prop_assert!(pending.is_empty() && timeline.gates.is_empty());
        assert_empty(&timeline);
    }
}
