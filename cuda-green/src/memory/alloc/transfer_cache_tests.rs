//! Blocks that were freed while another thread held the heap.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    allocation::Allocation,
    arena::{Arena, largest_block},
    pool_shard::PoolShard,
};
use crate::{driver::Driver, error::Result, memory::budget::account::Limit};

const LIMIT: u64 = 64 << 20;
const SIZE: u64 = 200 << 10;

fn shard() -> Result<Arc<PoolShard>> {
    let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    let arena = Arc::new(Arena::new(&device, LIMIT)?);
    Ok(PoolShard::all(arena, &Limit::new(LIMIT), None)[0].clone())
}

fn allocate(shard: &PoolShard, count: usize) -> Result<Vec<Allocation>> {
    (0..count)
        .map(|_| shard.allocate(SIZE, None, false))
        .collect()
}

/// Frees four blocks of 208 KiB each: a thread's cache keeps two of them at most, and the transfer cache has room for
/// all. If the heap were asked for anything, this thread would wait for itself.
fn free_past_a_busy_heap(shard: &PoolShard) -> Result<()> {
    let taken = allocate(shard, 4)?;
    let _busy = shard.state.arena.heap();
    for taken in taken {
        shard.free(taken, SIZE, false)?;
    }
    assert!(shard.state.arena.transfer_bytes() >= 2 * (208 << 10));
    Ok(())
}

#[test]
fn they_are_free_and_counted_and_taken_again() -> Result<()> {
    let shard = shard()?;
    free_past_a_busy_heap(&shard)?;
    let metrics = shard.state.metrics();
    let free = metrics.cached + metrics.free_from_driver;
    assert_eq!((free, metrics.used), (metrics.from_driver, 0));
    let again = {
        let _busy = shard.state.arena.heap();
        allocate(&shard, 4)?
    };
    assert_eq!(shard.state.arena.transfer_bytes(), 0);
    let addresses: BTreeSet<u64> = again.iter().map(|taken| taken.address).collect();
    assert_eq!(addresses.len(), 4);
    for taken in again {
        shard.free(taken, SIZE, false)?;
    }
    Ok(())
}

#[test]
fn they_are_merged_before_the_driver_is_asked_for_more() -> Result<()> {
    let shard = shard()?;
    free_past_a_busy_heap(&shard)?;
    let before = shard.state.metrics().from_driver;
    let most = largest_block(4 << 20);
    let count = before / most;
    // All of the slab, in its largest blocks.
    let all: Vec<Allocation> = (0..count)
        .map(|_| shard.allocate(most, None, false))
        .collect::<Result<_>>()?;
    assert_eq!(shard.state.metrics().from_driver, before);
    for taken in all {
        shard.free(taken, most, false)?;
    }
    Ok(())
}

#[test]
fn they_go_back_with_a_trim_and_with_the_pool() -> Result<()> {
    let shard = shard()?;
    let device = shard.state.arena.device.clone();
    free_past_a_busy_heap(&shard)?;
    let from_driver = shard.state.metrics().from_driver;
    assert_eq!(shard.state.arena.trim()?, from_driver);
    assert_eq!(shard.state.metrics().from_driver, 0);
    let free = device.free_memory()?;
    free_past_a_busy_heap(&shard)?;
    drop(shard);
    assert_eq!(device.free_memory()?, free);
    Ok(())
}
