//! Streams of a partition, and the pipeline: its overlap, its order, its bound and its ends.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cuda_green::{ContextPolicy, Driver, GreenContext};
use cuda_green_embed::{
    BatchTimes, Embeddings, Error, OverlappedExecutor, PackedBatch, Result, Span, StreamPool,
    Timeline,
};
use proptest::prelude::*;

use crate::fake_encoder::{Events, FakeEncoder, ends, vectors};

fn context() -> GreenContext {
    let driver = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    GreenContext::primary(&driver.device(0).unwrap(), ContextPolicy::default()).unwrap()
}

#[test]
fn compute_streams_come_in_turn() {
    let context = context();
    let pool = StreamPool::new(&context, 3).unwrap();
    let turns: Vec<_> = (0..7).map(|_| pool.next_compute_stream().raw()).collect();
    let streams: Vec<_> = pool
        .compute_streams()
        .iter()
        .map(|stream| stream.raw())
        .collect();
    assert_eq!(turns[..3], streams);
    assert_eq!(turns[3..6], streams);
    assert_eq!(turns[6], streams[0]);
    let mut all = BTreeSet::from_iter(streams);
    all.insert(pool.transfer_stream().raw());
    assert_eq!(all.len(), 4, "four different streams");
    pool.sync_all().unwrap();
    let error = StreamPool::new(&context, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "number of compute streams is 0; expected at least 1"
    );
}

fn batch(number: usize) -> PackedBatch {
    [[number as u32, 7].as_slice(), &[number as u32 + 1; 3]]
        .into_iter()
        .collect()
}

#[test]
fn a_stream_that_is_not_created_leaves_none_behind() {
    let context = context();
    let simulator = context.device().driver().simulator().unwrap();
    for nth in 1..=4 {
        let before = simulator.live_objects();
        let failing = format!("cuStreamCreateWithPriority#{nth}=OUT_OF_MEMORY");
        simulator.inject(failing.parse().unwrap());
        let error = StreamPool::new(&context, 3).unwrap_err();
        assert!(matches!(error, Error::Gpu(_)), "{error}");
        assert_eq!(simulator.live_objects(), before);
        simulator.assert_injections_fired();
    }
}

#[test]
fn all_streams_are_waited_for_if_one_fails() {
    let context = context();
    let simulator = context.device().driver().simulator().unwrap();
    let pool = StreamPool::new(&context, 3).unwrap();
    simulator.inject("cuStreamSynchronize#2=NOT_READY".parse().unwrap());
    simulator.start_trace();
    let error = pool.sync_all().unwrap_err();
    assert!(matches!(error, Error::Gpu(_)), "{error}");
    let calls = simulator.take_trace();
    let waits = calls
        .iter()
        .filter(|call| call.entry_point == "cuStreamSynchronize");
    assert_eq!(waits.count(), 4);
    simulator.assert_injections_fired();
}

/// Batch 1 is computed only while batch 2 is prepared and batch 0 is delivered: each of the three waits for the others.
#[test]
fn all_three_stages_run_at_the_same_time() {
    for prepare_threads in [1, 3] {
        let events = Arc::new(Events::default());
        let computing = Arc::clone(&events);
        let encoder = FakeEncoder::new().on_wait(move |number| {
            if number == 1 {
                computing.tell("computing", 1);
                computing.wait_for("preparing", 2);
                computing.wait_for("delivering", 0);
                computing.tell("computed", 1);
            }
            Ok(())
        });
        let executor = OverlappedExecutor::new().prepare_threads(prepare_threads);
        let prepare = |number| {
            if number == 2 {
                events.tell("preparing", 2);
                events.wait_for("computing", 1);
                events.wait_for("delivering", 0);
            }
            Ok((batch(number), number))
        };
        let deliver = |number, _| {
            if number == 0 {
                events.tell("delivering", 0);
                events.wait_for("computed", 1);
            }
            Ok(())
        };
        let timeline = executor
            .execute_overlapped(0..4, prepare, &encoder, deliver)
            .unwrap();
        let times = timeline.batches();
        assert_eq!(times.len(), 4);
        let overlaps = |a: Span, b: Span| a.start < b.end && b.start < a.end;
        assert!(overlaps(times[1].compute, times[2].prepare), "{timeline}");
        assert!(overlaps(times[1].compute, times[0].deliver), "{timeline}");
        let overlap = timeline.overlap();
        assert!(overlap.prepare_hidden > 0.0 && overlap.deliver_hidden > 0.0);
        assert!(overlap.compute_busy > 0.0 && overlap.compute_busy <= 1.0);
    }
}

