//! Several GPUs: the counts, the shared queue, and encoders that fail.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use cuda_green::{
    ContextId, Driver, GpuMemoryPool, SmPartitionManager,
    sim::{Injection, Sim},
};
use cuda_green_embed::{
    BertEncoder, BertModel, CublasLt, Encoder, EncoderOptions, Error, InferencePrecision,
    ModelHead, MultiGpuBalancer, MultiGpuEmbedder, OverlappedExecutor, PackedBatch, Pooling,
    model::{BertConfig, BertWeights},
};
use proptest::prelude::*;

use crate::fake_encoder::{Events, FakeEncoder, ends, vectors};

fn batch(number: u32) -> PackedBatch {
    [[number, 7].as_slice(), &[number + 1; 3]]
        .into_iter()
        .collect()
}

fn embedder(encoders: impl IntoIterator<Item = FakeEncoder>) -> MultiGpuEmbedder {
    let encoders = encoders
        .into_iter()
        .map(|encoder| Arc::new(encoder) as Arc<dyn Encoder>);
    MultiGpuEmbedder::new(encoders.collect()).unwrap()
}

fn gpu_error() -> Error {
    Error::Gpu(cuda_green::Error::NoSuchDevice { asked: 9, count: 3 })
}

#[test]
fn the_balancer_counts_per_gpu() {
    let balancer = MultiGpuBalancer::new(3).unwrap();
    assert_eq!(balancer.gpu_count(), 3);
    assert_eq!(balancer.least_loaded_gpu(), 0, "the first of equal ones");
    balancer.record_submit(0, 5).unwrap();
    assert_eq!(balancer.least_loaded_gpu(), 1);
    assert_eq!(
        [balancer.assign(3), balancer.assign(3), balancer.assign(1)],
        [1, 2, 1]
    );
    assert_eq!(balancer.on_the_way(), [5, 4, 3]);
    let error = balancer.record_complete(3, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no GPU 3: there are 3, counted from 0"
    );
    assert!(balancer.record_submit(usize::MAX, 1).is_err());
    let error = MultiGpuBalancer::new(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "number of GPUs is 0; expected at least 1"
    );
}

proptest! {
    #[test]
    fn the_balancer_behaves_like_a_list(
        gpus in 1usize..5,
        steps in prop::collection::vec((0usize..5, 0usize..3, prop_oneof![0u64..50, Just(u64::MAX)]), 0..40),
    ) {
        let balancer = MultiGpuBalancer::new(gpus).unwrap();
        let mut model = vec![0u64; gpus];
        for (gpu, kind, tokens) in steps {
            let least = (0..gpus).min_by_key(|gpu| (model[*gpu], *gpu)).unwrap();
            prop_assert_eq!(balancer.least_loaded_gpu(), least);
            match (kind, model.get_mut(gpu)) {
                (2, _) => {
                    prop_assert_eq!(balancer.assign(tokens), least);
                    model[least] = model[least].saturating_add(tokens);
                }
                (0, Some(count)) => {
                    balancer.record_submit(gpu, tokens).unwrap();
                    *count = count.saturating_add(tokens);
                }
                (_, Some(count)) => {
                    balancer.record_complete(gpu, tokens).unwrap();
                    *count = count.saturating_sub(tokens);
                }
                (0, None) => prop_assert!(balancer.record_submit(gpu, tokens).is_err()),
                (_, None) => prop_assert!(balancer.record_complete(gpu, tokens).is_err()),
            }
            prop_assert_eq!(balancer.on_the_way(), model.clone());
        }
    }
}

#[test]
fn encoders_must_be_there_and_alike() {
    let error = MultiGpuEmbedder::new(Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "number of GPUs is 0; expected at least 1"
    );
    let mut other = FakeEncoder::new().limits();
    other.dimension = 4;
    let other = FakeEncoder::new().with_limits(other);
    let error = MultiGpuEmbedder::new(vec![Arc::new(FakeEncoder::new()), Arc::new(other)]);
    assert_eq!(
        error.unwrap_err().to_string(),
        "dimension of an encoder's vectors is 4; expected 3, as of the first encoder"
    );
}

