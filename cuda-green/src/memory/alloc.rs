//! The allocator: which bytes of the driver's memory a buffer gets.
//!
//! An allocation goes down these layers until one of them has memory, a free goes up again:
//!
//! 1. [`pool_shard`]: the pool's handle for one thread, with the fast path;
//! 2. [`thread_cache`]: the thread's free blocks by [`size_class`], and freed memory that streams still use
//!    ([`fence`]);
//! 3. [`transfer_cache`]: free blocks on their way between threads, while they compete for the heap;
//! 4. [`heap`]: a map of the free parts of all slabs, behind one lock, in the [`arena`] of the pool's family;
//! 5. [`source`]: the driver's stream-ordered pool, or plain allocation.
//!
//! [`arena_end`] is the memory of an arena that has ended, until streams are done with it.
//!
//! # Why each layer is there
//! A hit costs one lock and one reference count each way: three locked instructions, no call to the driver, no
//! allocation on the host. Each layer was taken out, and `cuda-green bench alloc` run with and without it on one
//! machine (one H200, driver 580):
//!
//! | layer | measured | threads | with it | without it |
//! |---|---|---|---|---|
//! | transfer cache | million operations in a soak of 20 s | 8 | 839 to 960 | 260 to 277 |
//! | transfer cache | million operations in a soak of 12 s | 16 | 546 to 572 | 153 |
//! | credit of account shards | ns for a pair of one size | 1 | 90 | 191 to 206 |
//! | credit of account shards | ns for a pair of one size | 4 | 77 to 84 | 4,000 to 4,130 |
//! | credit of account shards | ns for a pair of one size | 16 | 94 to 99 | 16,400 to 20,200 |
//! | reference count for each shard | ns for a pair of one size | 1 | 90 | 85 |
//! | reference count for each shard | ns for a pair of one size | 2 | 76 to 79 | 267 to 276 |
//! | reference count for each shard | ns for a pair of one size | 16 | 94 to 99 | 2,190 to 2,330 |
//!
//! The transfer cache changes neither the overhead of memory nor the cost of a hit. What reclaiming costs, and why it
//! is not done at every miss, is at [`arena`].

pub(super) mod allocation;
pub(super) mod arena;
mod arena_end;
pub(super) mod fence;
mod heap;
pub(super) mod pool_shard;
pub(super) mod pool_state;
mod size_class;
mod source;
pub(super) mod thread_cache;
pub(super) mod thread_index;
mod transfer_cache;
#[cfg(all(test, feature = "test-utils"))]
mod transfer_cache_tests;
