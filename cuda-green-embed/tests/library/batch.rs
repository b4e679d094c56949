//! Collecting texts into batches, against a model, and the search for the best size.

use std::{
    cell::Cell,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cuda_green_embed::{
    BatchAccumulator, BatchConfig, BatchCurve, BatchPoint, BatchSample, BatchSizeOptimizer, Error,
    InferencePrecision::{BF16, FP16},
    Sweep, SweepKey, Ticket,
};
use proptest::prelude::*;

use crate::fake_encoder::FakeEncoder;

const MS: Duration = Duration::from_millis(1);

fn small() -> BatchConfig {
    BatchConfig {
        max_batch_size: 4,
        max_tokens: 20,
        max_wait: 10 * MS,
        min_batch_size: 2,
        max_pending: 8,
    }
}

fn accumulator<T>() -> BatchAccumulator<T> {
    BatchAccumulator::new(small()).unwrap()
}

#[test]
fn the_defaults_are_those_of_the_requirements() {
    let config = BatchConfig::default();
    assert_eq!(config.max_batch_size, 64);
    assert_eq!(config.max_wait, 10 * MS);
    assert_eq!(config.min_batch_size, 8);
    config.check().unwrap();
}

#[test]
fn sizes_that_cannot_work_are_named() {
    let refused = |change: fn(&mut BatchConfig)| {
        let mut config = small();
        change(&mut config);
        BatchAccumulator::<()>::new(config).unwrap_err().to_string()
    };
    assert_eq!(
        refused(|config| config.max_batch_size = 0),
        "max_batch_size is 0; expected at least 1"
    );
    assert_eq!(
        refused(|config| config.max_tokens = 0),
        "max_tokens is 0; expected at least 1"
    );
    let expected = "expected 1 to max_batch_size, which is 4";
    assert!(refused(|config| config.min_batch_size = 0).ends_with(expected));
    assert!(refused(|config| config.min_batch_size = 5).ends_with(expected));
    assert_eq!(
        refused(|config| config.max_pending = 3),
        "max_pending is 3; expected at least max_batch_size, which is 4"
    );
}

#[test]
fn sizes_can_be_lowered_to_an_encoders() {
    use cuda_green_embed::Encoder;
    let limits = FakeEncoder::new().limits();
    let config = BatchConfig::default().within(limits);
    assert_eq!((config.max_batch_size, config.max_tokens), (8, 64));
    config.check().unwrap();
    let mut one = limits;
    one.texts = 1;
    BatchConfig::default().within(one).check().unwrap();
}

#[test]
fn the_deadline_is_that_of_the_oldest_item() {
    let mut queue = accumulator();
    let start = Instant::now();
    assert_eq!(queue.next_deadline(), None);
    let first = queue.add('a', 1, start).unwrap();
    queue.add('b', 1, start + 4 * MS).unwrap();
    assert_eq!(queue.next_deadline(), Some(start + 10 * MS));
    assert!(!queue.should_flush(start + 9 * MS, false));
    assert!(queue.should_flush(start + 10 * MS, false));
    // Once the oldest is gone, the next one's counts, whenever a batch was taken last.
    assert_eq!(queue.cancel(first), Some('a'));
    assert_eq!(queue.next_deadline(), Some(start + 14 * MS));
    assert!(!queue.should_flush(start + 10 * MS, false));
    assert_eq!(queue.flush().len(), 1);
    queue.add('c', 1, start + 60 * MS).unwrap();
    assert_eq!(queue.next_deadline(), Some(start + 70 * MS));
}

#[test]
fn an_idle_encoder_is_not_kept_waiting_by_the_minimum() {
    let mut queue = accumulator();
    let start = Instant::now();
    queue.add((), 1, start).unwrap();
    assert!(!queue.should_flush(start, true));
    queue.add((), 1, start).unwrap();
    assert!(queue.should_flush(start, true));
    assert!(!queue.should_flush(start, false));
    queue.add((), 1, start).unwrap();
    queue.add((), 1, start).unwrap();
    assert!(queue.should_flush(start, false), "a full batch");
}

#[test]
fn a_batch_is_full_by_tokens_too() {
    let mut queue = accumulator();
    let start = Instant::now();
    queue.add((), 10, start).unwrap();
    assert!(!queue.should_flush(start, false));
    queue.add((), 11, start).unwrap();
    assert!(queue.should_flush(start, false));
    assert_eq!(queue.next_batch().unwrap().tokens(), 10);
    assert_eq!(queue.tokens(), 11);
}

#[test]
fn a_wait_without_end_has_no_deadline() {
    let mut config = small();
    config.max_wait = Duration::MAX;
    let mut queue = BatchAccumulator::new(config).unwrap();
    queue.add((), 1, Instant::now()).unwrap();
    assert_eq!(queue.next_deadline(), None);
    assert!(!queue.should_flush(Instant::now(), false));
}

#[test]
fn refused_items_come_back() {
    let mut queue = accumulator();
    let now = Instant::now();
    let error = queue.add("long", 21, now).unwrap_err();
    assert_eq!(error.item, "long");
    let Error::BatchTooLarge {
        asked: 21,
        limit: 20,
        ..
    } = error.error
    else {
        panic!("{error}");
    };
    let error = queue.add("empty", 0, now).unwrap_err();
    assert!(matches!(error.error, Error::EmptyText { .. }), "{error}");
    for _ in 0..8 {
        queue.add("fits", 20, now).unwrap();
    }
    let error = queue.add("late", 1, now).unwrap_err();
    assert_eq!(error.item, "late");
    assert_eq!(
        Error::from(error).to_string(),
        "8 texts wait already, which is the most; try again later"
    );
    assert_eq!(queue.len(), 8);
}

#[test]
fn a_batch_has_the_longest_first_and_knows_the_order_of_arrival() {
    let mut queue = accumulator();
    let now = Instant::now();
    for (item, tokens) in [('a', 2), ('b', 7), ('c', 2), ('d', 4)] {
        queue.add(item, tokens, now).unwrap();
    }
    let batch = queue.next_batch().unwrap();
    assert_eq!(batch.items(), ['b', 'd', 'a', 'c']);
    assert_eq!(batch.arrivals(), [1, 3, 0, 2]);
    assert_eq!((batch.tokens(), batch.len()), (15, 4));
    assert_eq!(batch.into_arrival_order(), ['a', 'b', 'c', 'd']);
    assert!(queue.next_batch().is_none());
}

#[test]
fn a_ticket_is_of_one_queue_only() {
    let (mut one, mut other) = (accumulator(), accumulator());
    let now = Instant::now();
    let ticket = one.add('a', 1, now).unwrap();
    other.add('b', 1, now).unwrap();
    assert_eq!(other.cancel(ticket), None);
    assert_eq!(one.cancel(ticket), Some('a'));
    assert_eq!(one.cancel(ticket), None);
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    /// Cancels the item that was added as this one, if so many were.
    Cancel(usize),
    /// Drops the items with a number of this remainder by 3.
    Drop(usize),
    Wait(u64),
    TakeOne,
    TakeAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..25).prop_map(Step::Add),
        2 => (0usize..40).prop_map(Step::Cancel),
        1 => (0usize..3).prop_map(Step::Drop),
        4 => (0u64..6).prop_map(Step::Wait),
        2 => Just(Step::TakeOne),
        1 => Just(Step::TakeAll),
    ]
}

