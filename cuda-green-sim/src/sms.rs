//! Sets of SMs with their physical ids, as chunks that the hardware can co-schedule.

/// SMs with consecutive ids that are guaranteed to be co-scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chunk {
    /// The id of the first one.
    pub(crate) first: u32,
    /// The number of SMs.
    pub(crate) len: u32,
}

impl Chunk {
    /// Takes `len` SMs off the front; the rest stays.
    fn take_front(&mut self, len: u32) -> Chunk {
        let front = Chunk {
            first: self.first,
            len,
        };
        self.first += len;
        self.len -= len;
        front
    }
}

/// A set of SMs. Its chunks are disjoint, except after a merge of resources that overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SmSet {
    chunks: Vec<Chunk>,
}

impl SmSet {
    /// Makes chunks of these sizes, with ids from 0.
    pub(crate) fn with_chunks(sizes: impl IntoIterator<Item = u32>) -> Self {
        let mut first = 0;
        let mut set = Self::default();
        for len in sizes {
            set.push(Chunk { first, len });
            first += len;
        }
        set
    }

    pub(crate) fn push(&mut self, chunk: Chunk) {
        if chunk.len > 0 {
            self.chunks.push(chunk);
        }
    }

    pub(crate) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Returns the number of SMs, each counted once.
    pub(crate) fn count(&self) -> u32 {
        self.chunks.iter().map(|chunk| chunk.len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the first `count` SMs in the order of the chunks.
    pub(crate) fn first(mut self, count: u32) -> Self {
        let mut left = count;
        for chunk in &mut self.chunks {
            chunk.len = chunk.len.min(left);
            left -= chunk.len;
        }
        self.chunks.retain(|chunk| chunk.len > 0);
        self
    }

    /// Returns the ids, in order.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .chunks
            .iter()
            .flat_map(|chunk| chunk.first..chunk.first + chunk.len)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Adds another set's SMs; SMs in both sets are not added again.
    pub(crate) fn merge(&mut self, other: &SmSet) {
        for chunk in &other.chunks {
            let mut run: Option<Chunk> = None;
            for id in chunk.first..chunk.first + chunk.len {
                let there = self
                    .chunks
                    .iter()
                    .any(|own| (own.first..own.first + own.len).contains(&id));
                match (&mut run, there) {
                    (Some(run), false) => run.len += 1,
                    (None, false) => run = Some(Chunk { first: id, len: 1 }),
                    (Some(done), true) => {
                        self.chunks.push(*done);
                        run = None;
                    }
                    (None, true) => {}
                }
            }
            self.chunks.extend(run);
        }
    }

    /// Returns the number of co-scheduled units of `unit` SMs.
    pub(crate) fn units(&self, unit: u32) -> u32 {
        self.chunks
            .iter()
            .map(|chunk| chunk.len / unit.max(1))
            .sum()
    }

    /// Takes one co-scheduled unit of `unit` SMs: from a chunk of whole units if there is one, and from the smallest
    /// of those, so that the rest keeps as much co-scheduling as it can. (On an H200, three groups of 32 leave the
    /// odd chunks of 18 and 10 SMs whole.)
    pub(crate) fn take_unit(&mut self, unit: u32) -> Option<Chunk> {
        let unit = unit.max(1);
        let (index, _) = self
            .chunks
            .iter()
            .enumerate()
            .filter(|(_, chunk)| chunk.len >= unit)
            .min_by_key(|(index, chunk)| (chunk.len % unit, chunk.len, *index))?;
        Some(self.take_from(index, unit))
    }

    /// Takes `wanted` co-scheduled units, or as many as there are: one from each chunk in turn, from the smallest on,
    /// round after round. So a split spreads over the device, and the large chunks of an H200 keep their odd pairs
    /// (deduced from the clusters that fit into the parts of splits of one, two and three groups on an H200, driver
    /// 580).
    ///
    /// Each unit has the number of its round, from 0.
    pub(crate) fn take_in_turn(&mut self, unit: u32, wanted: u32) -> Vec<(u32, Chunk)> {
        let unit = unit.max(1);
        let mut taken = Vec::new();
        for number in 0.. {
            if taken.len() as u32 >= wanted || self.units(unit) == 0 {
                break;
            }
            let mut round: Vec<usize> = (0..self.chunks.len())
                .filter(|index| self.chunks[*index].len >= unit)
                .collect();
            round.sort_by_key(|index| self.chunks[*index].len);
            round.truncate(wanted as usize - taken.len());
            for index in round {
                taken.push((number, self.chunks[index].take_front(unit)));
            }
            self.chunks.retain(|chunk| chunk.len > 0);
        }
        taken
    }

    /// Adds a chunk, and merges it with the last one if their ids are consecutive.
    pub(crate) fn push_joined(&mut self, piece: Chunk) {
        let before = self
            .chunks
            .iter_mut()
            .find(|chunk| chunk.first + chunk.len == piece.first);
        match before {
            Some(before) => before.len += piece.len,
            None => self.push(piece),
        }
    }

    /// Returns the number of chunks with at least `len` SMs.
    pub(crate) fn chunks_of(&self, len: u32) -> u32 {
        self.chunks.iter().filter(|chunk| chunk.len >= len).count() as u32
    }

    fn take_from(&mut self, index: usize, len: u32) -> Chunk {
        let taken = self.chunks[index].take_front(len);
        if self.chunks[index].len == 0 {
            self.chunks.remove(index);
        }
        taken
    }

    /// Takes up to `count` SMs, from the smallest chunks first.
    pub(crate) fn take_any(&mut self, mut count: u32) -> Vec<Chunk> {
        let mut taken = Vec::new();
        while count > 0 {
            let smallest = (0..self.chunks.len()).min_by_key(|index| self.chunks[*index].len);
            let Some(index) = smallest else {
                break;
            };
            let chunk = self.take_from(index, self.chunks[index].len.min(count));
            count -= chunk.len;
            taken.push(chunk);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_counts_each_sm_once() {
        let mut left = SmSet::with_chunks([8, 8]);
        left.merge(&SmSet::with_chunks([12, 12]));
        assert_eq!(left.count(), 24);
        assert_eq!(left.ids(), (0..24).collect::<Vec<_>>());
        let before = left.clone();
        left.merge(&before);
        assert_eq!(left, before);
    }

    #[test]
    fn units_come_from_the_smallest_chunk_of_whole_ones() {
        let mut set = SmSet::with_chunks([10, 16, 8, 2]);
        assert_eq!(set.take_unit(8), Some(Chunk { first: 26, len: 8 }));
        assert_eq!(set.take_unit(8), Some(Chunk { first: 10, len: 8 }));
        assert_eq!(set.take_unit(8), Some(Chunk { first: 18, len: 8 }));
        assert_eq!(set.units(8), 1);
        assert_eq!(
            set.take_any(4).iter().map(|chunk| chunk.len).sum::<u32>(),
            4
        );
        assert_eq!(set.count(), 8);
    }
}
