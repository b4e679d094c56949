//! Small queues, and real memory for them.

use std::{ptr::NonNull, sync::atomic::AtomicU64};

use crate::{
    layout::{DeviceQueue, Layout, RingState},
    protocol::{Call, FutureTable, Mapped, Places, Private, Ring},
};

/// The layout of a small queue with one ring.
pub(super) fn small(depth: u32, futures: u32) -> Layout {
    Layout {
        lanes: 1,
        priorities: 1,
        depth,
        slot_bytes: 32,
        answer_bytes: 32,
        futures,
    }
}

/// A queue whose segment begins at 0, and whose local parts follow.
pub(super) fn queue(layout: &Layout) -> DeviceQueue {
    let rings = layout.end().next_multiple_of(128);
    let places = Places {
        segment: 0,
        rings,
        futures: rings + DeviceQueue::ring_state_bytes(layout),
    };
    DeviceQueue::new(layout, &places, 0)
}

/// A queue in memory of this process.
pub(super) struct InMemory {
    _words: Vec<AtomicU64>,
    pub(super) shared: Mapped,
    pub(super) local: Private,
    pub(super) ring: Ring,
    pub(super) table: FutureTable,
}

impl InMemory {
    pub(super) fn new(depth: u32, futures: u32, start: u64) -> Self {
        let layout = small(depth, futures);
        let queue = queue(&layout);
        let bytes = queue.futures + DeviceQueue::future_bytes(&layout).next_multiple_of(8);
        let words: Vec<_> = (0..bytes / 8).map(|_| AtomicU64::new(u64::MAX)).collect();
        let base = NonNull::from(words.as_slice()).cast();
        // SAFETY: the words live as long as what accesses them, and are atomics. A move of the vector moves no words.
        let shared = unsafe { Mapped::new(base, bytes) };
        let local = Private::new(shared);
        let (ring, table) = (queue.ring(0, 0).unwrap(), queue.future_table());
        ring.initialize(&shared, &local, start);
        table.initialize(&shared, &local);
        Self {
            _words: words,
            shared,
            local,
            ring,
            table,
        }
    }

    pub(super) fn take(&self) -> Option<Call> {
        self.table.take(&self.shared, &self.local, 0)
    }
}

/// A first ticket a lap before the sequence wraps to 0.
pub(super) fn before_the_wrap(depth: u32) -> u64 {
    ((1_u64 << 32) - 2) << depth.trailing_zeros()
}

#[test]
fn a_ring_state_is_all_that_lies_between_the_rings() {
    assert_eq!(size_of::<RingState>(), 512);
}