/// An item of the model: number, tokens, arrival.
type Item = (usize, usize, Instant);

proptest! {
    /// Nothing is lost and nothing comes twice; batches are beginnings of what waits and keep their sizes; and what is due
    /// is what a list of waiting items says.
    #[test]
    fn the_queue_behaves_like_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let config = small();
        let mut queue = accumulator();
        let mut model: Vec<Item> = Vec::new();
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Add(tokens) => {
                    let number = tickets.len();
                    match queue.add(number, tokens, now) {
                        Ok(ticket) => {
                            prop_assert!((1..=20).contains(&tokens) && model.len() < 8);
                            tickets.push(ticket);
                            model.push((number, tokens, now));
                        }
                        Err(error) => {
                            prop_assert_eq!(error.item, number);
                            prop_assert!(!(1..=20).contains(&tokens) || model.len() == 8);
                        }
                    }
                }
                Step::Cancel(number) => {
                    let Some(ticket) = tickets.get(number) else { continue };
                    let waits = model.iter().position(|item| item.0 == number);
                    prop_assert_eq!(queue.cancel(*ticket), waits.map(|at| model.remove(at).0));
                }
                Step::Drop(remainder) => {
                    queue.retain(|number| number % 3 != remainder);
                    model.retain(|item| item.0 % 3 != remainder);
                }
                Step::Wait(ms) => now += MS * ms as u32,
                Step::TakeOne => {
                    let batch = queue.next_batch();
                    prop_assert_eq!(batch.is_none(), model.is_empty());
                    if let Some(batch) = batch {
                        check_batch(batch, &mut model)?;
                    }
                }
                Step::TakeAll => {
                    for batch in queue.flush() {
                        check_batch(batch, &mut model)?;
                    }
                    prop_assert!(model.is_empty());
                }
            }
            let tokens: usize = model.iter().map(|item| item.1).sum();
            prop_assert_eq!((queue.len(), queue.tokens()), (model.len(), tokens));
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            let deadline = model.iter().map(|item| item.2).min().map(|oldest| oldest + config.max_wait);
            prop_assert_eq!(queue.next_deadline(), deadline);
            let due = model.len() >= 4 || tokens >= 20 || deadline.is_some_and(|at| at <= now);
            prop_assert_eq!(queue.should_flush(now, false), due);
            prop_assert_eq!(queue.should_flush(now, true), due || model.len() >= 2);
        }
    }
}

