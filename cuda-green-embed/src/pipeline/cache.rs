//! The cache of vectors, by model and text.

use std::sync::Arc;

use sha2::{Digest, Sha256};

/// A text for a model: the SHA-256 of the model's name and the scrubbed text, so that no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Makes the key of a text for a model.
    pub fn new(model: &str, text: &str) -> Self {
        let mut hash = Sha256::new();
        // The length in front of the name, so that no part of it can be taken for the text's.
        hash.update((model.len() as u64).to_le_bytes());
        hash.update(model);
        hash.update(text);
        Self(hash.finalize().into())
    }

    /// Returns the hash, for a cache outside the process.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A cache of vectors, which pipelines may share. It may forget any of them at any time.
pub trait VectorCache: Send + Sync {
    /// Returns a vector that was put in.
    fn get(&self, key: &CacheKey) -> Option<Arc<[f32]>>;

    /// Puts a vector in.
    fn insert(&self, key: CacheKey, vector: Arc<[f32]>);

    /// Returns the number of vectors, if it is known.
    fn entries(&self) -> Option<u64> {
        None
    }
}

/// A cache in memory, bounded in bytes. When it is full, what is rarely asked for goes.
#[cfg(feature = "cache")]
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
#[derive(Clone, Debug)]
pub struct MemoryCache(moka::sync::Cache<CacheKey, Arc<[f32]>>);

#[cfg(feature = "cache")]
impl MemoryCache {
    /// The bytes that an entry takes besides its values: the key, twice, and the cache's own records, roughly.
    const OVERHEAD: usize = 200;

    /// Makes a cache that holds up to so many bytes: four for each value, and 200 for each vector. Up to some 400 vectors
    /// that were put in just now may come on top.
    pub fn new(bytes: u64) -> Self {
        let weight = |_: &CacheKey, vector: &Arc<[f32]>| {
            u32::try_from(size_of_val(&**vector) + Self::OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = moka::sync::Cache::builder();
        Self(cache.weigher(weight).max_capacity(bytes).build())
    }

    /// Returns the bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.weighted_size()
    }
}

#[cfg(feature = "cache")]
impl VectorCache for MemoryCache {
    fn get(&self, key: &CacheKey) -> Option<Arc<[f32]>> {
        self.0.get(key)
    }

    fn insert(&self, key: CacheKey, vector: Arc<[f32]>) {
        self.0.insert(key, vector);
    }

    fn entries(&self) -> Option<u64> {
        self.0.run_pending_tasks();
        Some(self.0.entry_count())
    }
}
