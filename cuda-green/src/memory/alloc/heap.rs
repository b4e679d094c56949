//! Which parts of the memory that the driver gave are free: a map, without any memory of its own to touch.
//!
//! Best fit with immediate merging, over all slabs. Allocators that keep their lists inside the memory they
//! manage cannot serve a device's; of those that do not, buddies round up to powers of two, and
//! `offset-allocator` wants its table of blocks made in full beforehand, for each slab.

use std::collections::{BTreeMap, BTreeSet};

/// Memory of the driver's that is wholly free, taken out of the heap for the driver to get it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Slab { address: u64, len: u64 },
    Large { address: u64, len: u64 },
}

impl Idle {
    /// Its address and its length.
    pub(crate) fn range(self) -> (u64, u64) {
        match self {
            Self::Slab { address, len } | Self::Large { address, len } => (address, len),
        }
    }
}

/// Free blocks of slabs, and free allocations that are large enough to be the driver's own.
#[derive(Default)]
pub(crate) struct Heap {
    /// Slabs, by address, with their length.
    slabs: BTreeMap<u64, u64>,
    by_address: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
    free: u64,
    large: BTreeSet<(u64, u64)>,
    large_free: u64,
    /// All that the driver has given and not got back.
    pub(crate) from_driver: u64,
    /// The most of that at once.
    pub(crate) from_driver_high: u64,
    /// How often the driver has given memory.
    pub(crate) growths: u64,
}

impl Heap {
    /// Notes memory that the driver has given.
    pub(crate) fn given(&mut self, len: u64) {
        self.growths += 1;
        self.from_driver += len;
        self.from_driver_high = self.from_driver_high.max(self.from_driver);
    }

    /// Adds a slab, all of it free.
    pub(crate) fn add_slab(&mut self, address: u64, len: u64) {
        self.given(len);
        self.slabs.insert(address, len);
        self.insert(address, len);
    }

    /// A block of exactly this length, from the smallest free one that has it.
    pub(crate) fn take(&mut self, len: u64) -> Option<u64> {
        let &(found, address) = self.by_size.range((len, 0)..).next()?;
        self.remove(address, found);
        if found > len {
            self.insert(address + len, found - len);
        }
        Some(address)
    }

    /// Takes a block back and merges it with its free neighbours of the same slab.
    pub(crate) fn give(&mut self, mut address: u64, mut len: u64) {
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

    /// A free large allocation of at least this length and at most an eighth more.
    pub(crate) fn take_large(&mut self, len: u64) -> Option<(u64, u64)> {
        let most = len.saturating_add(len / 8);
        let &(found, address) = self.large.range((len, 0)..=(most, u64::MAX)).next()?;
        self.large.remove(&(found, address));
        self.large_free -= found;
        Some((address, found))
    }

    /// Keeps a large allocation for later.
    pub(crate) fn give_large(&mut self, address: u64, len: u64) {
        self.large.insert((len, address));
        self.large_free += len;
    }

    /// Takes out slabs and large allocations that are wholly free, for the driver to get them back.
    /// They still count as the driver's until [`Heap::went_back`].
    pub(crate) fn idle(&mut self) -> Vec<Idle> {
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

    /// Takes idle memory in again, which the driver did not take back.
    pub(crate) fn put_back(&mut self, idle: Idle) {
        match idle {
            Idle::Slab { address, len } => {
                self.slabs.insert(address, len);
                self.insert(address, len);
            }
            Idle::Large { address, len } => self.give_large(address, len),
        }
    }

    /// Takes out idle large allocations that make up this many bytes, or all of them; likewise.
    pub(crate) fn idle_large(&mut self, wanted: u64) -> Vec<Idle> {
        let mut idle = Vec::new();
        let mut sum = 0;
        while sum < wanted {
            // The smallest that is enough by itself, or the largest.
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

    pub(crate) fn went_back(&mut self, len: u64) {
        self.from_driver -= len;
    }

    /// Free bytes in slabs, and the largest free block.
    pub(crate) fn free(&self) -> (u64, u64) {
        (self.free, self.by_size.last().map_or(0, |(len, _)| *len))
    }

    /// Free bytes in large allocations.
    pub(crate) fn large_free(&self) -> u64 {
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
        /// Blocks never overlap and lie in slabs; once all are back, the slabs are whole again.
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
                    heap.give(address, len);
                } else if let Some(address) = heap.take(len) {
                    let end = address + len;
                    prop_assert!([1000, 2000, 5000].iter().any(|s| address >= *s && end <= s + 1000));
                    prop_assert!(held.iter().all(|(a, l)| end <= *a || a + l <= address));
                    held.push((address, len));
                } else {
                    prop_assert!(heap.free().1 < len);
                }
                let used: u64 = held.iter().map(|(_, len)| len).sum();
                prop_assert_eq!(heap.free().0 + used, 3000);
            }
            for (address, len) in held { heap.give(address, len) }
            prop_assert_eq!(heap.free(), (3000, 1000));
            heap.give_large(9000, 500);
            // What the driver refuses is as before; what it takes is gone.
            for _ in 0..2 {
                let mut idle = heap.idle();
                idle.sort_unstable_by_key(|idle| idle.range());
                let ranges: Vec<_> = idle.iter().map(|idle| idle.range()).collect();
                prop_assert_eq!(ranges, vec![(1000, 1000), (2000, 1000), (5000, 1000), (9000, 500)]);
                prop_assert_eq!((heap.free(), heap.large_free()), ((0, 0), 0));
                for idle in idle { heap.put_back(idle) }
                prop_assert_eq!((heap.free(), heap.large_free()), ((3000, 1000), 500));
            }
        }
    }

    #[test]
    fn large_allocations_are_reused_if_they_are_nearly_the_size() {
        let mut heap = Heap::default();
        heap.give_large(7, 1080);
        assert_eq!(heap.take_large(1100), None);
        assert_eq!(
            heap.take_large(900),
            None,
            "more than an eighth would be lost"
        );
        assert_eq!(heap.take_large(1000), Some((7, 1080)));
        assert_eq!(heap.take_large(1000), None);
    }
}