/// Checks a batch against the beginning of the model, and takes it away there.
fn check_batch(
    batch: cuda_green_embed::CollectedBatch<usize>,
    model: &mut Vec<Item>,
) -> Result<(), TestCaseError> {
    let taken: Vec<_> = model.drain(..batch.len()).collect();
    let tokens: usize = taken.iter().map(|item| item.1).sum();
    prop_assert_eq!(batch.tokens(), tokens);
    prop_assert!(!batch.is_empty() && batch.len() <= 4 && tokens <= 20);
    // It is full, or nothing more waits.
    if let Some(next) = model.first() {
        prop_assert!(batch.len() == 4 || tokens + next.1 > 20);
    }
    let mut longest_first = taken.clone();
    longest_first.sort_by_key(|item| std::cmp::Reverse(item.1));
    let numbers = |items: &[Item]| items.iter().map(|item| item.0).collect::<Vec<_>>();
    prop_assert_eq!(batch.items(), numbers(&longest_first));
    for (item, arrival) in batch.items().iter().zip(batch.arrivals()) {
        prop_assert_eq!(*item, taken[*arrival].0);
    }
    prop_assert_eq!(batch.into_arrival_order(), numbers(&taken));
    Ok(())
}

fn key() -> SweepKey {
    SweepKey::new("minilm", FP16, "NVIDIA H200", 32, 14)
}

fn sweep(sizes: &[usize]) -> Sweep {
    Sweep {
        sizes: sizes.to_vec(),
        repeats: 3,
    }
}

/// An encoder of 1 ms a batch and 10 µs a text.
fn run(texts: usize) -> cuda_green_embed::Result<BatchSample> {
    let interval = MS + Duration::from_micros(10) * texts as u32;
    Ok(BatchSample {
        tokens: 16 * texts,
        latency: 2 * interval,
        interval,
    })
}

#[test]
fn the_smallest_size_near_the_best_throughput_is_taken() {
    let mut optimizer = BatchSizeOptimizer::new();
    assert_eq!(optimizer.optimal_batch_size(&key(), None), None);
    // 1,000 texts take 11 ms, 2,000 take 21: 91 k/s against 95 k/s; 4,000: 97.6 k/s; 8,000: 98.8 k/s.
    let sizes = sweep(&[8000, 1000, 2000, 4000, 4000]);
    let curve = optimizer.measure(key(), &sizes, run).unwrap();
    let texts: Vec<_> = curve.points().iter().map(|point| point.texts).collect();
    assert_eq!(texts, [1000, 2000, 4000, 8000]);
    assert_eq!(curve.points()[0].tokens, 16_000);
    assert_eq!(optimizer.optimal_batch_size(&key(), None), Some(4000));
    let within = |ms| optimizer.optimal_batch_size(&key(), Some(MS * ms));
    assert_eq!(within(42), Some(2000));
    assert_eq!(within(41), Some(1000));
    assert_eq!(within(21), None);
    // Another length is another key; one that rounds to the same is not.
    let like = |tokens| SweepKey::new("minilm", FP16, "NVIDIA H200", 32, tokens);
    assert_eq!(optimizer.optimal_batch_size(&like(16), None), Some(4000));
    assert_eq!(optimizer.optimal_batch_size(&like(17), None), None);
}

