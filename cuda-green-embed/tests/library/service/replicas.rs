//! Several GPUs in one service: encoders that a test holds up and lets fail, and two simulated GPUs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use cuda_green::{
    Driver, GpuMemoryPool, SmPartitionManager,
    sim::{Injection, Sim},
};
use cuda_green_embed::{
    BertModel, CublasLt, ElasticOptions, Embedder, EmbedderBuilder, Encoder, EncoderLimits,
    EncoderOptions, Error, InferencePrecision, Lane, PackedBatch, PendingEmbeddings, Result,
    model::BertWeights,
};
use proptest::{prelude::*, test_runner::Config};

use super::{
    block_on, eager,
    gated::{GPU, GPU_IN_SUBMIT_ONCE, GPU_IN_WAIT_ONCE, Gated, gpu_error},
    gpu::{HEAD, assert_close, config},
    until, vector,
};
use crate::fake_encoder::{FakeEncoder, ends};

/// An encoder whose GPU can be lost, now or after so many calls.
#[derive(Clone)]
struct Losable {
    encoder: Arc<Gated>,
    calls_left: Arc<AtomicUsize>,
    /// Whether a call failed.
    noticed: Arc<AtomicBool>,
    gpu: u32,
}

impl Losable {
    fn new(gpu: u32) -> Self {
        Self {
            encoder: Arc::default(),
            calls_left: Arc::new(AtomicUsize::new(usize::MAX)),
            noticed: Arc::default(),
            gpu,
        }
    }

    fn lose_after(&self, calls: usize) {
        self.calls_left.store(calls, Ordering::SeqCst);
    }

    fn call(&self) -> Result<()> {
        let left = |left: usize| match left {
            usize::MAX => Some(left),
            left => left.checked_sub(1),
        };
        let before = self
            .calls_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        before.map(drop).map_err(|_| {
            self.noticed.store(true, Ordering::SeqCst);
            gpu_error(self.gpu)
        })
    }
}

impl Encoder for Losable {
    fn limits(&self) -> EncoderLimits {
        self.encoder.limits()
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        self.call()?;
        let pending = self.encoder.submit(batch)?;
        let this = self.clone();
        Ok(PendingEmbeddings::new(move || {
            let vectors = pending.wait()?;
            this.call()?;
            Ok(vectors)
        }))
    }
}

/// Opens the gates at the end, so that a test that fails does not hang.
struct Gpus {
    interactive: Vec<Losable>,
    bulk: Vec<Losable>,
}

impl Drop for Gpus {
    fn drop(&mut self) {
        for gpu in self.interactive.iter().chain(&self.bulk) {
            gpu.encoder.open();
        }
    }
}

fn encoders(gpus: &[Losable]) -> Vec<Arc<dyn Encoder>> {
    let encoders = gpus.iter().cloned();
    encoders
        .map(|gpu| Arc::new(gpu) as Arc<dyn Encoder>)
        .collect()
}

fn replicas(builder: EmbedderBuilder, count: u32) -> (Gpus, Embedder) {
    let lane = || (0..count).map(Losable::new).collect();
    let gpus = Gpus {
        interactive: lane(),
        bulk: lane(),
    };
    let (interactive, bulk) = (encoders(&gpus.interactive), encoders(&gpus.bulk));
    let embedder = builder.build_replicas_with(interactive, bulk).unwrap();
    (gpus, embedder)
}

fn texts(count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|n| vec![n]).collect()
}

fn check(results: Result<Vec<Result<Vec<f32>>>>) {
    for (n, result) in (0..).zip(results.unwrap()) {
        assert_eq!(result.unwrap(), vector(&[n]));
    }
}

#[test]
fn all_gpus_take_from_one_queue() {
    let (gpus, embedder) = replicas(eager(), 3);
    for gpu in &gpus.bulk {
        gpu.encoder.hold();
    }
    let flood = embedder.bulk().embed_token_batch(&texts(100));
    until("each GPU has a batch", || {
        gpus.bulk
            .iter()
            .all(|gpu| gpu.encoder.submitted().len() == 1)
    });
    let status = embedder.status();
    assert_eq!((status.bulk.queued, status.bulk.on_the_way), (76, 24));
    assert!(status.gpus.iter().all(|gpu| gpu.bulk.on_the_way == 1));
    // The fastest does the rest.
    gpus.bulk[1].encoder.open();
    until("the others' batches are left", || {
        embedder.status().bulk.done == 84
    });
    for gpu in &gpus.bulk {
        gpu.encoder.open();
    }
    check(flood.wait());
    let batches = |gpu: usize| embedder.status().gpus[gpu].bulk.batches;
    assert_eq!([batches(0), batches(1), batches(2)], [1, 11, 1]);
}

