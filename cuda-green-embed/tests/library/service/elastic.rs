//! Elastic lanes: with layouts and encoders that a test holds up and lets fail, and on the simulated driver.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use cuda_green_embed::{
    ElasticOptions, Embedder, Encoder, EncoderLimits, Error, Lane, LaneLayout, LaneLayouts,
    PackedBatch, PendingEmbeddings, Result,
};
use proptest::{prelude::*, test_runner::Config};

use super::{
    block_on, eager,
    gated::{GPU, Gated, gpu_error},
    until, vector,
};
use crate::fake_encoder::ends;

const HOUR: Duration = Duration::from_secs(3600);

/// What a change of the layout does.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Fails,
    Panics,
}

/// The SMs of the lanes, as far as these tests see them.
#[derive(Default)]
struct Layouts {
    /// Bulk batches on the way.
    on_the_way: AtomicUsize,
    restoring: AtomicBool,
    /// Whether bulk work ran while its SMs were taken away.
    overlapped: AtomicBool,
    history: Mutex<Vec<LaneLayout>>,
    /// What the next changes do; later ones succeed.
    plan: Mutex<VecDeque<Option<Turn>>>,
}

impl Layouts {
    fn turn(&self, layout: LaneLayout) -> Result<()> {
        let planned = self.plan.lock().unwrap().pop_front().flatten();
        match planned {
            Some(Turn::Fails) => return Err(gpu_error(7)),
            Some(Turn::Panics) => panic!("as asked"),
            None => {}
        }
        let mut history = self.history.lock().unwrap();
        assert_ne!(history.last().copied().unwrap_or(LaneLayout::Fixed), layout);
        history.push(layout);
        Ok(())
    }

    fn history(&self) -> Vec<LaneLayout> {
        self.history.lock().unwrap().clone()
    }

    fn plan(&self, turns: impl IntoIterator<Item = Option<Turn>>) {
        self.plan.lock().unwrap().extend(turns);
    }
}

impl LaneLayouts for Layouts {
    fn widen(&self) -> Result<()> {
        self.turn(LaneLayout::Wide)
    }

    fn restore(&self) -> Result<()> {
        self.restoring.store(true, Ordering::SeqCst);
        if self.on_the_way.load(Ordering::SeqCst) > 0 {
            self.overlapped.store(true, Ordering::SeqCst);
        }
        // Time for somebody who does not know.
        thread::yield_now();
        let turned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.turn(LaneLayout::Fixed)
        }));
        self.restoring.store(false, Ordering::SeqCst);
        turned.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The bulk lane's encoder, whose batches are counted.
struct Counted(Arc<Gated>, Arc<Layouts>);

impl Encoder for Counted {
    fn limits(&self) -> EncoderLimits {
        self.0.limits()
    }

    fn submit(&self, batch: &PackedBatch) -> Result<PendingEmbeddings> {
        let layouts = Arc::clone(&self.1);
        layouts.on_the_way.fetch_add(1, Ordering::SeqCst);
        if layouts.restoring.load(Ordering::SeqCst) {
            layouts.overlapped.store(true, Ordering::SeqCst);
        }
        let Ok(pending) = self.0.submit(batch) else {
            layouts.on_the_way.fetch_sub(1, Ordering::SeqCst);
            return Err(gpu_error(8));
        };
        Ok(PendingEmbeddings::new(move || {
            let vectors = pending.wait();
            layouts.on_the_way.fetch_sub(1, Ordering::SeqCst);
            vectors
        }))
    }
}

struct Service {
    /// Dropped first, so that a test that fails does not hang.
    _gate: OpenAtEnd,
    embedder: Embedder,
    bulk: Arc<Gated>,
    interactive: Arc<Gated>,
    layouts: Arc<Layouts>,
}

struct OpenAtEnd(Arc<Gated>);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