#[test]
fn the_curve_is_shown_as_a_table() {
    let mut optimizer = BatchSizeOptimizer::new();
    let curve = optimizer
        .measure(key(), &sweep(&[1, 64, 4000]), run)
        .unwrap();
    let expected = "\
\x20 texts  tokens  latency ms     texts/s
\x20     1      16       2.020         990  
\x20    64    1024       3.280       39024  ################
*  4000   64000      82.000       97561  ########################################
";
    assert_eq!(curve.to_string(), expected);
    assert_eq!(
        key().to_string(),
        "minilm in f16 on 32 SMs of NVIDIA H200, texts of up to 16 tokens"
    );
}

#[test]
fn the_median_counts_and_the_first_run_does_not() {
    let mut optimizer = BatchSizeOptimizer::new();
    let calls = Cell::new(0);
    let run = |texts| {
        calls.set(calls.get() + 1);
        // The first of each size loads kernels; one in three is disturbed.
        let slow = if calls.get() <= 2 || (5..=6).contains(&calls.get()) {
            50
        } else {
            0
        };
        let mut sample = run(texts)?;
        sample.interval += MS * slow;
        sample.latency += MS * slow;
        Ok(sample)
    };
    let curve = optimizer.measure(key(), &sweep(&[10, 20]), run).unwrap();
    assert_eq!(curve.points()[0].interval, Duration::from_micros(1100));
    assert_eq!(curve.points()[1].latency, Duration::from_micros(2400));
    assert_eq!(calls.get(), 8);
}

#[test]
fn sweeps_that_measure_nothing_are_refused() {
    let mut optimizer = BatchSizeOptimizer::new();
    let mut none = sweep(&[1]);
    none.repeats = 0;
    for (sweep, field) in [
        (sweep(&[]), "number of sizes is 0"),
        (sweep(&[4, 0]), "batch size is 0"),
        (none, "repeats is 0"),
    ] {
        let error = optimizer.measure(key(), &sweep, run).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }
    let failing = |_| Err(Error::EmptyText { text: 3 });
    let error = optimizer.measure(key(), &sweep(&[1]), failing).unwrap_err();
    assert!(matches!(error, Error::EmptyText { text: 3 }));
    assert_eq!(optimizer.curves().len(), 0);
}