#[test]
fn no_gpu_s_batch_waits_behind_another_s() {
    let (gpus, embedder) = replicas(eager(), 2);
    gpus.interactive[0].encoder.hold();
    let first = embedder.embed_tokens(vec![1]);
    for n in 2..50 {
        let query = embedder.embed_tokens(vec![n]);
        let found = match n % 2 {
            0 => query.wait(),
            _ => block_on(query),
        };
        assert_eq!(found.unwrap(), vector(&[n]));
    }
    let status = embedder.status();
    assert_eq!(
        (status.interactive.done, status.interactive.on_the_way),
        (48, 1)
    );
    gpus.interactive[0].encoder.open();
    assert_eq!(first.wait().unwrap(), vector(&[1]));
}

#[test]
fn a_lost_gpu_loses_no_request() {
    for lost_after in 0..6 {
        for wait in [true, false] {
            let (gpus, embedder) = replicas(eager().submitted(Lane::Bulk, 2), 2);
            gpus.bulk[0].lose_after(lost_after);
            let flood = embedder.bulk().embed_token_batch(&texts(200));
            check(if wait { flood.wait() } else { block_on(flood) });
            // It finds out when it takes a batch, which it does sooner or later.
            until("it has failed", || {
                check(embedder.bulk().embed_token_batch(&texts(40)).wait());
                embedder.status().gpus[0].bulk.failed.is_some()
            });
            let status = embedder.status();
            assert!(
                status
                    .to_string()
                    .contains("\nGPU 0 failed in the bulk lane: "),
                "{status}"
            );
            assert_eq!((status.dead, status.bulk.failed), (None, 0));
            assert_eq!(status.gpus[0].interactive.failed, None);
            assert_eq!(status.gpus[1].bulk.failed, None);
            // It is not asked again.
            let asked = gpus.bulk[0].encoder.submitted().len();
            check(embedder.bulk().embed_token_batch(&texts(200)).wait());
            assert_eq!(gpus.bulk[0].encoder.submitted().len(), asked);
            embedder.shutdown();
        }
    }
}

/// Idle, it would be given each query first, and each would be computed twice for ever.
#[test]
fn a_gpu_that_fails_three_batches_in_a_row_gets_no_more() {
    let (gpus, embedder) = replicas(eager(), 2);
    gpus.interactive[0].lose_after(0);
    let failed = || embedder.status().gpus[0].interactive.failed.is_some();
    for n in 0..3 {
        assert!(!failed(), "{n} may have been bad luck");
        let found = embedder.embed_tokens(vec![n]).wait();
        assert_eq!(found.unwrap(), vector(&[n]));
    }
    assert!(failed());
    // The last one may fail as often as the only one of a service may.
    let found = embedder.embed_tokens(vec![GPU_IN_WAIT_ONCE]).wait();
    assert_eq!(found.unwrap(), vector(&[GPU_IN_WAIT_ONCE]));
}

#[test]
fn the_service_is_dead_when_all_gpus_are_with_the_first_cause() {
    let (gpus, embedder) = replicas(eager(), 3);
    for lost in [1, 0] {
        gpus.interactive[lost].lose_after(0);
        until("it has failed", || {
            let queries: Vec<_> = (0..9).map(|n| embedder.embed_tokens(vec![n])).collect();
            for (n, query) in (0..).zip(queries) {
                assert_eq!(query.wait().unwrap(), vector(&[n]));
            }
            embedder.status().gpus[lost].interactive.failed.is_some()
        });
        assert!(embedder.death().is_none());
    }
    gpus.interactive[2].lose_after(0);
    let queries: Vec<_> = (0..9).map(|n| embedder.embed_tokens(vec![n])).collect();
    for query in queries {
        let Err(Error::ServiceDead { first }) = query.wait() else {
            panic!("no GPU is left");
        };
        assert_eq!(first.to_string(), gpu_error(1).to_string());
    }
    let bulk = embedder.bulk().embed_tokens(vec![1]).wait();
    assert!(matches!(bulk, Err(Error::ServiceDead { .. })));
    ends(move || drop(embedder));
}

#[test]
fn a_fault_that_passes_costs_no_gpu_and_a_text_that_breaks_all_of_them_ends_the_service() {
    let (_gpus, embedder) = replicas(eager(), 2);
    for token in [GPU_IN_SUBMIT_ONCE, GPU_IN_WAIT_ONCE] {
        // Each GPU fails it once.
        let found = embedder.embed_tokens(vec![token]).wait();
        assert_eq!(found.unwrap(), vector(&[token]));
    }
    let failed = |gpu: usize| embedder.status().gpus[gpu].interactive.failed.clone();
    assert_eq!([failed(0), failed(1)], [None, None]);
    let found = embedder.embed_tokens(vec![GPU]).wait();
    assert!(matches!(found, Err(Error::ServiceDead { .. })), "{found:?}");
}