fn service(idle_after: Duration) -> Service {
    let (interactive, bulk) = (Arc::new(Gated::default()), Arc::new(Gated::default()));
    let layouts = Arc::new(Layouts::default());
    let counted = Counted(Arc::clone(&bulk), Arc::clone(&layouts));
    let options = ElasticOptions::default().idle_after(idle_after);
    let builder = eager().elastic_with(options, layouts.clone());
    Service {
        _gate: OpenAtEnd(Arc::clone(&bulk)),
        embedder: builder
            .build_with(interactive.clone(), Arc::new(counted))
            .unwrap(),
        bulk,
        interactive,
        layouts,
    }
}

fn texts(count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|n| vec![n]).collect()
}

impl Service {
    fn layout(&self) -> LaneLayout {
        self.embedder.status().elastic.unwrap().layout
    }

    fn until(&self, layout: LaneLayout) {
        until("the layout changes", || self.layout() == layout);
    }
}

fn check(results: Result<Vec<Result<Vec<f32>>>>) {
    for (n, result) in (0..).zip(results.unwrap()) {
        assert_eq!(result.unwrap(), vector(&[n]));
    }
}

#[test]
fn a_query_in_the_wide_layout_does_not_wait_for_bulk_work() {
    let service = service(HOUR);
    service.bulk.hold();
    let flood = service.embedder.bulk().embed_token_batch(&texts(40));
    service.until(LaneLayout::Wide);
    for n in 1..20 {
        let query = service.embedder.embed_tokens(vec![n]);
        let found = match n % 2 {
            0 => query.wait(),
            _ => block_on(query),
        };
        assert_eq!(found.unwrap(), vector(&[n]));
    }
    // The batch on the way has not ended, so the SMs have not gone back.
    assert_eq!(service.layouts.history(), [LaneLayout::Wide]);
    assert_eq!(service.bulk.submitted().len(), 1);
    assert_eq!(service.interactive.submitted().len(), 19);
    // Nobody waits for the bulk work, and it makes room all the same.
    service.bulk.permit();
    service.until(LaneLayout::Fixed);
    assert_eq!(
        service.layouts.history(),
        [LaneLayout::Wide, LaneLayout::Fixed]
    );
    // Then it goes on.
    service.bulk.open();
    check(flood.wait());
    let status = service.embedder.status();
    assert!(
        status
            .to_string()
            .contains("elastic, fixed now; 2 rebalances, 0 failed\n")
    );
    assert!(!service.layouts.overlapped.load(Ordering::SeqCst));
}

#[test]
fn beside_queries_the_layout_stays_and_bulk_work_goes_on() {
    let service = service(HOUR);
    service.embedder.embed_tokens(vec![1]).wait().unwrap();
    check(
        service
            .embedder
            .bulk()
            .embed_token_batch(&texts(500))
            .wait(),
    );
    assert_eq!(service.layouts.history(), []);
}

#[test]
fn without_bulk_work_the_sms_go_back() {
    let service = service(Duration::ZERO);
    for _ in 0..3 {
        service.bulk.hold();
        let list = service.embedder.bulk().embed_token_batch(&texts(100));
        service.until(LaneLayout::Wide);
        service.bulk.open();
        check(list.wait());
        service.until(LaneLayout::Fixed);
    }
    drop(service.embedder);
    assert_eq!(service.layouts.history().last(), Some(&LaneLayout::Fixed));
}

#[test]
fn the_end_of_a_service_leaves_the_layout_of_its_begin() {
    for (drain, query) in [(true, true), (true, false), (false, true), (false, false)] {
        let service = service(HOUR);
        service.bulk.hold();
        let flood = service.embedder.bulk().embed_token_batch(&texts(40));
        service.until(LaneLayout::Wide);
        if query {
            service.embedder.embed_tokens(vec![1]).wait().unwrap();
        }
        let embedder = service.embedder;
        let end = thread::spawn(move || match drain {
            true => embedder.shutdown(),
            false => drop(embedder),
        });
        service.bulk.open();
        ends(move || end.join().unwrap());
        assert_eq!(
            service.layouts.history(),
            [LaneLayout::Wide, LaneLayout::Fixed]
        );
        if drain {
            check(flood.wait());
        }
    }
}

