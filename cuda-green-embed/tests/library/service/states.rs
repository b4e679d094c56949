//! The states of a request, one by one.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use cuda_green_embed::{BatchConfig, Embedder, EmbedderStatus, Error, Lane, ServiceMode};

use super::{
    Woken, block_on, eager,
    gated::{
        BATCH, GPU, GPU_IN_SUBMIT_ONCE, GPU_IN_WAIT_ONCE, Gated, OVERFLOW, PANIC_IN_SUBMIT,
        PANIC_IN_WAIT, UNKNOWN,
    },
    poll, service, until, vector,
};

/// Each text counts once.
pub fn accounted(status: &EmbedderStatus, lane: Lane) -> usize {
    let lane = status.lane(lane);
    let ended = lane.done + lane.failed + lane.cancelled + lane.expired;
    ended as usize + lane.queued + lane.on_the_way
}

#[test]
fn a_lone_blocking_request_is_served_by_its_own_thread() {
    let (embedder, interactive, _) = service(eager());
    let me = thread::current().name().unwrap().to_owned();
    for round in 1..=3 {
        assert_eq!(embedder.embed("5 6").wait().unwrap(), vector(&[5, 6]));
        // Submitted and waited for, without another thread.
        assert_eq!(interactive.threads(), vec![me.clone(); 2 * round]);
    }
}

#[test]
fn an_awaited_request_is_submitted_by_the_caller_and_ended_by_the_lane_s_thread() {
    let (embedder, interactive, _) = service(eager());
    assert_eq!(block_on(embedder.embed("5 6")).unwrap(), vector(&[5, 6]));
    let me = thread::current().name().unwrap().to_owned();
    assert_eq!(interactive.threads(), [&*me, "embed-interactive"]);
}

#[test]
fn requests_that_arrive_while_a_batch_is_on_the_way_make_the_next_one() {
    let (embedder, interactive, _) = service(eager());
    interactive.hold();
    let texts = ["1", "2", "3", "4"];
    let futures = texts.map(|text| embedder.embed(text));
    assert_eq!(interactive.submitted(), [[[1]]]);
    let status = embedder.status().interactive;
    assert_eq!((status.queued, status.on_the_way), (3, 1));
    interactive.open();
    for (token, future) in (1..).zip(futures) {
        assert_eq!(future.wait().unwrap(), vector(&[token]));
    }
    assert_eq!(interactive.submitted()[1], [[2], [3], [4]]);
    assert_eq!(embedder.status().interactive.done, 4);
}

#[test]
fn bulk_batches_are_filled() {
    let (interactive, bulk) = (Arc::new(Gated::default()), Arc::new(Gated::default()));
    let config = BatchConfig {
        max_wait: Duration::from_secs(3600),
        min_batch_size: 8,
        ..BatchConfig::default()
    };
    let builder = eager().batches(Lane::Bulk, config);
    let embedder = builder.build_with(interactive, bulk.clone()).unwrap();
    let mut first: Vec<_> = (1..8u32)
        .map(|n| embedder.bulk().embed_tokens(vec![n; 8]))
        .collect();
    assert!(
        bulk.submitted().is_empty(),
        "seven texts may still be joined"
    );
    first.push(embedder.bulk().embed("8"));
    assert_eq!(bulk.submitted().len(), 1);
    for future in first {
        future.wait().unwrap();
    }
    // The rest does not wait for an hour once nothing can come.
    let last = embedder.bulk().embed("9");
    assert!(embedder.status().bulk.queued == 1);
    embedder.shutdown();
    assert_eq!(last.wait().unwrap(), vector(&[9]));
}

#[test]
fn a_flood_of_bulk_work_delays_no_query() {
    let (embedder, interactive, bulk) = service(eager());
    bulk.hold();
    let texts: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    let flood = embedder.embed_batch(&texts);
    for n in 1..100u32 {
        assert_eq!(embedder.embed_tokens(vec![n]).wait().unwrap(), vector(&[n]));
    }
    assert_eq!(interactive.submitted().len(), 99, "each query went at once");
    let status = embedder.status();
    assert_eq!((status.bulk.done, status.bulk.on_the_way), (0, 8));
    bulk.open();
    let vectors = flood.wait().unwrap();
    for (n, result) in (0..).zip(vectors) {
        assert_eq!(result.unwrap(), vector(&[n]));
    }
}