/// The second batch is in the GPU's queue before the first is computed.
#[test]
fn the_next_batch_is_submitted_before_the_vectors_of_the_last_are_there() {
    let events = Arc::new(Events::default());
    let (on_submit, on_wait) = (Arc::clone(&events), Arc::clone(&events));
    let encoder = FakeEncoder::new()
        .on_submit(move |number| {
            on_submit.tell("submitted", number);
            Ok(())
        })
        .on_wait(move |number| {
            if number < 4 {
                on_wait.wait_for("submitted", number + 1);
            }
            Ok(())
        });
    let prepare = |number| Ok((batch(number), ()));
    let deliver = |(), _| Ok(());
    let executor = OverlappedExecutor::new();
    executor
        .execute_overlapped(0..5, prepare, &encoder, deliver)
        .unwrap();
}

/// Preparations on several threads overlap, and end in the opposite order here: batches stay in order.
#[test]
fn preparations_that_end_out_of_order_are_put_in_order() {
    let events = Events::default();
    let prepare = |number| {
        if number < 3 {
            events.wait_for("prepared", number + 1);
        }
        events.tell("prepared", number);
        Ok((batch(number), number))
    };
    let mut delivered = Vec::new();
    let deliver = |number, vectors_: Embeddings| {
        assert_eq!(vectors_, vectors(&batch(number)));
        delivered.push(number);
        Ok(())
    };
    let executor = OverlappedExecutor::new().prepare_threads(4);
    let encoder = FakeEncoder::new();
    executor
        .execute_overlapped(0..4, prepare, &encoder, deliver)
        .unwrap();
    assert_eq!(delivered, [0, 1, 2, 3]);
}

#[test]
fn no_input_is_no_batch() {
    let executor = OverlappedExecutor::default();
    let prepare = |(): ()| Ok((PackedBatch::new(), ()));
    let encoder = FakeEncoder::new();
    let timeline = executor
        .execute_overlapped([], prepare, &encoder, |(), _| Ok(()))
        .unwrap();
    assert!(timeline.batches().is_empty());
    assert_eq!(timeline.overlap().compute_busy, 0.0);
    assert!(timeline.to_string().starts_with("0 batches in 0.0 ms"));
}

#[test]
fn the_executor_has_bounds_of_its_own() {
    assert_eq!(OverlappedExecutor::new().max_on_the_way(), 4);
    let one = OverlappedExecutor::new().prepare_threads(0).submitted(0);
    assert_eq!(one.max_on_the_way(), 3);
    let most = one.prepare_threads(usize::MAX).submitted(usize::MAX);
    assert_eq!(most.max_on_the_way(), 2049);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Inputs,
    Prepare,
    Submit,
    Wait,
    Deliver,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    stage: Stage,
    at: usize,
    panics: bool,
}

impl Failure {
    fn check(self, stage: Stage, number: usize) -> Result<()> {
        if (self.stage, self.at) != (stage, number) {
            return Ok(());
        }
        assert!(!self.panics, "a panic on purpose");
        // The fields tell which failure it was.
        Err(Error::BatchTooLarge {
            unit: "on purpose",
            asked: number,
            limit: stage as usize,
        })
    }
}

fn failure() -> impl Strategy<Value = Failure> {
    let stages = [
        Stage::Inputs,
        Stage::Prepare,
        Stage::Submit,
        Stage::Wait,
        Stage::Deliver,
    ];
    (
        prop::sample::select(stages.to_vec()),
        0usize..20,
        any::<bool>(),
    )
        .prop_map(|(stage, at, panics)| Failure {
            stage,
            at,
            // Inputs have no errors.
            panics: panics || stage == Stage::Inputs,
        })
}