#[test]
fn a_layout_that_cannot_change_is_tried_again_and_said() {
    for bad in [Turn::Fails, Turn::Panics] {
        let service = service(HOUR);
        service
            .layouts
            .plan([Some(bad), None, Some(bad), Some(bad), None]);
        service.bulk.hold();
        let flood = service.embedder.bulk().embed_token_batch(&texts(40));
        let failed = || service.embedder.status().elastic.unwrap().failed;
        until("it fails", || failed() == 1);
        assert!(
            service
                .embedder
                .status()
                .elastic
                .unwrap()
                .last_error
                .is_some()
        );
        service.until(LaneLayout::Wide);
        service.embedder.embed_tokens(vec![1]).wait().unwrap();
        service.bulk.permit();
        until("it fails", || failed() == 2);
        // Queries and bulk work go on in the old layout.
        service.embedder.embed_tokens(vec![2]).wait().unwrap();
        service.bulk.open();
        check(flood.wait());
        service.until(LaneLayout::Fixed);
        assert!(failed() >= 3);
        assert!(!service.layouts.overlapped.load(Ordering::SeqCst));
    }
}

#[test]
fn a_dead_service_ends_in_any_layout() {
    for wide in [true, false] {
        let service = service(HOUR);
        if !wide {
            service.embedder.embed_tokens(vec![1]).wait().unwrap();
        }
        service.bulk.hold();
        let flood = service
            .embedder
            .bulk()
            .embed_token_batch(&[vec![GPU], vec![2]]);
        if wide {
            service.until(LaneLayout::Wide);
        }
        service.bulk.open();
        for result in flood.wait().unwrap() {
            assert!(
                matches!(result, Err(Error::ServiceDead { .. })),
                "{result:?}"
            );
        }
        let query = service.embedder.embed_tokens(vec![3]).wait();
        assert!(matches!(query, Err(Error::ServiceDead { .. })));
        ends(move || drop(service.embedder));
    }
}

#[test]
fn encoders_of_the_caller_s_need_layouts_of_the_caller_s() {
    let encoder = || Arc::new(Gated::default());
    let builder = eager().elastic(ElasticOptions::default());
    let refused = builder.build_with(encoder(), encoder());
    assert!(matches!(
        refused,
        Err(Error::InvalidOption {
            name: "elastic",
            ..
        })
    ));
    let status = eager().build_with(encoder(), encoder()).unwrap().status();
    assert_eq!(status.elastic, None);
}

proptest! {
    #![proptest_config(Config { cases: 60, max_shrink_iters: 100, ..Config::default() })]

    #[test]
    fn nothing_is_lost_and_no_bulk_work_runs_while_its_sms_go_back(
        idle_micros in prop_oneof![Just(0u64), 1u64..300],
        depth in 1usize..4,
        plan in prop::collection::vec(prop::option::weighted(0.1, Just(Turn::Fails)), 0..20),
        callers in prop::collection::vec(prop::collection::vec((any::<bool>(), any::<bool>(), 1u32..60), 1..25), 1..4),
    ) {
        let (interactive, bulk) = (Arc::new(Gated::default()), Arc::new(Gated::default()));
        let layouts = Arc::new(Layouts::default());
        layouts.plan(plan);
        let counted = Arc::new(Counted(bulk, Arc::clone(&layouts)));
        let options = ElasticOptions::default().idle_after(Duration::from_micros(idle_micros));
        let builder = eager().elastic_with(options, layouts.clone()).submitted(Lane::Bulk, depth);
        let embedder = builder.queue_limit(Lane::Bulk, 10_000).build_with(interactive, counted).unwrap();
        let embedder = &Arc::new(embedder);
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
        prop_assert!(!layouts.overlapped.load(Ordering::SeqCst));
        let status = embedder.status().elastic.unwrap();
        prop_assert!(status.rebalances as usize <= layouts.history().len());
    }
}
