//! Free blocks between the threads' caches and the heap: what a thread has too much of while others are at
//! the heap.
//!
//! Each class has a lock of its own, held for a push or a pop, where the heap's only lock is held for a
//! search and a merge. What is here is not merged with its neighbours; so it is bounded, and it is gathered
//! with the caches' blocks. Where threads do not meet, it stays empty.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    cache::Spill,
    classes::{class_bytes, class_of},
    tree::{Padded, lock},
};

use crate::sync::Mutex;

pub(crate) struct Depot {
    /// By class.
    lists: Vec<Padded<Mutex<Vec<u64>>>>,
    /// Of all lists. A block is counted before it is in one, and until it has left it.
    bytes: AtomicU64,
    most: u64,
}

impl Depot {
    /// Keeps at most so many bytes, in blocks of at most a size.
    pub(crate) fn new(most: u64, largest: u64) -> Self {
        let classes = 0..=class_of(largest);
        Self {
            lists: classes.map(|_| Padded(Mutex::default())).collect(),
            bytes: AtomicU64::new(0),
            most,
        }
    }

    /// The newest block of a class.
    pub(crate) fn pop(&self, class: usize) -> Option<u64> {
        if self.bytes() == 0 {
            return None;
        }
        let address = lock(&self.lists.get(class)?.0).pop()?;
        self.bytes.fetch_sub(class_bytes(class), Ordering::Relaxed);
        Some(address)
    }

    /// Keeps a block, or tells that there is no room for it.
    pub(crate) fn push(&self, class: usize, address: u64) -> bool {
        let Some(list) = self.lists.get(class) else {
            return false;
        };
        let len = class_bytes(class);
        let with_it = |bytes: u64| bytes.checked_add(len).filter(|sum| *sum <= self.most);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        let fits = self.bytes.fetch_update(set, get, with_it).is_ok();
        if fits {
            lock(&list.0).push(address);
        }
        fits
    }

    /// Takes out every block.
    pub(crate) fn drain(&self) -> Spill {
        let mut all = Spill::new();
        for (class, list) in self.lists.iter().enumerate() {
            let blocks = std::mem::take(&mut *lock(&list.0));
            let len = class_bytes(class);
            let bytes = len * blocks.len() as u64;
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            all.extend(blocks.into_iter().map(|address| (address, len)));
        }
        all
    }

    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The newest of a class first, never more than allowed, and nothing refused that there is room for.
        #[test]
        fn a_depot_is_a_stack_of_each_class_within_its_bytes(
            most in 0u64..5_000,
            steps in prop::collection::vec((1usize..7, any::<bool>()), 1..100),
        ) {
            let depot = Depot::new(most, class_bytes(5));
            let mut model: Vec<Vec<u64>> = vec![Vec::new(); 7];
            let mut kept = 0;
            for ((class, push), address) in steps.into_iter().zip(1..) {
                let len = class_bytes(class);
                if push {
                    let fits = class <= 5 && kept + len <= most;
                    prop_assert_eq!(depot.push(class, address), fits);
                    if fits {
                        model[class].push(address);
                        kept += len;
                    }
                } else {
                    let expected = model[class].pop();
                    prop_assert_eq!(depot.pop(class), expected);
                    kept -= expected.map_or(0, |_| len);
                }
                prop_assert_eq!(depot.bytes(), kept);
            }
            let expected: Spill = model.iter().enumerate()
                .flat_map(|(class, list)| list.iter().map(move |at| (*at, class_bytes(class))))
                .collect();
            prop_assert_eq!(depot.drain(), expected);
            prop_assert_eq!(depot.bytes(), 0);
        }
    }

    /// What several threads put in and take out, while another empties it, is each block once, and the bytes
    /// are never more than allowed.
    #[test]
    fn no_block_is_lost_or_given_twice() {
        let rounds = if cfg!(miri) { 20 } else { 5_000 };
        let most = 6 * class_bytes(3);
        let depot = Depot::new(most, class_bytes(3));
        let work = |thread: u64| {
            let mut mine: Vec<u64> = (thread * 10..thread * 10 + 4).collect();
            for _ in 0..rounds {
                mine.retain(|address| !depot.push(3, *address));
                assert!(depot.bytes() <= most);
                mine.extend([depot.pop(3), depot.pop(3)].into_iter().flatten());
                if thread == 0 {
                    mine.extend(depot.drain().into_iter().map(|(address, _)| address));
                }
            }
            mine
        };
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads = [0, 1, 2].map(|thread| scope.spawn(move || work(thread)));
            let mine = threads.map(|thread| thread.join().unwrap());
            mine.into_iter().flatten().collect()
        });
        all.extend(depot.drain().into_iter().map(|(address, _)| address));
        assert_eq!(all.len(), 12);
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 12);
        assert_eq!(depot.bytes(), 0);
    }
}
