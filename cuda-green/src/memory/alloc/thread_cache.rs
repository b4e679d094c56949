//! What a purse keeps beside its bytes: blocks at hand for its threads, and blocks that streams still use.

use std::collections::VecDeque;

use super::{fence::Fence, size_class::class_bytes};
use crate::{driver::Driver, error::Result, memory::observe::metrics::Counts, stream::Stream};

/// Blocks that streams still use are looked through once there are more than this many.
const PATIENCE: usize = 32;

/// Where a buffer's memory goes when it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// A block of a slab.
    Block { class: usize },
    /// An allocation of the driver of its own.
    Large { len: u64 },
    /// An allocation outside of the driver's pool.
    Plain { len: u64 },
}

impl Home {
    /// The bytes of it, which may be more than were asked for.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Block { class } => class_bytes(class),
            Self::Large { len } | Self::Plain { len } => len,
        }
    }
}

/// Memory that nobody owns but streams may still use.
pub(crate) struct Pending {
    pub(crate) address: u64,
    pub(crate) home: Home,
    pub(crate) fences: Vec<Fence>,
}

impl Pending {
    /// Waits until no stream uses it any more.
    pub(crate) fn wait(&self) -> Result<()> {
        self.fences.iter().try_for_each(Fence::wait)
    }

    /// Returns whether no stream uses it any more.
    pub(crate) fn is_done(&self) -> Result<bool> {
        for fence in &self.fences {
            if !fence.is_done()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether only this stream uses it, whose further work comes after that anyway.
    fn is_free_for(&self, stream: &Stream) -> bool {
        self.fences.iter().all(|fence| fence.is_of(stream))
    }
}

/// The free blocks of one class. Alone on its cache line, with the newest in it: a thread that frees and
/// allocates in turn touches no memory that might lie beside another thread's.
#[derive(Default)]
#[repr(align(64))]
struct List {
    newest: Option<u64>,
    /// The newest of these last.
    older: Vec<u64>,
}

impl List {
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

    /// Takes out so many, the oldest first, since the newest are the likeliest to be in the GPU's cache.
    fn take_oldest(&mut self, count: usize) -> Vec<u64> {
        let mut oldest: Vec<u64> = self.older.drain(..count.min(self.older.len())).collect();
        if oldest.len() < count {
            oldest.extend(self.newest.take());
        }
        oldest
    }
}

/// Free blocks by class, and those that are not quite free.
pub(crate) struct Cache {
    lists: Vec<List>,
    bytes: u64,
    most: u64,
    pending: VecDeque<Pending>,
    pub(crate) counts: Counts,
}

/// Blocks to be given to the heap: address and length.
pub(crate) type Spill = Vec<(u64, u64)>;

impl Cache {
    /// Keeps at most so many bytes.
    pub(crate) fn new(most: u64) -> Self {
        Self {
            lists: Vec::new(),
            bytes: 0,
            most,
            pending: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    #[inline]
    pub(crate) fn pop(&mut self, class: usize) -> Option<u64> {
        let address = self.lists.get_mut(class)?.pop()?;
        self.bytes -= class_bytes(class);
        Some(address)
    }

    /// Keeps a block; gives what is too much.
    #[inline]
    pub(crate) fn push(&mut self, class: usize, address: u64) -> Option<Spill> {
        if self.lists.len() <= class {
            self.lists.resize_with(class + 1, List::default);
        }
        self.lists[class].push(address);
        self.bytes += class_bytes(class);
        (self.bytes > self.most).then(|| self.spill(class))
    }

    /// Half of one class, or all there is, if that is not enough.
    #[cold]
    fn spill(&mut self, class: usize) -> Spill {
        self.counts.spills += 1;
        let len = class_bytes(class);
        let half = self.lists[class].len().div_ceil(2);
        let oldest = self.lists[class].take_oldest(half);
        let mut spill: Spill = oldest.into_iter().map(|address| (address, len)).collect();
        self.bytes -= len * half as u64;
        if self.bytes > self.most {
            spill.extend(self.drain());
        }
        spill
    }

    /// Takes out every free block.
    pub(crate) fn drain(&mut self) -> Spill {
        self.bytes = 0;
        let lists = self.lists.iter_mut().enumerate();
        lists
            .flat_map(|(class, list)| {
                let all = list.take_oldest(list.len());
                all.into_iter().map(move |at| (at, class_bytes(class)))
            })
            .collect()
    }

    /// Notes memory that streams still use.
    pub(crate) fn defer(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    pub(crate) fn is_impatient(&self) -> bool {
        self.pending.len() > PATIENCE
    }

    /// Memory of this home that is free in the order of a stream, with the fences of others' uses: none.
    pub(crate) fn pop_for(&mut self, home: Home, stream: &Stream) -> Option<Pending> {
        let index = self
            .pending
            .iter()
            .position(|pending| pending.home == home && pending.is_free_for(stream))?;
        self.pending.remove(index)
    }

    /// Takes out the memory that streams have ended with. Where the driver does not say, it stays.
    pub(crate) fn settle(&mut self, driver: &Driver) -> Vec<Pending> {
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

    /// Takes out all that streams may still use.
    pub(crate) fn take_pending(&mut self) -> Vec<Pending> {
        self.pending.drain(..).collect()
    }

    /// Bytes of free blocks, and of memory that streams still use.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let pending = self.pending.iter().map(|pending| pending.home.bytes());
        (self.bytes, pending.sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The newest of a class first, the oldest spilled first, and never more kept than allowed.
        #[test]
        fn a_cache_is_a_stack_of_each_class(
            most in 0u64..5_000,
            steps in prop::collection::vec((1usize..5, any::<bool>()), 1..100),
        ) {
            let mut cache = Cache::new(most);
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