#[test]
fn the_limits_are_the_smallest() {
    let mut small = FakeEncoder::new().limits();
    small.texts = 2;
    let small = FakeEncoder::new().with_limits(small);
    let embedder = embedder([FakeEncoder::new(), small]);
    assert_eq!(Encoder::limits(&embedder).texts, 2);
    assert_eq!(Encoder::limits(&embedder).tokens, 64);
}

/// Each of three GPUs waits until the two others have a batch: none may take a second one before.
#[test]
fn all_gpus_work_at_the_same_time() {
    let events = Arc::new(Events::default());
    let encoders = (0..3).map(|gpu| {
        let (on_submit, on_wait) = (Arc::clone(&events), Arc::clone(&events));
        FakeEncoder::new()
            .on_submit(move |_| {
                on_submit.tell("submitted", gpu);
                Ok(())
            })
            .on_wait(move |_| {
                (0..3).for_each(|other| on_wait.wait_for("submitted", other));
                Ok(())
            })
    });
    let embedder = embedder(encoders);
    let found = embedder.embed_batch((0..3).map(batch).collect()).unwrap();
    assert_eq!(
        found,
        (0..3)
            .map(|number| vectors(&batch(number)))
            .collect::<Vec<_>>()
    );
    let done: Vec<_> = embedder
        .status()
        .iter()
        .map(|status| status.batches)
        .collect();
    assert_eq!(done, [1, 1, 1]);
}

#[test]
fn a_gpu_has_its_next_batch_before_the_last_is_computed() {
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
    let found = embedder([encoder]).embed_batch((0..5).map(batch).collect());
    assert_eq!(found.unwrap().len(), 5);
}

/// The first GPU is held up in its first batch: the second does the rest.
#[test]
fn a_slow_gpu_does_not_hold_up_the_others() {
    let events = Arc::new(Events::default());
    let (slow, fast) = (Arc::clone(&events), Arc::clone(&events));
    let slow = FakeEncoder::new().on_wait(move |_| {
        slow.wait_for("computed", 7);
        Ok(())
    });
    let fast = FakeEncoder::new().on_wait(move |number| {
        fast.tell("computed", number);
        Ok(())
    });
    let embedder = embedder([slow, fast]);
    // The slow one has at most two.
    let found = embedder.embed_batch((0..10).map(batch).collect()).unwrap();
    assert_eq!(
        found,
        (0..10)
            .map(|number| vectors(&batch(number)))
            .collect::<Vec<_>>()
    );
}

#[test]
fn calls_of_several_threads_get_their_own_vectors() {
    let embedder = embedder((0..3).map(|_| FakeEncoder::new()));
    thread::scope(|scope| {
        for caller in 0..4 {
            let embedder = &embedder;
            scope.spawn(move || {
                for round in 0..20 {
                    let numbers = (0..round % 5).map(|number| caller * 1000 + round * 10 + number);
                    let batches: Vec<_> = numbers.map(batch).collect();
                    let expected: Vec<_> = batches.iter().map(vectors).collect();
                    assert_eq!(embedder.embed_batch(batches).unwrap(), expected);
                }
            });
        }
    });
    let status = embedder.status();
    assert_eq!(
        status.iter().map(|status| status.batches).sum::<u64>(),
        4 * 4 * (1 + 2 + 3 + 4)
    );
    assert!(status.iter().all(|status| status.tokens_on_the_way == 0));
}

#[test]
fn a_fault_of_a_batch_ends_its_call_only() {
    let embedder = embedder([FakeEncoder::new()]);
    let long: PackedBatch = [[1u32; 17]].into_iter().collect();
    let error = embedder
        .embed_batch(vec![batch(0), long, batch(1)])
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::BatchTooLarge {
                asked: 17,
                limit: 16,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        embedder.embed_batch(vec![batch(2)]).unwrap(),
        [vectors(&batch(2))]
    );
    assert!(embedder.status()[0].retired.is_none());
}