#[test]
fn a_dropped_future_is_never_submitted() {
    let (embedder, interactive, _) = service(eager());
    interactive.hold();
    let first = embedder.embed("1");
    let mut second = embedder.embed("2");
    assert!(poll(&mut second).is_pending());
    let list = embedder.interactive().embed_batch(&["3", "4"]);
    let last = embedder.embed("5");
    drop(second);
    drop(list);
    assert_eq!(embedder.status().interactive.cancelled, 3);
    // One that is on the way is computed for nobody.
    drop(first);
    interactive.open();
    assert_eq!(last.wait().unwrap(), vector(&[5]));
    assert_eq!(interactive.submitted(), [[[1]], [[5]]]);
    let status = embedder.status().interactive;
    assert_eq!((status.done, status.cancelled), (2, 3));
}

#[test]
fn a_late_request_is_never_submitted() {
    let (embedder, interactive, _) = service(eager());
    let none = embedder.interactive().timeout(Duration::ZERO).embed("1");
    assert!(matches!(none.wait(), Err(Error::DeadlineExceeded)));
    let long = embedder.interactive().timeout(Duration::MAX).embed("2");
    assert_eq!(long.wait().unwrap(), vector(&[2]));
    interactive.hold();
    let running = embedder.embed("3");
    let late = embedder.interactive().timeout(Duration::ZERO);
    let late = late.embed_batch(&["4", "5"]);
    let other = embedder.embed("6");
    interactive.open();
    for result in late.wait().unwrap() {
        assert!(matches!(result, Err(Error::DeadlineExceeded)));
    }
    running.wait().unwrap();
    other.wait().unwrap();
    assert_eq!(interactive.submitted(), [[[2]], [[3]], [[6]]]);
    assert_eq!(embedder.status().interactive.expired, 3);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (embedder, interactive, _) = service(eager().queue_limit(Lane::Interactive, 2));
    interactive.hold();
    let running = embedder.embed("1");
    let waiting = [embedder.embed("2"), embedder.embed("3")];
    let Err(Error::Overloaded {
        waiting: 2,
        limit: 2,
    }) = embedder.embed("4").wait()
    else {
        panic!("not refused");
    };
    drop(waiting);
    // A list goes in whole or not at all.
    let refused = embedder.interactive().embed_batch(&["5", "6", "7"]).wait();
    assert!(matches!(
        refused,
        Err(Error::Overloaded {
            waiting: 0,
            limit: 2
        })
    ));
    let fits = embedder.interactive().embed_batch(&["5", "x"]);
    interactive.open();
    running.wait().unwrap();
    let results = fits.wait().unwrap();
    assert_eq!(results[0].as_ref().unwrap(), &vector(&[5]));
    assert!(matches!(results[1], Err(Error::Tokenize { text: 1, .. })));
    // The bad text's place is free again.
    let status = embedder.status().interactive;
    assert_eq!((status.queued, status.overloaded), (0, 4));
    assert!(
        embedder
            .interactive()
            .embed_batch(&["8", "9"])
            .wait()
            .is_ok()
    );
    assert!(
        embedder
            .interactive()
            .embed_batch::<&str>(&[])
            .wait()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_bad_text_fails_alone() {
    let (embedder, _, bulk) = service(eager().vocabulary(1000));
    let unknown = format!("2 {UNKNOWN}");
    let overflow = format!("3 {OVERFLOW} 3");
    let long = vec!["1"; 17].join(" ");
    let texts = [
        "1",
        &*unknown,
        "no number",
        &*overflow,
        "panic",
        &*long,
        "5 1000",
        "4",
    ];
    let mut results = embedder.embed_batch(&texts).wait().unwrap().into_iter();
    let mut next = || results.next().unwrap();
    assert_eq!(next().unwrap(), vector(&[1]));
    assert!(matches!(
        next(),
        Err(Error::UnknownToken {
            text: 1,
            token: UNKNOWN,
            ..
        })
    ));
    assert!(matches!(next(), Err(Error::Tokenize { text: 2, .. })));
    assert!(matches!(next(), Err(Error::Overflow { text: 3, .. })));
    let Err(Error::Tokenize { text: 4, reason }) = next() else {
        panic!("the tokeniser's panic is lost");
    };
    assert_eq!(reason, "the tokeniser panicked: as asked");
    assert!(matches!(
        next(),
        Err(Error::BatchTooLarge {
            asked: 17,
            limit: 16,
            ..
        })
    ));
    assert!(matches!(
        next(),
        Err(Error::UnknownToken {
            text: 6,
            token: 1000,
            ..
        })
    ));
    assert_eq!(next().unwrap(), vector(&[4]));
    assert_eq!(
        bulk.submitted().len(),
        3,
        "again without the one, and the other"
    );
    let status = embedder.status().bulk;
    assert_eq!((status.done, status.failed), (2, 6));
    let none = embedder.embed_tokens(vec![]).wait();
    assert!(matches!(none, Err(Error::EmptyText { text: 0 })));
}

#[test]
fn a_panic_or_a_refusal_fails_one_batch() {
    let (embedder, interactive, _) = service(eager());
    for token in [PANIC_IN_SUBMIT, PANIC_IN_WAIT, BATCH] {
        interactive.hold();
        let running = embedder.embed("1");
        let bad = embedder
            .interactive()
            .embed_token_batch(&[[2, 2], [2, token]]);
        interactive.open();
        running.wait().unwrap();
        for result in bad.wait().unwrap() {
            match result {
                Err(Error::EncoderPanicked) => assert_ne!(token, BATCH),
                Err(Error::BatchFailed { error }) => {
                    assert!(token == BATCH && matches!(*error, Error::UnsupportedPrecision { .. }));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(embedder.embed("3").wait().unwrap(), vector(&[3]));
    }
    assert!(embedder.status().dead.is_none());
    let alone = embedder.embed_tokens(vec![BATCH]).wait();
    assert!(matches!(alone, Err(Error::UnsupportedPrecision { .. })));
}

#[test]
fn a_fault_of_the_gpu_that_passes_is_survived() {
    let (embedder, interactive, _) = service(eager());
    for token in [GPU_IN_SUBMIT_ONCE, GPU_IN_WAIT_ONCE] {
        let vector = embedder.embed_tokens(vec![token]).wait().unwrap();
        assert_eq!(vector, super::vector(&[token]));
    }
    assert_eq!(interactive.submitted().len(), 4);
    assert_eq!(embedder.status().interactive.failed, 0);
}

#[test]
fn a_fault_of_the_gpu_that_stays_fails_everything_with_its_first_cause() {
    let (embedder, interactive, bulk) = service(eager());
    bulk.hold();
    interactive.hold();
    let flood = embedder.embed_batch(&["1"; 20]);
    let bad = embedder.embed_tokens(vec![GPU]);
    let waiting = embedder.embed("2");
    interactive.open();
    for result in [bad.wait(), waiting.wait()] {
        let Err(Error::ServiceDead { first }) = result else {
            panic!("{result:?}");
        };
        assert!(
            first.to_string().contains("GPU 2") || first.to_string().contains('2'),
            "{first}"
        );
    }
    let status = embedder.status();
    assert!(
        status.dead.is_some() && status.to_string().contains("dead: "),
        "{status}"
    );
    assert!(embedder.death().is_some());
    assert!(matches!(
        embedder.embed("3").wait(),
        Err(Error::ServiceDead { .. })
    ));
    // Those of the other lane as well, but for the batch that a thread waits for.
    bulk.open();
    let results = flood.wait().unwrap();
    let dead = results
        .iter()
        .filter(|one| matches!(one, Err(Error::ServiceDead { .. })));
    assert!(dead.count() >= 12);
    for lane in Lane::ALL {
        let status = embedder.status();
        assert_eq!(status.lane(lane).queued + status.lane(lane).on_the_way, 0);
    }
    embedder.shutdown();
}

#[test]
fn shutdown_answers_everything() {
    let (embedder, interactive, bulk) = service(eager());
    interactive.hold();
    bulk.hold();
    let queries: Vec<_> = (0..20).map(|n| embedder.embed_tokens(vec![n])).collect();
    let flood = embedder.embed_batch(&["7"; 100]);
    interactive.open();
    bulk.open();
    embedder.shutdown();
    for (n, mut query) in (0..).zip(queries) {
        // Without another wait.
        let Poll::Ready(result) = poll(&mut query) else {
            panic!("query {n} was not answered");
        };
        assert_eq!(result.unwrap(), vector(&[n]));
    }
    assert!(flood.wait().unwrap().iter().all(Result::is_ok));
}

#[test]
fn a_drop_fails_what_waits() {
    let (embedder, interactive, _) = service(eager());
    interactive.hold();
    let running = embedder.embed("1");
    let waiting = embedder.embed("2");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut waiting = Box::pin(waiting);
    assert!(
        waiting
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let ending = thread::spawn(move || drop(embedder));
    // It is woken while the batch before it is still on the way.
    until("the waiting request ends", || *woken.told.lock().unwrap());
    interactive.open();
    ending.join().unwrap();
    assert!(matches!(waiting.wait_it(), Err(Error::ShutDown)));
    assert_eq!(running.wait().unwrap(), vector(&[1]));
}

/// Waits for a future behind a pin.
trait WaitIt {
    fn wait_it(self) -> cuda_green_embed::Result<Vec<f32>>;
}

impl WaitIt for std::pin::Pin<Box<cuda_green_embed::EmbedFuture>> {
    fn wait_it(self) -> cuda_green_embed::Result<Vec<f32>> {
        block_on(self)
    }
}

#[test]
fn a_waker_that_panics_or_drops_the_service_harms_nobody() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("as asked");
        }
    }
    struct Drops(std::sync::Mutex<Option<Embedder>>);
    impl std::task::Wake for Drops {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let (embedder, interactive, _) = service(eager());
    interactive.hold();
    let _first = embedder.embed("0");
    let mut bad = embedder.embed("1");
    let mut last = embedder.embed("2");
    let after = embedder.embed("3");
    let panics = Waker::from(Arc::new(Panics));
    let polled = |future: &mut _, waker: &Waker| {
        let future = std::pin::Pin::new(future);
        std::future::Future::poll(future, &mut Context::from_waker(waker)).is_pending()
    };
    assert!(polled(&mut bad, &panics));
    let drops = Arc::new(Drops(std::sync::Mutex::new(Some(embedder))));
    assert!(polled(&mut last, &Waker::from(Arc::clone(&drops))));
    interactive.open();
    assert_eq!(after.wait().unwrap(), vector(&[3]));
    until("the service is dropped", || {
        drops.0.try_lock().is_ok_and(|one| one.is_none())
    });
    assert_eq!(block_on(bad).unwrap(), vector(&[1]));
    assert_eq!(block_on(last).unwrap(), vector(&[2]));
}

#[test]
fn a_future_that_is_polled_too_often_says_so() {
    let (embedder, ..) = service(eager());
    let mut future = embedder.embed("1");
    while poll(&mut future).is_pending() {
        thread::yield_now();
    }
    assert!(matches!(
        poll(&mut future),
        Poll::Ready(Err(Error::AlreadyTaken))
    ));
}

#[test]
fn a_list_wakes_its_task_once() {
    let (embedder, interactive, _) = service(eager());
    interactive.hold();
    let mut list = embedder.interactive().embed_batch(&["1"; 30]);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut poll = || {
        let list = std::pin::Pin::new(&mut list);
        std::future::Future::poll(list, &mut Context::from_waker(&waker))
    };
    assert!(poll().is_pending());
    interactive.open();
    until("it is woken", || *woken.told.lock().unwrap());
    assert!(poll().is_ready());
    assert_eq!(woken.times.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn a_service_of_encoders_says_so_and_refuses_what_cannot_work() {
    let (embedder, ..) = service(Embedder::builder());
    assert!(matches!(
        embedder.embed("1").wait(),
        Err(Error::NoTokenizer)
    ));
    assert_eq!(embedder.embed_tokens(vec![1]).wait().unwrap(), vector(&[1]));
    let status = embedder.status();
    assert_eq!(
        (&status.mode, status.interactive.sms),
        (&ServiceMode::OwnEncoders, None)
    );
    assert!(
        status
            .to_string()
            .starts_with("encoders of the caller\ninteractive  "),
        "{status}"
    );
    assert_eq!(embedder.dimension(), 3);
    let none = eager().queue_limit(Lane::Bulk, 0);
    let none = none.build_with(Arc::new(Gated::default()), Arc::new(Gated::default()));
    assert!(matches!(
        none,
        Err(Error::InvalidConfig {
            field: "max_pending",
            ..
        })
    ));
}
