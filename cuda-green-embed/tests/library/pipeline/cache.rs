//! The cache: never another text's vector, never more than its bound, and every look counted.

use std::{collections::BTreeSet, sync::Arc};

use cuda_green_embed::{
    CacheKey, CacheStatus, Embedder, EmbeddingPipeline, Error, Lane, MemoryCache, VectorCache,
};
use proptest::{prelude::*, test_runner::Config};

use super::{one, service};
use crate::{
    fake_encoder::FakeEncoder,
    service::{block_on, eager, vector},
};

/// The bytes of a vector of the fake encoder in the cache.
const ENTRY: u64 = 3 * 4 + 200;

/// Returns the number of texts that a service has computed.
fn computed(services: &[Arc<Embedder>]) -> u64 {
    let done = |one: &Arc<Embedder>| {
        let status = one.status();
        status.interactive.done + status.bulk.done
    };
    services.iter().map(done).sum()
}

#[test]
fn keys_of_models_and_texts_do_not_run_into_each_other() {
    let keys = [
        CacheKey::new("ab", "c"),
        CacheKey::new("a", "bc"),
        CacheKey::new("", "abc"),
        CacheKey::new("abc", ""),
        CacheKey::new("ab", "c "),
        CacheKey::new("ab", "C"),
    ];
    let distinct: BTreeSet<_> = keys.iter().map(CacheKey::as_bytes).collect();
    assert_eq!(distinct.len(), keys.len());
    assert_eq!(CacheKey::new("ab", "c"), keys[0]);
}

#[test]
fn what_is_cached_is_not_computed_again() {
    let (embedder, encoder) = service();
    let pipeline = EmbeddingPipeline::builder()
        .service("one", Arc::clone(&embedder))
        .cache(MemoryCache::new(1 << 20))
        .build()
        .unwrap();
    for _ in 0..3 {
        assert_eq!(pipeline.embed("7 8").wait().unwrap(), vector(&[7, 8]));
        assert_eq!(block_on(pipeline.embed("7 8")).unwrap(), vector(&[7, 8]));
    }
    assert_eq!(encoder.submitted(), 1);
    let status = pipeline.status();
    let cache = status.cache.unwrap();
    assert_eq!((cache.hits, cache.misses, cache.entries), (5, 1, Some(1)));
    assert_eq!(
        status.to_string(),
        "one: 6 done, 0 failed; cache: 5 hits, 1 misses, 1 entries"
    );
}

#[test]
fn the_text_as_it_is_embedded_is_what_counts() {
    let pipeline = one()
        .scrub(|text: &str| text.trim().to_owned())
        .cache(MemoryCache::new(1 << 20))
        .build()
        .unwrap();
    for text in ["5", " 5", "5  "] {
        assert_eq!(pipeline.embed(text).wait().unwrap(), vector(&[5]));
    }
    let cache = pipeline.status().cache.unwrap();
    assert_eq!((cache.hits, cache.misses), (2, 1));
}

/// A cache that panics.
struct Broken(&'static str);

impl VectorCache for Broken {
    fn get(&self, _: &CacheKey) -> Option<Arc<[f32]>> {
        assert_ne!(self.0, "get", "as asked");
        None
    }

    fn insert(&self, _: CacheKey, _: Arc<[f32]>) {
        assert_ne!(self.0, "insert", "as asked");
    }

    fn entries(&self) -> Option<u64> {
        panic!("as asked");
    }
}

#[test]
fn a_cache_that_panics_fails_its_texts() {
    for call in ["get", "insert"] {
        let pipeline = one().cache(Broken(call)).build().unwrap();
        let error = pipeline.embed("1").wait().unwrap_err();
        assert!(
            matches!(error, Error::StagePanicked { stage: "cache", .. }),
            "{error}"
        );
        assert_eq!(pipeline.status().cache.unwrap().entries, None);
    }
}

/// A token that the other model sees at the end of each text.
const OTHER: u32 = 99;

/// Returns a service that gives other vectors.
fn other_service() -> Arc<Embedder> {
    let options = eager().tokenize_with(|text: &str| Ok(vec![text.parse().unwrap(), OTHER]));
    let encoder = || Arc::new(FakeEncoder::new());
    Arc::new(options.build_with(encoder(), encoder()).unwrap())
}

/// Some texts for one of two pipelines, of which one has one model and the other two.
fn call() -> impl Strategy<Value = (bool, bool, Vec<u32>)> {
    let texts = prop::collection::vec(0u32..12, 1..6);
    (any::<bool>(), any::<bool>(), texts)
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]

    /// Two pipelines share a cache, large or small.
    #[test]
    fn a_vector_is_always_the_text_s_own(
        calls in prop::collection::vec(call(), 1..20),
        room in prop_oneof![Just(1u64 << 20), (0..12u64).prop_map(|entries| entries * ENTRY)],
    ) {
        let cache = MemoryCache::new(room);
        let services = [service().0, other_service()];
        let build = |models: &[usize]| {
            let shared = Arc::new(cache.clone());
            let mut builder = EmbeddingPipeline::builder().shared_cache(shared);
            for model in models {
                builder = builder.service(model.to_string(), Arc::clone(&services[*model]));
            }
            builder.build().unwrap()
        };
        let pipelines = [build(&[0]), build(&[0, 1])];
        let mut known = BTreeSet::new();
        let (mut lookups, mut hits) = (0, 0);
        for (both, awaits, texts) in calls {
            let models = 1 + usize::from(both);
            let pipeline = &pipelines[usize::from(both)];
            let contents: Vec<_> = texts.iter().map(u32::to_string).collect();
            let future = pipeline.lane(Lane::Interactive).embed_batch(&contents);
            let results = match awaits {
                true => block_on(future),
                false => future.wait(),
            };
            for (text, result) in texts.iter().zip(results.unwrap()) {
                let all = [vector(&[*text]), vector(&[*text, OTHER])].concat();
                prop_assert_eq!(result.unwrap(), &all[..3 * models]);
            }
            // All are looked up before any is computed.
            let pairs = || texts.iter().flat_map(|text| (0..models).map(move |model| (model, *text)));
            lookups += pairs().count() as u64;
            hits += pairs().filter(|pair| known.contains(pair)).count() as u64;
            known.extend(pairs());
            prop_assert!(cache.bytes() <= room);
        }
        let status = pipelines.map(|one| one.status().cache.unwrap());
        let sum = |of: fn(&CacheStatus) -> u64| status.iter().map(of).sum::<u64>();
        prop_assert_eq!(sum(|one| one.hits) + sum(|one| one.misses), lookups);
        prop_assert_eq!(computed(&services), sum(|one| one.misses));
        let entries = status[0].entries.unwrap();
        prop_assert!(entries * ENTRY <= room, "{} entries", entries);
        if room == 1 << 20 {
            prop_assert_eq!(sum(|one| one.hits), hits);
            prop_assert_eq!(entries, known.len() as u64);
        } else {
            prop_assert!(sum(|one| one.hits) <= hits);
        }
    }
}