proptest! {
    /// Whatever stage fails or panics at whatever batch, the run ends with just that, all batches before it are
    /// delivered in order, no more than the bound are on the way, and nothing hangs.
    #[test]
    fn a_failure_anywhere_ends_the_run(
        failure in failure(),
        count in 0usize..14,
        prepare_threads in 1usize..4,
        submitted in 1usize..4,
    ) {
        ends(move || {
            let executor = OverlappedExecutor::new()
                .prepare_threads(prepare_threads)
                .submitted(submitted);
            let encoder = FakeEncoder::new()
                .on_submit(move |number| failure.check(Stage::Submit, number))
                .on_wait(move |number| failure.check(Stage::Wait, number));
            let (on_the_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let inputs = (0..count).inspect(|number| {
                failure.check(Stage::Inputs, *number).unwrap();
                let now = on_the_way.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
            });
            let prepare = |number| {
                failure.check(Stage::Prepare, number)?;
                Ok((batch(number), number))
            };
            let mut delivered = Vec::new();
            let deliver = |number, found: Embeddings| {
                failure.check(Stage::Deliver, number)?;
                assert_eq!(found, vectors(&batch(number)));
                delivered.push(number);
                on_the_way.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            let run = || executor.execute_overlapped(inputs, prepare, &encoder, deliver);
            let result = catch_unwind(AssertUnwindSafe(run));
            let fails = failure.at < count;
            let expected = if fails { failure.at } else { count };
            match result {
                Err(panic) => {
                    prop_assert!(fails && failure.panics);
                    let text = panic.downcast_ref::<&str>();
                    prop_assert_eq!(text, Some(&"a panic on purpose"));
                }
                Ok(Err(error)) => {
                    prop_assert!(fails && !failure.panics);
                    let this = matches!(error, Error::BatchTooLarge { unit: "on purpose", asked, limit }
                        if asked == failure.at && limit == failure.stage as usize);
                    prop_assert!(this, "{}", error);
                }
                Ok(Ok(timeline)) => {
                    prop_assert!(!fails);
                    prop_assert_eq!(timeline.batches().len(), count);
                    for times in timeline.batches() {
                        prop_assert_eq!((times.texts, times.tokens), (2, 5));
                        prop_assert!(times.prepare.end <= times.compute.start);
                        prop_assert!(times.compute.start <= times.compute.end);
                        prop_assert!(times.compute.end <= times.deliver.start);
                    }
                }
            }
            prop_assert_eq!(delivered, Vec::from_iter(0..expected));
            prop_assert!(most.into_inner() <= executor.max_on_the_way());
            prop_assert!(encoder.most_in_flight() <= submitted);
            Ok(())
        })?;
    }
}

fn span(start: u64, end: u64) -> Span {
    Span {
        start: Duration::from_millis(start),
        end: Duration::from_millis(end),
    }
}

fn times(prepare: (u64, u64), compute: (u64, u64), deliver: (u64, u64)) -> BatchTimes {
    BatchTimes {
        texts: 2,
        tokens: 5,
        prepare: span(prepare.0, prepare.1),
        compute: span(compute.0, compute.1),
        deliver: span(deliver.0, deliver.1),
    }
}

#[test]
fn a_timeline_tells_and_draws_the_overlap() {
    let timeline = Timeline::new(vec![
        times((0, 10), (10, 30), (30, 40)),
        times((10, 22), (30, 52), (52, 56)),
        times((22, 34), (52, 70), (70, 72)),
    ]);
    let overlap = timeline.overlap();
    assert_eq!(overlap.wall, Duration::from_millis(72));
    let close = |found: f64, expected: f64| (found - expected).abs() < 1e-9;
    assert!(close(overlap.compute_busy, 60.0 / 72.0));
    assert!(close(overlap.prepare_hidden, 24.0 / 34.0));
    assert!(close(overlap.deliver_hidden, 14.0 / 16.0));
    let expected = "   \
   0 ppppppppppccccccccccccccccccccddddddddddd
   1           ppppppppppppp.......ccccccccccccccccccccccddddd
   2                       ppppppppppppp.................ccccccccccccccccccdd
3 batches in 72.0 ms: computing 83 % of it; 71 % of preparing and 88 % of delivering were hidden behind computing";
    assert_eq!(timeline.to_string(), expected);
    let many = Timeline::new(vec![times((0, 1), (1, 2), (2, 3)); 14]);
    assert!(many.to_string().contains("\n     ... 2 more\n14 batches"));
}

proptest! {
    /// The shares are those that counting milliseconds gives.
    #[test]
    fn shares_are_those_of_the_milliseconds(
        spans in prop::collection::vec((0u64..40, 0u64..15, 0u64..10, 0u64..15, 0u64..10, 0u64..15), 0..6),
    ) {
        let batches: Vec<_> = spans
            .iter()
            .map(|&(start, prepare, wait, compute, wait_again, deliver)| {
                let prepared = start + prepare;
                let computing = prepared + wait;
                let computed = computing + compute;
                let delivering = computed + wait_again;
                times((start, prepared), (computing, computed), (delivering, delivering + deliver))
            })
            .collect();
        let overlap = Timeline::new(batches.clone()).overlap();
        let covered = |of: fn(&BatchTimes) -> Span| -> BTreeSet<u128> {
            batches.iter().map(of).flat_map(|span| span.start.as_millis()..span.end.as_millis()).collect()
        };
        let compute = covered(|times| times.compute);
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let hidden = |stage: BTreeSet<u128>| share(stage.intersection(&compute).count(), stage.len());
        let wall = overlap.wall.as_millis() as usize;
        for (found, expected) in [
            (overlap.compute_busy, share(compute.len(), wall)),
            (overlap.prepare_hidden, hidden(covered(|times| times.prepare))),
            (overlap.deliver_hidden, hidden(covered(|times| times.deliver))),
        ] {
            prop_assert!((found - expected).abs() < 1e-9, "{} instead of {}", found, expected);
        }
    }
}
