//! Several models, and what becomes of requests that are given up or whose model fails.

use std::sync::Arc;

use cuda_green_embed::{EmbeddingPipeline, Error, MemoryCache, WeightedMean};

use super::service;
use crate::{
    fake_encoder::ends,
    model_library::{MODELS, Models, name},
    service::{block_on, eager, gated, poll, service as gated_service, until, vector},
};

#[test]
fn thirteen_models_of_which_three_fit_make_one_vector() {
    let models = Models::new(MODELS);
    let library = Arc::new(models.library(3));
    let builder = || EmbeddingPipeline::builder().models(&library);
    let pipeline = builder().build().unwrap();
    let mut joined = Vec::new();
    for awaits in [true, false] {
        let texts = ["a b", "c"];
        let results = match awaits {
            true => block_on(pipeline.embed_batch(&texts)),
            false => pipeline.embed_batch(&texts).wait(),
        };
        for (text, vector) in texts.iter().zip(results.unwrap()) {
            joined = vector.unwrap();
            assert_eq!(joined.len(), MODELS * 32);
            for (model, part) in joined.chunks(32).enumerate() {
                models.assert_is(model, text, part);
            }
        }
    }
    let status = library.status();
    assert_eq!(status.reserved, status.budget);
    assert!(status.evictions >= 20, "{status}");
    let mean = builder().fuse(WeightedMean::new([1.0; MODELS]).unwrap());
    let mean = mean.build().unwrap().embed("c").wait().unwrap();
    for (at, found) in mean.iter().enumerate() {
        let sum: f32 = joined.chunks(32).map(|part| part[at]).sum();
        assert!((found - sum / MODELS as f32).abs() < 1e-4);
    }
}

#[test]
fn a_cached_text_needs_no_model() {
    let models = Models::new(2);
    let library = Arc::new(models.library(1));
    let pipeline = EmbeddingPipeline::builder()
        .cache(MemoryCache::new(1 << 20))
        .models(&library)
        .build()
        .unwrap();
    let first = pipeline.embed("a b").wait().unwrap();
    library.evict(&name(0)).unwrap();
    library.evict(&name(1)).unwrap();
    assert_eq!(pipeline.embed("a b").wait().unwrap(), first);
    assert_eq!(library.status().reserved, 0);
    let unknown = EmbeddingPipeline::builder().model(&library, "x").build();
    assert!(matches!(unknown, Err(Error::NoSuchModel { .. })));
}

#[test]
fn a_model_that_has_no_room_fails_the_call() {
    let models = Models::new(2);
    let library = Arc::new(models.library(1));
    let _held = library.get(None).unwrap();
    let pipeline = EmbeddingPipeline::builder().models(&library).build();
    let refused = pipeline.unwrap().embed("a").wait();
    let Err(Error::Gpu(cuda_green::Error::NoRoomForModel { .. })) = refused else {
        panic!("{refused:?}");
    };
    // The one that it got is not kept.
    assert_eq!(library.status().models[0].users, 1);
}

#[test]
fn a_future_that_is_dropped_cancels_and_leaves_others_of_the_text_alone() {
    ends(|| {
        let (embedder, interactive, _) = gated_service(eager());
        let embedder = Arc::new(embedder);
        let pipeline = EmbeddingPipeline::builder()
            .service("one", Arc::clone(&embedder))
            .cache(MemoryCache::new(1 << 20))
            .build()
            .unwrap();
        interactive.hold();
        let blocks = pipeline.embed("1");
        let mut dropped = pipeline.embed("2 3");
        let kept = pipeline.embed("2 3");
        assert!(poll(&mut dropped).is_pending());
        drop(dropped);
        assert_eq!(embedder.status().interactive.cancelled, 1);
        interactive.open();
        assert_eq!(kept.wait().unwrap(), vector(&[2, 3]));
        assert_eq!(blocks.wait().unwrap(), vector(&[1]));
        assert_eq!(interactive.submitted(), [[[1].to_vec()], [[2, 3].to_vec()]]);
        let cache = pipeline.status().cache.unwrap();
        assert_eq!((cache.hits, cache.misses, cache.entries), (0, 3, Some(2)));
    });
}

#[test]
fn each_model_works_while_another_is_waited_for() {
    ends(|| {
        let (first, held, _) = gated_service(eager());
        let (second, free, _) = gated_service(eager());
        let second = Arc::new(second);
        let pipeline = EmbeddingPipeline::builder()
            .service("first", Arc::new(first))
            .service("second", Arc::clone(&second))
            .build()
            .unwrap();
        for awaits in [true, false] {
            let before = second.status().interactive.done;
            held.hold();
            std::thread::scope(|scope| {
                let future = pipeline.embed("1 2");
                let waiting = scope.spawn(move || match awaits {
                    true => block_on(future),
                    false => future.wait(),
                });
                until("the second works", || {
                    second.status().interactive.done > before
                });
                held.open();
                let found = waiting.join().unwrap().unwrap();
                assert_eq!(found, vector(&[1, 2]).repeat(2));
            });
        }
        assert_eq!(free.submitted().len(), 2);
    });
}

#[test]
fn a_dead_service_fails_the_call_and_a_future_is_read_once() {
    let (embedder, _, _) = gated_service(eager());
    let dead = EmbeddingPipeline::builder().service("one", Arc::new(embedder));
    let dead = dead.service("two", service().0).build().unwrap();
    let fatal = gated::GPU.to_string();
    let fails = dead.embed(&fatal).wait();
    assert!(matches!(fails, Err(Error::ServiceDead { .. })), "{fails:?}");
    let fails = dead.embed_batch(&["1"]).wait();
    assert!(fails.is_err() || fails.unwrap()[0].is_err());
    let pipeline = super::one().build().unwrap();
    let mut future = pipeline.embed("1");
    assert_eq!(block_on(&mut future).unwrap(), vector(&[1]));
    let again = block_on(&mut future);
    assert!(matches!(again, Err(Error::AlreadyTaken)));
}
