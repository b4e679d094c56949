//! A thread's cache: free blocks for its next allocations, and freed memory that streams still use.
//!
//! It is the payload of an account's shard, so one lock serves the charge and the cache.

use std::collections::VecDeque;

use super::{
    allocation::{Allocation, AllocationKind},
    size_class::class_bytes,
};
use crate::{driver::Driver, memory::observe::metrics::Counts, stream::Stream};

/// Freed memory that streams still use is checked once there are more than this many pieces of it.
const MAX_PENDING: usize = 32;

/// The free blocks of one class. It is alone on its cache line and holds the newest block in it, so that a thread that
/// frees and allocates in turn touches no line that another thread uses.
#[derive(Default)]
#[repr(align(64))]
struct ClassList {
    newest: Option<u64>,
    /// The newest last.
    older: Vec<u64>,
}

impl ClassList {
    #[inline]
    fn pop(&mut self) -> Option<u64> {
        self.newest.take().or_else(|| self.older.pop())
    }

    #[inline]
    fn push(&mut self, address: u64) {
        if let Some(older) = self.newest.replace(address) {
            self.older.push(older);
        }
    }

    fn len(&self) -> usize {
        self.older.len() + usize::from(self.newest.is_some())
    }

    /// Takes out `count` blocks, the oldest first, since the newest are the likeliest to be in the GPU's cache.
    fn take_oldest(&mut self, count: usize) -> Vec<u64> {
        let mut oldest: Vec<u64> = self.older.drain(..count.min(self.older.len())).collect();
        if oldest.len() < count {
            oldest.extend(self.newest.take());
        }
        oldest
    }
}

/// Free blocks by class, and freed memory that streams still use.
pub(crate) struct ThreadCache {
    lists: Vec<ClassList>,
    /// Bytes of the free blocks.
    bytes: u64,
    /// The most of them.
    capacity: u64,
    pending: VecDeque<Allocation>,
    pub(crate) counts: Counts,
}

/// Blocks on their way to the heap: address and length.
pub(crate) type FreeBlocks = Vec<(u64, u64)>;

impl ThreadCache {
    /// Creates a cache of at most this many bytes.
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            lists: Vec::new(),
            bytes: 0,
            capacity,
            pending: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Takes out the newest block of a class.
    #[inline]
    pub(crate) fn pop(&mut self, class: usize) -> Option<u64> {
        let address = self.lists.get_mut(class)?.pop()?;
        self.bytes -= class_bytes(class);
        Some(address)
    }

    /// Adds a block; returns the blocks that exceed the capacity, which go elsewhere.
    #[inline]
    pub(crate) fn push(&mut self, class: usize, address: u64) -> Option<FreeBlocks> {
        if self.lists.len() <= class {
            self.lists.resize_with(class + 1, ClassList::default);
        }
        self.lists[class].push(address);
        self.bytes += class_bytes(class);
        (self.bytes > self.capacity).then(|| self.spill(class))
    }

    /// Takes out half of one class, or all blocks if that is not enough.
    #[cold]
    fn spill(&mut self, class: usize) -> FreeBlocks {
        self.counts.spills += 1;
        let len = class_bytes(class);
        let half = self.lists[class].len().div_ceil(2);
        let oldest = self.lists[class].take_oldest(half);
        let mut spill: FreeBlocks = oldest.into_iter().map(|address| (address, len)).collect();
        self.bytes -= len * half as u64;
        if self.bytes > self.capacity {
            spill.extend(self.drain());
        }
        spill
    }

    /// Takes out every free block.
    pub(crate) fn drain(&mut self) -> FreeBlocks {
        self.bytes = 0;
        let lists = self.lists.iter_mut().enumerate();
        lists
            .flat_map(|(class, list)| {
                let all = list.take_oldest(list.len());
                all.into_iter().map(move |at| (at, class_bytes(class)))
            })
            .collect()
    }

    /// Adds freed memory that streams still use.
    pub(crate) fn defer(&mut self, pending: Allocation) {
        self.pending.push_back(pending);
    }

    /// Returns whether there is so much of it that it should be checked.
    pub(crate) fn has_many_pending(&self) -> bool {
        self.pending.len() > MAX_PENDING
    }

    /// Takes out freed memory of this kind that only this stream still uses: it is free in the order of the stream.
    pub(crate) fn pop_for(&mut self, kind: AllocationKind, stream: &Stream) -> Option<Allocation> {
        let index = self
            .pending
            .iter()
            .position(|pending| pending.kind == kind && pending.is_free_for(stream))?;
        self.pending.remove(index)
    }

    /// Takes out freed memory that streams have finished with. Where the driver does not say, it stays.
    pub(crate) fn take_finished(&mut self, driver: &Driver) -> Vec<Allocation> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let _allowed = driver.beside_captures();
        let (done, still) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.is_done().unwrap_or(false));
        self.pending = still;
        Vec::from(done)
    }

    /// Takes out all freed memory that streams may still use.
    pub(crate) fn take_pending(&mut self) -> Vec<Allocation> {
        self.pending.drain(..).collect()
    }

    /// Returns the bytes of free blocks, and of freed memory that streams still use.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let pending = self.pending.iter().map(|pending| pending.kind.bytes());
        (self.bytes, pending.sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The newest of a class comes out first, the oldest is spilled first, and never more is kept than allowed.
        #[test]
        fn a_cache_is_a_stack_of_each_class(
            most in 0u64..5_000,
            steps in prop::collection::vec((1usize..5, any::<bool>()), 1..100),
        ) {
            let mut cache = ThreadCache::new(most);
            let mut model: Vec<Vec<u64>> = vec![Vec::new(); 5];
            for ((class, push), address) in steps.into_iter().zip(1..) {
                if !push {
                    prop_assert_eq!(cache.pop(class), model[class].pop());
                    continue;
                }
                model[class].push(address);
                if let Some(mut spill) = cache.push(class, address) {
                    let half = model[class].len().div_ceil(2);
                    let mut expected: Vec<(u64, u64)> =
                        model[class].drain(..half).map(|at| (at, class_bytes(class))).collect();
                    if spill.len() > half {
                        for (class, list) in model.iter_mut().enumerate() {
                            expected.extend(list.drain(..).map(|at| (at, class_bytes(class))));
                        }
                    }
                    spill.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(spill, expected);
                }
                let kept: u64 = model.iter().enumerate()
                    .map(|(class, list)| class_bytes(class) * list.len() as u64).sum();
                prop_assert!(kept <= most);
                prop_assert_eq!(cache.bytes(), (kept, 0));
            }
            let left: usize = model.iter().map(Vec::len).sum();
            prop_assert_eq!(cache.drain().len(), left);
            prop_assert_eq!(cache.bytes(), (0, 0));
        }
    }
}