#[test]
fn an_encoder_is_measured_with_two_batches_on_the_way() {
    // A clock that each submission moves by 1 µs and each wait by 100 µs.
    let time = Arc::new(AtomicU64::new(0));
    let on_submit = Arc::clone(&time);
    let on_wait = Arc::clone(&time);
    let encoder = FakeEncoder::new()
        .on_submit(move |_| {
            on_submit.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .on_wait(move |_| {
            on_wait.fetch_add(100, Ordering::SeqCst);
            Ok(())
        });
    let start = Instant::now();
    let clock = || start + Duration::from_micros(time.load(Ordering::SeqCst));
    let key = SweepKey::new("fake", FP16, "none", 8, 16);
    let mut optimizer = BatchSizeOptimizer::new();
    let sizes = sweep(&[1, 2, 4, 8, 16]);
    let curve = optimizer
        .measure_encoder(key.clone(), &sizes, &encoder, 5, clock)
        .unwrap();
    // 8 texts would be 128 tokens, 16 are too many texts.
    let texts: Vec<_> = curve.points().iter().map(|point| point.texts).collect();
    assert_eq!(texts, [1, 2, 4]);
    assert_eq!(curve.points()[0].latency, Duration::from_micros(101));
    assert_eq!(encoder.submitted(), 3 * (1 + 3) * (1 + 4));

    // Longer texts than the encoder takes come cut, so they are measured so.
    let long = SweepKey::new("fake", FP16, "none", 8, 17);
    let curve = optimizer.measure_encoder(long, &sizes, &encoder, 5, clock);
    assert_eq!(curve.unwrap().points()[2].tokens, 4 * 16);
    let nothing = optimizer.measure_encoder(key, &sweep(&[16]), &encoder, 5, clock);
    assert_eq!(
        nothing.unwrap_err().to_string(),
        "number of sizes is 0; expected at least 1 that the encoder takes"
    );
}

#[test]
fn curves_are_kept_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch-sizes.json");
    let other = SweepKey::new("minilm", BF16, "NVIDIA H200", 100, 64);
    let mut optimizer = BatchSizeOptimizer::open(&path);
    assert_eq!(optimizer.curves().len(), 0);
    // Two programs with one file keep each other's curves.
    let mut beside = BatchSizeOptimizer::open(&path);
    optimizer
        .measure(key(), &sweep(&[1000, 4000]), run)
        .unwrap();
    beside.measure(other.clone(), &sweep(&[1]), run).unwrap();
    let read = BatchSizeOptimizer::open(&path);
    assert_eq!(read.curves().len(), 2);
    assert_eq!(read.curve(&key()), optimizer.curve(&key()));
    assert_eq!(read.optimal_batch_size(&key(), None), Some(4000));
    assert_eq!(read.curve(&other), beside.curve(&other));
    let files = fs::read_dir(folder.path()).unwrap();
    assert_eq!(files.count(), 1, "no temporary file stays");
}

#[test]
fn a_file_that_cannot_be_used_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("batch-sizes.json");
    let mut optimizer = BatchSizeOptimizer::open(&path);
    optimizer.measure(key(), &sweep(&[1]), run).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        good.contains(&format!("\"version\": \"{version}\"")),
        "{good}"
    );
    let bad = [
        String::new(),
        "[]".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace(version, "0.0.1"),
        good.replace("\"texts\": 1", "\"texts\": 0"),
        good.replace("\"texts\": 1", "\"texts\": -1"),
        good.replace("\"interval_ns\": 1010000", "\"interval_ns\": 0"),
        good.replace("\"f16\"", "\"f12\""),
        good.replace("\"texts\": 1", "\"texts\": 18446744073709551616"),
    ];
    for content in bad {
        assert_ne!(content, good);
        fs::write(&path, &content).unwrap();
        let mut optimizer = BatchSizeOptimizer::open(&path);
        assert_eq!(optimizer.curves().len(), 0, "{content}");
        optimizer.measure(key(), &sweep(&[2]), run).unwrap();
        let read = BatchSizeOptimizer::open(&path);
        assert_eq!(read.optimal_batch_size(&key(), None), Some(2), "{content}");
    }
}

#[test]
fn a_curve_that_cannot_be_written_is_kept_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("batch-sizes.json");
    let mut optimizer = BatchSizeOptimizer::open(&path);
    let error = optimizer.measure(key(), &sweep(&[1]), run).unwrap_err();
    let Error::File { path: found, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(found, &path);
    assert_eq!(optimizer.optimal_batch_size(&key(), None), Some(1));
}

proptest! {
    /// The chosen size keeps the latency and is within 3 % of the best that does; no smaller one is.
    #[test]
    fn the_chosen_point_is_the_smallest_good_one(
        points in prop::collection::vec((1usize..200, 1u64..100, 1u64..1000), 0..12),
        latency in prop::option::of(1u64..100),
    ) {
        let curve = BatchCurve::new(points.iter().map(|&(texts, latency, interval)| BatchPoint {
            texts,
            tokens: texts,
            latency: MS * latency as u32,
            interval: MS * interval as u32,
        }));
        let bound = latency.map(|ms| MS * ms as u32);
        let allowed: Vec<_> = curve
            .points()
            .iter()
            .filter(|point| bound.is_none_or(|bound| point.latency <= bound))
            .collect();
        let best = allowed.iter().map(|point| point.texts_per_second()).fold(0.0, f64::max);
        let good = |point: &BatchPoint| point.texts_per_second() >= 0.97 * best;
        let expected = allowed.iter().copied().filter(|point| good(point)).min_by_key(|point| point.texts);
        prop_assert_eq!(curve.best(bound), expected);
    }
}
