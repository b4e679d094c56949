//! Blocks that were freed while another thread was at the heap.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    arena::{Core, largest_block},
    pool_shard::{Seat, Taken},
};
use crate::{driver::Driver, error::Result, memory::budget::account::Budget};

const LIMIT: u64 = 64 << 20;
const SIZE: u64 = 200 << 10;

fn seat() -> Result<Arc<Seat>> {
    let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    let core = Arc::new(Core::new(&device, LIMIT)?);
    Ok(Seat::all(core, &Budget::new(LIMIT), None)[0].clone())
}

fn take(seat: &Seat, count: usize) -> Result<Vec<Taken>> {
    (0..count).map(|_| seat.take(SIZE, None, false)).collect()
}

/// Four blocks, of 208 KiB each: a cache keeps two of them at most, and the depot has room for all. Were the
/// heap asked for anything, this thread would wait for itself.
fn free_past_a_busy_heap(seat: &Seat) -> Result<()> {
    let taken = take(seat, 4)?;
    let _busy = seat.inner.core.heap();
    for taken in taken {
        seat.free(taken, SIZE, false)?;
    }
    assert!(seat.inner.core.between() >= 2 * (208 << 10));
    Ok(())
}

#[test]
fn they_are_free_and_counted_and_taken_again() -> Result<()> {
    let seat = seat()?;
    free_past_a_busy_heap(&seat)?;
    let metrics = seat.inner.metrics();
    let free = metrics.cached + metrics.free_from_driver;
    assert_eq!((free, metrics.used), (metrics.from_driver, 0));
    let again = {
        let _busy = seat.inner.core.heap();
        take(&seat, 4)?
    };
    assert_eq!(seat.inner.core.between(), 0);
    let addresses: BTreeSet<u64> = again.iter().map(|taken| taken.address).collect();
    assert_eq!(addresses.len(), 4);
    for taken in again {
        seat.free(taken, SIZE, false)?;
    }
    Ok(())
}

#[test]
fn they_are_merged_before_the_driver_is_asked_for_more() -> Result<()> {
    let seat = seat()?;
    free_past_a_busy_heap(&seat)?;
    let before = seat.inner.metrics().from_driver;
    let most = largest_block(4 << 20);
    let count = before / most;
    // All of the slab, in its largest blocks.
    let all: Vec<Taken> = (0..count)
        .map(|_| seat.take(most, None, false))
        .collect::<Result<_>>()?;
    assert_eq!(seat.inner.metrics().from_driver, before);
    for taken in all {
        seat.free(taken, most, false)?;
    }
    Ok(())
}

#[test]
fn they_go_back_with_a_trim_and_with_the_pool() -> Result<()> {
    let seat = seat()?;
    let device = seat.inner.core.device.clone();
    free_past_a_busy_heap(&seat)?;
    let from_driver = seat.inner.metrics().from_driver;
    assert_eq!(seat.inner.core.trim()?, from_driver);
    assert_eq!(seat.inner.metrics().from_driver, 0);
    let free = device.free_memory()?;
    free_past_a_busy_heap(&seat)?;
    drop(seat);
    assert_eq!(device.free_memory()?, free);
    Ok(())
}