#[test]
fn replicas_that_do_not_fit_are_refused() {
    let encoder = |dimension| -> Arc<dyn Encoder> {
        let limits = FakeEncoder::new().limits();
        Arc::new(FakeEncoder::new().with_limits(EncoderLimits {
            dimension,
            ..limits
        }))
    };
    for (interactive, bulk) in [
        (vec![], vec![]),
        (vec![encoder(3)], vec![]),
        (vec![encoder(3), encoder(4)], vec![encoder(3), encoder(3)]),
        (vec![encoder(3), encoder(3)], vec![encoder(4), encoder(4)]),
    ] {
        let refused = eager().build_replicas_with(interactive, bulk);
        assert!(
            matches!(refused, Err(Error::InvalidConfig { .. })),
            "{refused:?}"
        );
    }
}

proptest! {
    #![proptest_config(Config { cases: 60, max_shrink_iters: 100, ..Config::default() })]

    #[test]
    fn whatever_gpus_are_lost_each_request_has_its_vector(
        count in 2u32..5,
        depth in 1usize..4,
        lost in prop::collection::vec((any::<bool>(), 0usize..60), 0..3),
        callers in prop::collection::vec(prop::collection::vec((any::<bool>(), any::<bool>(), 1u32..60), 1..20), 1..4),
    ) {
        let (gpus, embedder) = replicas(eager().submitted(Lane::Bulk, depth).queue_limit(Lane::Bulk, 10_000), count);
        // One at least is left to each lane.
        for (gpu, (is_bulk, after)) in lost.iter().enumerate().take(count as usize - 1) {
            let lane = if *is_bulk { &gpus.bulk } else { &gpus.interactive };
            lane[gpu].lose_after(*after);
        }
        let embedder = &embedder;
        thread::scope(|scope| {
            for uses in &callers {
                scope.spawn(move || {
                    for (is_query, awaits, number) in uses {
                        if *is_query {
                            let query = embedder.embed_tokens(vec![*number]);
                            let found = if *awaits { block_on(query) } else { query.wait() };
                            assert_eq!(found.unwrap(), vector(&[*number]));
                        } else {
                            let list = embedder.bulk().embed_token_batch(&texts(*number));
                            check(if *awaits { block_on(list) } else { list.wait() });
                        }
                    }
                });
            }
        });
        let status = embedder.status();
        prop_assert_eq!(status.dead, None);
        for (lane, gpus) in [(Lane::Interactive, &gpus.interactive), (Lane::Bulk, &gpus.bulk)] {
            let figures = embedder.status().lane(lane).clone();
            prop_assert_eq!((figures.failed, figures.queued), (0, 0));
            for (gpu, losable) in gpus.iter().enumerate() {
                let failed = status.gpus[gpu].lane(lane).failed.is_some();
                prop_assert!(!failed || losable.noticed.load(Ordering::SeqCst));
            }
        }
    }
}

/// One of two simulated GPUs disappears while both work.
#[test]
fn a_simulated_gpu_that_is_lost_gives_its_work_to_the_other() {
    for lost_at in [1, 40, 200] {
        let simulator = Sim::new("2xh200@13.0").unwrap();
        let driver = Driver::simulated(&simulator).unwrap();
        let weights = BertWeights::random(&config(), 3);
        let replicas = [0, 1].map(|gpu| {
            let device = driver.device(gpu).unwrap();
            let pool = GpuMemoryPool::on(&device, 1 << 30).unwrap();
            let cublaslt = CublasLt::software(&device).unwrap();
            let precision = InferencePrecision::FP32;
            let model =
                BertModel::from_weights(&config(), &weights, HEAD, &pool, precision, cublaslt);
            let manager = Arc::new(SmPartitionManager::on(&device).unwrap());
            (model.unwrap(), manager)
        });
        let options = EncoderOptions::default().max_tokens(64).max_texts(16);
        let embedder = Embedder::builder()
            .encoder(Lane::Interactive, options)
            .encoder(Lane::Bulk, options)
            .elastic(ElasticOptions::default())
            .build_replicas(replicas.into())
            .unwrap();
        assert_eq!(embedder.status().interactive.sms, Some(64));
        let list: Vec<Vec<u32>> = (0..60).map(|n| (n..n + 1 + n % 9).collect()).collect();
        let embed = || embedder.bulk().embed_token_batch(&list).wait().unwrap();
        let expected: Vec<_> = embed().into_iter().map(Result::unwrap).collect();
        simulator.inject(Injection::lose_device(1).at(lost_at));
        until("the GPU has failed in both lanes", || {
            for (vector, expected) in embed().into_iter().zip(&expected) {
                assert_close(&vector.unwrap(), expected);
            }
            // Two at a time, so that each GPU has one.
            let queries = [0, 1].map(|_| embedder.embed_tokens(list[5].clone()));
            for query in queries {
                assert_close(&query.wait().unwrap(), &expected[5]);
            }
            let gpu = &embedder.status().gpus[1];
            gpu.bulk.failed.is_some() && gpu.interactive.failed.is_some()
        });
        let status = embedder.status();
        assert_eq!(
            (status.dead, status.bulk.failed, status.interactive.failed),
            (None, 0, 0)
        );
        assert_eq!(
            [status.gpus[0].device, status.gpus[1].device],
            [Some(0), Some(1)]
        );
        ends(move || drop(embedder));
    }
}
