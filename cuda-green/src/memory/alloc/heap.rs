//! The heap: a map of the free parts of the memory that the driver gave, kept outside that memory.
//!
//! Best fit with immediate merging, over all slabs. An allocator that keeps its lists inside the memory it manages
//! cannot manage a device's. Of those that do not, buddy allocators round up to powers of two, and `offset-allocator`
//! needs its table of blocks in full beforehand, for each slab.

use std::collections::{BTreeMap, BTreeSet};

use super::{allocation::AllocationKind, size_class::class_bytes, thread_cache::FreeBlocks};

/// An allocation of the driver that is wholly free, taken out of the heap to be returned to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Slab { address: u64, len: u64 },
    Large { address: u64, len: u64 },
}

impl Idle {
    /// Returns its address and its length.
    pub(crate) fn range(self) -> (u64, u64) {
        match self {
            Self::Slab { address, len } | Self::Large { address, len } => (address, len),
        }
    }
}

/// Free blocks of slabs, and free large allocations.
#[derive(Default)]
pub(crate) struct Heap {
    /// Slabs, by address, with their length.
    slabs: BTreeMap<u64, u64>,
    by_address: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    free: u64,
    large: BTreeSet<(u64, u64)>,
    large_free: u64,
    /// Bytes that the driver has given and not got back.
    pub(crate) from_driver: u64,
    /// The most of them at once.
    pub(crate) from_driver_high: u64,
    /// How often the driver has given memory.
    pub(crate) growths: u64,
}

impl Heap {
    /// Records memory that the driver has given.
    pub(crate) fn record_growth(&mut self, len: u64) {
        self.growths += 1;
        self.from_driver += len;
        self.from_driver_high = self.from_driver_high.max(self.from_driver);
    }

    /// Adds a slab, all of it free.
    pub(crate) fn add_slab(&mut self, address: u64, len: u64) {
        self.record_growth(len);
        self.slabs.insert(address, len);
        self.insert(address, len);
    }

    /// Allocates a block of exactly this length, from the smallest free one that has room for it.
    pub(crate) fn allocate(&mut self, len: u64) -> Option<u64> {
        let &(found, address) = self.by_size.range((len, 0)..).next()?;
        self.remove(address, found);
        if found > len {
            self.insert(address + len, found - len);
        }
        Some(address)
    }

    /// Frees memory of any kind. Plain memory must have been freed by the driver already.
    pub(crate) fn free_allocation(&mut self, address: u64, kind: AllocationKind) {
        match kind {
            AllocationKind::Block { class } => self.free(address, class_bytes(class)),
            AllocationKind::Large { len } => self.free_large(address, len),
            AllocationKind::Plain { len } => self.record_return(len),
        }
    }

    /// Frees blocks.
    pub(crate) fn free_blocks(&mut self, blocks: FreeBlocks) {
        for (address, len) in blocks {
            self.free(address, len);
        }
    }

    /// Frees a block, and merges it with its free neighbours of the same slab.
    pub(crate) fn free(&mut self, mut address: u64, mut len: u64) {
        let slab = self.slabs.range(..=address).next_back();
        let (start, end) = slab.map_or((address, address), |(start, len)| (*start, start + len));
        if let Some((&before, &size)) = self.by_address.range(..address).next_back()
            && before + size == address
            && before >= start
        {
            self.remove(before, size);
            (address, len) = (before, len + size);
        }
        if address + len < end
            && let Some(&size) = self.by_address.get(&(address + len))
        {
            self.remove(address + len, size);
            len += size;
        }
        self.insert(address, len);
    }

    /// Reuses a free large allocation of at least this length and at most an eighth more.
    pub(crate) fn allocate_large(&mut self, len: u64) -> Option<(u64, u64)> {
        let most = len.saturating_add(len / 8);
        let &(found, address) = self.large.range((len, 0)..=(most, u64::MAX)).next()?;
        self.large.remove(&(found, address));
        self.large_free -= found;
        Some((address, found))
    }

    /// Frees a large allocation, which is kept for later.
    pub(crate) fn free_large(&mut self, address: u64, len: u64) {
        self.large.insert((len, address));
        self.large_free += len;
    }

    /// Takes out slabs and large allocations that are wholly free, to be returned to the driver. They count as given by
    /// the driver until [`Heap::record_return`].
    pub(crate) fn take_idle(&mut self) -> Vec<Idle> {
        let empty: Vec<(u64, u64)> = self
            .slabs
            .iter()
            .filter(|(address, len)| self.by_address.get(address) == Some(len))
            .map(|(address, len)| (*address, *len))
            .collect();
        for (address, len) in &empty {
            self.remove(*address, *len);
            self.slabs.remove(address);
        }
        let large = std::mem::take(&mut self.large);
        self.large_free = 0;
        let slabs = empty
            .into_iter()
            .map(|(address, len)| Idle::Slab { address, len });
        let large = large
            .into_iter()
            .map(|(len, address)| Idle::Large { address, len });
        slabs.chain(large).collect()
    }

