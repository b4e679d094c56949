//! The allocator: which bytes of the driver's memory a buffer gets.

pub(super) mod arena;
mod arena_growth;
pub(super) mod fence;
mod heap;
pub(super) mod pool_shard;
pub(super) mod pool_state;
mod remains;
mod size_class;
mod source;
pub(super) mod thread_cache;
pub(super) mod thread_index;
mod transfer_cache;
#[cfg(all(test, feature = "test-utils"))]
mod transfer_cache_tests;
