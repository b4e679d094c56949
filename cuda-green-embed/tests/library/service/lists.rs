//! Long lists, which several threads tokenise.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier, Mutex},
    thread::{self, ThreadId},
    time::Duration,
};

use cuda_green_embed::{BatchConfig, Embedder, Error, Lane};
use proptest::{prelude::*, test_runner::Config};

use super::{eager, service, states::accounted, tokenize, vector};

/// The ids of the threads that tokenised.
type Threads = Arc<Mutex<BTreeSet<String>>>;

fn noting(threads: &Threads) -> impl Fn(&str) -> cuda_green_embed::Result<Vec<u32>> + use<> {
    let threads = Arc::clone(threads);
    move |text| {
        let id: ThreadId = thread::current().id();
        threads.lock().unwrap().insert(format!("{id:?}"));
        tokenize(text)
    }
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn roomy() -> BatchConfig {
    BatchConfig {
        max_wait: Duration::ZERO,
        min_batch_size: 1,
        max_pending: 5000,
        ..BatchConfig::default()
    }
}

#[test]
fn the_texts_of_a_long_bulk_list_are_tokenised_at_the_same_time() {
    // Each of the first four texts of a block waits for three others: they end only on four threads.
    let together = Arc::new(Barrier::new(4));
    let meet = Arc::clone(&together);
    let builder = eager().batches(Lane::Bulk, roomy()).tokenizer_threads(4);
    let builder = builder.tokenize_with(move |text| {
        let number: u32 = text.parse().unwrap();
        if number.is_multiple_of(64) {
            meet.wait();
        }
        tokenize(text)
    });
    let (embedder, ..) = service(builder);
    let vectors = embedder.embed_batch(&numbers(64 * 8)).wait().unwrap();
    for (n, found) in (0..).zip(vectors) {
        assert_eq!(found.unwrap(), vector(&[n]));
    }
}

#[test]
fn only_long_lists_of_the_bulk_lane_have_help() {
    let threads = Threads::default();
    let alone = [format!("{:?}", thread::current().id())];
    let builder = || {
        let builder = eager().batches(Lane::Bulk, roomy());
        builder
            .queue_limit(Lane::Interactive, 5000)
            .tokenize_with(noting(&threads))
    };
    let seen = || std::mem::take(&mut *threads.lock().unwrap());
    let (embedder, ..) = service(builder().tokenizer_threads(8));
    embedder.embed_batch(&numbers(255)).wait().unwrap();
    assert!(seen().iter().eq(&alone));
    let queries = embedder.interactive().embed_batch(&numbers(2000));
    queries.wait().unwrap();
    assert!(seen().iter().eq(&alone));
    let (embedder, ..) = service(builder().tokenizer_threads(1));
    embedder.embed_batch(&numbers(2000)).wait().unwrap();
    assert!(seen().iter().eq(&alone));
}

#[test]
fn a_list_that_finds_the_service_closed_gives_its_places_back() {
    // The third block is tokenised when the service has closed.
    let (embedder, _, bulk) = service(eager().batches(Lane::Bulk, roomy()).tokenizer_threads(4));
    bulk.hold();
    let first = embedder.embed_batch(&numbers(1000));
    assert!(matches!(
        embedder.embed_batch(&numbers(4500)).wait(),
        Err(Error::Overloaded { limit: 5000, .. })
    ));
    drop(first);
    bulk.open();
    // All places are free again, but for those of the batch that was on the way.
    super::until("the list is gone", || {
        embedder.status().bulk.on_the_way == 0
    });
    let vectors = embedder.embed_batch(&numbers(5000)).wait().unwrap();
    assert_eq!(vectors.len(), 5000);
    assert_eq!(accounted(&embedder.status(), Lane::Bulk), 6000);
}

#[test]
fn a_deadline_counts_from_the_call_whatever_thread_tokenises() {
    let (embedder, _, bulk) = service(eager().batches(Lane::Bulk, roomy()).tokenizer_threads(4));
    bulk.hold();
    let before = embedder.bulk().embed("1");
    let late = embedder
        .bulk()
        .timeout(Duration::ZERO)
        .embed_batch(&numbers(1000));
    bulk.open();
    before.wait().unwrap();
    for one in late.wait().unwrap() {
        assert!(matches!(one, Err(Error::DeadlineExceeded)));
    }
    assert_eq!(embedder.status().bulk.expired, 1000);
}

proptest! {
    #![proptest_config(Config { cases: 40, max_shrink_iters: 100, ..Config::default() })]

    #[test]
    fn each_text_has_its_own_result_whatever_the_threads(
        threads in 1usize..6,
        callers in prop::collection::vec(prop::collection::vec(0u32..30, 0..700), 1..4),
    ) {
        let (embedder, ..) = service(eager().batches(Lane::Bulk, roomy()).tokenizer_threads(threads));
        let embedder: &Embedder = &embedder;
        thread::scope(|scope| {
            for list in &callers {
                scope.spawn(move || {
                    // Some are no numbers, and some let the tokeniser panic.
                    let texts: Vec<String> = list.iter().map(|n| match n {
                        0 => "x".to_owned(),
                        1 => "panic".to_owned(),
                        n => n.to_string(),
                    }).collect();
                    let results = embedder.embed_batch(&texts).wait().unwrap();
                    assert_eq!(results.len(), list.len());
                    for ((at, n), result) in list.iter().enumerate().zip(results) {
                        match (n, result) {
                            (0 | 1, Err(Error::Tokenize { text, .. })) => assert_eq!(text, at),
                            (n, result) => assert_eq!(result.unwrap(), vector(&[*n])),
                        }
                    }
                });
            }
        });
        let texts = callers.iter().map(Vec::len).sum::<usize>();
        prop_assert_eq!(accounted(&embedder.status(), Lane::Bulk), texts);
    }
}