#[test]
fn an_encoder_that_panics_is_retired_and_the_caller_panics() {
    let bad = FakeEncoder::new().on_wait(|_| panic!("a panic on purpose"));
    let embedder = embedder([bad]);
    let run = || embedder.embed_batch(vec![batch(0), batch(1), batch(2)]);
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a panic on purpose"));
    let error = embedder.embed_batch(vec![batch(3)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all encoders have failed; the first error was: the encoder panicked"
    );
    assert!(matches!(
        embedder.status()[0].retired.as_deref(),
        Some(Error::EncoderPanicked)
    ));
}

#[test]
fn the_threads_end_with_the_embedder() {
    let encoder = Arc::new(FakeEncoder::new());
    let embedder = MultiGpuEmbedder::new(vec![encoder.clone(), encoder.clone()]).unwrap();
    // What is on the way is computed first.
    let pending = embedder.submit(&batch(4)).unwrap();
    drop(embedder);
    assert_eq!(Arc::strong_count(&encoder), 1);
    assert_eq!(pending.wait().unwrap(), vectors(&batch(4)));
}

#[test]
fn the_pipeline_runs_over_several_gpus() {
    let embedder = embedder((0..2).map(|_| FakeEncoder::new()));
    let executor = OverlappedExecutor::new().submitted(4);
    let prepare = |number| Ok((batch(number), number));
    let mut delivered = 0;
    let deliver = |number, found| {
        assert_eq!(found, vectors(&batch(number)));
        assert_eq!(number, delivered);
        delivered += 1;
        Ok(())
    };
    executor
        .execute_overlapped(0..30, prepare, &embedder, deliver)
        .unwrap();
    assert_eq!(delivered, 30);
}

#[test]
fn a_large_batch_is_cut_and_errors_name_its_own_texts() {
    let large: PackedBatch = (0..20).map(|id| [id]).collect();
    let failing = FakeEncoder::new().on_submit(|number| match number {
        1 => Err(Error::EmptyText { text: 3 }),
        _ => Ok(()),
    });
    let failing = embedder([failing]);
    // 8 texts are the most of one piece.
    let error = failing.embed_packed(&large).unwrap_err();
    assert!(matches!(error, Error::EmptyText { text: 11 }), "{error}");
    assert_eq!(failing.embed_packed(&large).unwrap(), vectors(&large));
    // It fits one GPU, and both have a part of it.
    let two = embedder([FakeEncoder::new(), FakeEncoder::new()]);
    assert_eq!(two.embed_packed(&batch(5)).unwrap(), vectors(&batch(5)));
    let batches: u64 = two.status().iter().map(|status| status.batches).sum();
    assert_eq!(batches, 2);
    let empty = two.embed_packed(&PackedBatch::new()).unwrap();
    assert_eq!((empty.len(), empty.dimension()), (0, 3));
}

/// The call of an encoder that fails, and whether it is one to submit or to wait.
fn failure() -> impl Strategy<Value = Option<(usize, bool)>> {
    prop::option::weighted(0.7, (0usize..8, any::<bool>()))
}

proptest! {
    /// However encoders fail, each batch is computed once by one that did not, or the call has the first error because
    /// none is left.
    #[test]
    fn failing_encoders_give_their_work_back(
        failures in prop::collection::vec(failure(), 1..4),
        calls in prop::collection::vec(0u32..9, 1..4),
    ) {
        ends(move || {
            let encoders = failures.iter().map(|&failure| {
                // Once lost, a GPU stays lost.
                let fails = move |number: usize, submits: bool| match failure {
                    Some((at, at_submit)) if number > at || (number == at && at_submit == submits) => {
                        Err(gpu_error())
                    }
                    _ => Ok(()),
                };
                let encoder = FakeEncoder::new()
                    .on_submit(move |number| fails(number, true))
                    .on_wait(move |number| fails(number, false));
                Arc::new(encoder)
            });
            let encoders: Vec<_> = encoders.collect();
            let shared = encoders.iter().map(|encoder| Arc::clone(encoder) as Arc<dyn Encoder>);
            let embedder = MultiGpuEmbedder::new(shared.collect()).unwrap();
            let survives = failures.contains(&None);
            let mut computed = 0;
            for count in calls {
                let batches: Vec<_> = (0..count).map(batch).collect();
                let expected: Vec<_> = batches.iter().map(vectors).collect();
                match embedder.embed_batch(batches) {
                    Ok(found) => {
                        prop_assert_eq!(found, expected);
                        computed += u64::from(count);
                        let status = embedder.status();
                        let done: u64 = status.iter().map(|status| status.batches).sum();
                        prop_assert_eq!(done, computed, "each batch once");
                        prop_assert!(status.iter().all(|status| status.tokens_on_the_way == 0));
                    }
                    Err(Error::NoGpuLeft { first }) => {
                        prop_assert!(!survives && matches!(*first, Error::Gpu(_)));
                        prop_assert!(embedder.status().iter().all(|status| status.retired.is_some()));
                        break;
                    }
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
            }
            for (status, failure) in embedder.status().iter().zip(&failures) {
                prop_assert!(status.retired.is_none() || failure.is_some());
            }
            for encoder in encoders {
                prop_assert!(encoder.most_in_flight() <= 2);
            }
            Ok(())
        })?;
    }

    /// A batch that is cut gives the vectors of the whole, whatever its texts and however many GPUs.
    #[test]
    fn a_cut_batch_is_that_of_the_whole(
        lengths in prop::collection::vec(1usize..=16, 0..40),
        gpus in 1usize..4,
    ) {
        let texts = lengths.iter().enumerate().map(|(text, length)| vec![text as u32; *length]);
        let whole: PackedBatch = texts.collect();
        let embedder = embedder((0..gpus).map(|_| FakeEncoder::new()));
        prop_assert_eq!(embedder.embed_packed(&whole).unwrap(), vectors(&whole));
    }
}

/// Makes the encoder of a small model in a partition of a GPU.
fn bert(driver: &Driver, gpu: u32) -> cuda_green_embed::Result<BertEncoder> {
    let device = driver.device(gpu)?;
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let mut config = BertConfig::of(128, 1, 4);
    config.intermediate_size = 128;
    config.vocabulary = 300;
    config.positions = 64;
    let head = ModelHead {
        pooling: Pooling::Mean,
        normalize: true,
        max_length: 64,
    };
    let model = BertModel::from_weights(
        &config,
        &BertWeights::random(&config, 3),
        head,
        &GpuMemoryPool::on(&device, 1 << 28)?,
        InferencePrecision::FP16,
        CublasLt::software(&device)?,
    )?;
    let options = EncoderOptions::default().max_tokens(64).max_texts(8);
    BertEncoder::new(
        &model,
        manager.create_stream(ContextId::Embedding)?,
        options,
    )
}

/// One of two GPUs disappears while both work: the other one computes all vectors, and they are the same.
#[test]
fn a_lost_gpu_gives_its_work_to_the_other() {
    for lost_at in [1, 30, 90] {
        let simulator = Sim::new("2xh200@13.0").unwrap();
        let driver = Driver::simulated(&simulator).unwrap();
        let [first, second] = [0, 1].map(|gpu| Arc::new(bert(&driver, gpu).unwrap()));
        let batches: Vec<_> = (0..8).map(batch).collect();
        let expected: Vec<_> = batches
            .iter()
            .map(|batch| first.encode(batch).unwrap())
            .collect();
        let embedder = MultiGpuEmbedder::new(vec![first, second]).unwrap();
        assert_eq!(embedder.embed_batch(batches.clone()).unwrap(), expected);

        simulator.inject(Injection::lose_device(1).at(lost_at));
        // The lost GPU finds out when it takes a batch, which it does sooner or later.
        for _ in 0..1000 {
            assert_eq!(embedder.embed_batch(batches.clone()).unwrap(), expected);
            if embedder.status()[1].retired.is_some() {
                break;
            }
        }
        let status = embedder.status();
        let retired = status[1].retired.as_deref();
        assert!(matches!(retired, Some(Error::Gpu(_))), "{retired:?}");
        assert!(status[0].retired.is_none());
        assert!(status.iter().all(|status| status.tokens_on_the_way == 0));
    }
}