    /// Puts idle memory back that the driver did not take.
    pub(crate) fn restore_idle(&mut self, idle: Idle) {
        match idle {
            Idle::Slab { address, len } => {
                self.slabs.insert(address, len);
                self.insert(address, len);
            }
            Idle::Large { address, len } => self.free_large(address, len),
        }
    }

    /// Takes out idle large allocations of this many bytes in all, or all there are, to be returned to the driver.
    pub(crate) fn take_idle_large(&mut self, wanted: u64) -> Vec<Idle> {
        let mut idle = Vec::new();
        let mut sum = 0;
        while sum < wanted {
            // The smallest that is large enough alone, or the largest.
            let enough = self.large.range((wanted - sum, 0)..).next();
            let Some(&(len, address)) = enough.or_else(|| self.large.last()) else {
                break;
            };
            self.large.remove(&(len, address));
            self.large_free -= len;
            idle.push(Idle::Large { address, len });
            sum += len;
        }
        idle
    }

    /// Records memory that was returned to the driver.
    pub(crate) fn record_return(&mut self, len: u64) {
        self.from_driver -= len;
    }

    /// Returns the free bytes in slabs.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free
    }

    /// Returns the size of the largest free block in slabs.
    pub(crate) fn largest_free(&self) -> u64 {
        self.by_size.last().map_or(0, |(len, _)| *len)
    }

    /// Returns the free bytes in large allocations.
    pub(crate) fn large_free_bytes(&self) -> u64 {
        self.large_free
    }

    fn insert(&mut self, address: u64, len: u64) {
        self.by_address.insert(address, len);
        self.by_size.insert((len, address));
        self.free += len;
    }

    fn remove(&mut self, address: u64, len: u64) {
        self.by_address.remove(&address);
        self.by_size.remove(&(len, address));
        self.free -= len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Blocks never overlap and lie in slabs; once all are freed, the slabs are whole again.
        #[test]
        fn blocks_are_disjoint_and_merge(
            steps in prop::collection::vec((1u64..200, any::<bool>(), any::<prop::sample::Index>()), 1..200),
        ) {
            let mut heap = Heap::default();
            // Two that touch, which must not be merged, and one apart.
            for slab in [1000, 2000, 5000] { heap.add_slab(slab, 1000) }
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (len, give, which) in steps {
                if give && !held.is_empty() {
                    let (address, len) = held.swap_remove(which.index(held.len()));
                    heap.free(address, len);
                } else if let Some(address) = heap.allocate(len) {
                    let end = address + len;
                    prop_assert!([1000, 2000, 5000].iter().any(|s| address >= *s && end <= s + 1000));
                    prop_assert!(held.iter().all(|(a, l)| end <= *a || a + l <= address));
                    held.push((address, len));
                } else {
                    prop_assert!(heap.largest_free() < len);
                }
                let used: u64 = held.iter().map(|(_, len)| len).sum();
                prop_assert_eq!(heap.free_bytes() + used, 3000);
            }
            for (address, len) in held { heap.free(address, len) }
            prop_assert_eq!((heap.free_bytes(), heap.largest_free()), (3000, 1000));
            heap.free_large(9000, 500);
            // Memory that the driver refuses to take is as before.
            for _ in 0..2 {
                let mut idle = heap.take_idle();
                idle.sort_unstable_by_key(|idle| idle.range());
                let ranges: Vec<_> = idle.iter().map(|idle| idle.range()).collect();
                prop_assert_eq!(ranges, vec![(1000, 1000), (2000, 1000), (5000, 1000), (9000, 500)]);
                prop_assert_eq!((heap.free_bytes(), heap.largest_free(), heap.large_free_bytes()), (0, 0, 0));
                for idle in idle { heap.restore_idle(idle) }
                prop_assert_eq!((heap.free_bytes(), heap.largest_free(), heap.large_free_bytes()), (3000, 1000, 500));
            }
        }
    }

    #[test]
    fn large_allocations_are_reused_if_they_are_nearly_the_size() {
        let mut heap = Heap::default();
        heap.free_large(7, 1080);
        assert_eq!(heap.allocate_large(1100), None);
        assert_eq!(
            heap.allocate_large(900),
            None,
            "more than an eighth would be lost"
        );
        assert_eq!(heap.allocate_large(1000), Some((7, 1080)));
        assert_eq!(heap.allocate_large(1000), None);
    }
}
