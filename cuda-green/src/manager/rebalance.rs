//! Rebalancing: SMs change hands between names, and no context in use is destroyed.
//!
//! A name's context is exchanged for another over more or fewer pieces of the same split. Both stay: work
//! in flight ends where it began, streams made before stay valid, and the way back is as short. In a
//! strict hand-off the new contexts wait, on the GPU, for the work of the old ones, so that none of it
//! shares an SM.

use std::fmt::Debug;

use super::{
    ContextId, Entry, Generation, HandOff, PartitionMode, SmPartitionManager,
    hand_off::exchange,
    observe::{Operation, Stopwatch},
    position,
    registry::{Ids, Retired},
    retention::{kept, with_most_seats},
};
use crate::{
    error::{Error, Result},
    partition::{GreenContext, Later},
    planner::SplitStrategy,
};
use cuda_green_sys::CudaVersion;

/// Who is busy, and so should have more of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RebalanceHint {
    /// `Embedding` gets half of what the preemptible others were created with.
    EmbeddingHeavy,
    /// `Training` does.
    TrainingActive,
    /// `Dream` does.
    DreamActive,
    /// Everyone has what it was created with.
    Balanced,
}

impl RebalanceHint {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::EmbeddingHeavy,
        Self::TrainingActive,
        Self::DreamActive,
        Self::Balanced,
    ];

    fn favours(self) -> Option<ContextId> {
        match self {
            Self::EmbeddingHeavy => Some(ContextId::Embedding),
            Self::TrainingActive => Some(ContextId::Training),
            Self::DreamActive => Some(ContextId::Dream),
            Self::Balanced => None,
        }
    }
}

impl SmPartitionManager {
    /// Gives the SMs to those who need them now, with a strict hand-off.
    ///
    /// Every preemptible context gives up to half of the SMs that it was created with, in whole pieces of
    /// the split. One that is not preemptible never has fewer than that. Contexts that were handed out
    /// before, their streams and guards, stay valid and stay where they are: after a rebalance, get the
    /// context again, or use a [`PartitionStream`](crate::PartitionStream), which follows the name. What an old handle
    /// submits after the rebalance shares SMs with whoever has them then, a name that is created later too.
    ///
    /// The contexts for a hint are made when it is first used, about 1 ms and 5 MiB of device memory each, and
    /// the driver waits for all work on the device meanwhile (seen on an H200, driver 580).
    /// [`provision_rebalance`](Self::provision_rebalance) makes them ahead. After that a rebalance is a
    /// few microseconds on the host.
    ///
    /// In single-context mode it changes nothing, as everyone has everything.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`] where the hint favours a context that is not there;
    /// [`Error::Unsupported`] before CUDA 12.5, which cannot merge; [`Error::TooManyContexts`] beyond the
    /// limit; [`Error::ContextInCapture`] where a stream of a context that gives or gets SMs is in a capture, which
    /// the hand-off would spoil: a [`HandOff::Relaxed`] one does not; [`Error::InsidePartitionStream`];
    /// [`Error::Driver`]. All of them leave everything as it was.
    pub fn rebalance(&self, hint: RebalanceHint) -> Result<()> {
        self.rebalance_with(hint, HandOff::default())
    }

    /// The same with a choice of the hand-off.
    ///
    /// # Errors
    /// As [`rebalance`](Self::rebalance).
    pub fn rebalance_with(&self, hint: RebalanceHint, hand_off: HandOff) -> Result<()> {
        self.rebalance_for(hint.favours().as_ref(), hand_off)
    }

    /// Makes the contexts of every hint, so that no rebalance has to, each for as many threads as any context
    /// of its name can be current to at once: [`GreenContext::provision_threads`] comes before.
    ///
    /// Returns how many green contexts the manager keeps in all; each takes
    /// [`GREEN_CONTEXT_BYTES`](crate::GREEN_CONTEXT_BYTES) of device memory.
    /// [`set_context_limit`](Self::set_context_limit) bounds them: where those of all hints together are more,
    /// none is made, since one hint's would only make room for another's.
    ///
    /// # Errors
    /// As [`rebalance`](Self::rebalance).
    pub fn provision_rebalance(&self) -> Result<usize> {
        let favoured = RebalanceHint::ALL.map(RebalanceHint::favours);
        self.provision_all(&favoured.each_ref().map(Option::as_ref))?;
        Ok(self.names.read(kept))
    }
}

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// The same as [`rebalance_with`](SmPartitionManager::rebalance_with) for ids of any kind: gives a context half of
    /// what the other, preemptible ones were created with; with none, everyone gets back what it was created with.
    ///
    /// ```
    /// use cuda_green::{Driver, GreenContextConfig, HandOff, SmPartitionManager};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager = SmPartitionManager::with_ids(&device)?;
    /// let config = GreenContextConfig { sm_count: 32, ..GreenContextConfig::default() };
    /// manager.create_contexts(&[("serving", config), ("indexing", config)])?;
    /// manager.provision_rebalance_for(Some(&"serving"))?; // ahead, since making contexts takes long
    /// manager.rebalance_for(Some(&"serving"), HandOff::Strict)?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 32 + 16);
    /// manager.rebalance_for(None, HandOff::Strict)?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 32);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`rebalance`](SmPartitionManager::rebalance).
    pub fn rebalance_for(&self, favoured: Option<&Id>, hand_off: HandOff) -> Result<()> {
        let begun = Stopwatch::start();
        let rebalanced = self.with_made(&[favoured], |made| {
            let targets = made.concat(); // one of each entry
            exchange(&self.names, &targets, hand_off)
        });
        if let Some(made) = self.noting(Operation::Rebalance, rebalanced)? {
            self.note_rebalance(favoured, hand_off, made, &begun);
        }
        Ok(())
    }

    /// Makes the contexts that [`rebalance_for`](Self::rebalance_for) would need, and changes nothing.
    ///
    /// That is for as many threads as any context of the same name can be current to at once: see
    /// [`GreenContext::provision_threads`].
    ///
    /// # Errors
    /// As [`rebalance_for`](Self::rebalance_for).
    pub fn provision_rebalance_for(&self, favoured: Option<&Id>) -> Result<()> {
        self.provision_all(&[favoured])
    }

    /// The same for several rebalances together, none of which makes room for another.
    fn provision_all(&self, favoured: &[Option<&Id>]) -> Result<()> {
        let provided = self.with_made(favoured, |made| {
            let contexts: Vec<(GreenContext, usize)> = self.names.read(|contexts| {
                let entries = contexts.iter().zip(made);
                entries
                    .flat_map(|(entry, made)| {
                        made.iter().map(|index| with_most_seats(entry, *index))
                    })
                    .collect()
            });
            for (context, seats) in contexts {
                context.provision_threads(seats)?;
            }
            Ok(())
        });
        self.noting(Operation::Provision, provided).map(drop)
    }

    /// Does something with the generations that any of the rebalances puts into force, once they are all made;
    /// nothing where there is nothing to rebalance. Returns how many had to be made.
    fn with_made(
        &self,
        favoured: &[Option<&Id>],
        action: impl FnOnce(&[Vec<usize>]) -> Result<()>,
    ) -> Result<Option<usize>> {
        let places = |ids: &Ids<Id>| {
            let place = |id: &Option<&Id>| id.map(|id| position(ids, &id)).transpose();
            favoured.iter().map(place).collect::<Result<Vec<_>>>()
        };
        loop {
            let mut later = Later::new(); // outlives the lock
            let (_changing, favoured) = self.change_by(places)?;
            if !self.can_rebalance(&favoured)? {
                return Ok(None);
            }
            if let Some((made, new)) = self.make(&favoured, &mut later)? {
                // What came back may be nobody's any more. Whoever looks for free pieces frees it first.
                return action(&made).map(|()| Some(new));
            }
        }
    }

    /// Whether there is something to rebalance.
    fn can_rebalance(&self, favoured: &[Option<usize>]) -> Result<bool> {
        if self.mode != PartitionMode::Partitioned {
            return Ok(false);
        }
        let layout = self.layout();
        let Some(layout) = &*layout else {
            return Ok(false);
        };
        let favoured = favoured.iter().flatten();
        if favoured.clone().next().is_none() {
            return Ok(true);
        }
        let is_cut_out = |entries: &[Entry<Id>]| {
            let mut favoured = favoured.filter_map(|index| entries.get(*index));
            favoured.any(|entry| layout.are_cut_out(&entry.base))
        };
        if self.names.read(is_cut_out) {
            return Err(Error::IncompatibleResources {
                reason: "this one's SMs were cut out of units to its exact size, and merge with no others; `create_partitions` splits the device so that they do",
            });
        }
        let by_count = matches!(
            layout.strategy,
            SplitStrategy::EqualGroups | SplitStrategy::Nested
        );
        let refusal = match (by_count, layout.facts.capabilities.merge) {
            (true, true) => Some((
                "rebalancing these sizes, which units that merge do not come to,",
                CudaVersion::new(13, 1),
            )),
            (true, false) => Some((
                "rebalancing, which merges units of one split,",
                CudaVersion::new(12, 5),
            )),
            (false, _) if !layout.merges() => Some((
                "rebalancing this split, whose groups the driver refused to merge,",
                CudaVersion::new(12, 5),
            )),
            (false, _) => None,
        };
        match refusal {
            Some((what, needs)) => Err(Error::Unsupported {
                what,
                needs,
                driver: self.device.driver().version(),
            }),
            None => Ok(true),
        }
    }

    /// The generations of each entry that the rebalances put into force, every one once, and how many of them are new;
    /// makes those that are missing,
    /// which takes long, and so while everyone can still look names up. None where there is no room yet: something
    /// was given up, and once that is dropped, with no lock held, it is to be tried again.
    fn make(
        &self,
        favoured: &[Option<usize>],
        later: &mut Later,
    ) -> Result<Option<(Vec<Vec<usize>>, usize)>> {
        let wanted = self.names.read(|contexts| wanted(contexts, favoured));
        let found = || {
            self.names.read(|contexts| {
                let entries = contexts.iter().zip(&wanted);
                let found = entries.map(|(entry, wanted)| {
                    wanted.iter().map(|pieces| entry.find(pieces)).collect()
                });
                found.collect::<Option<Vec<Vec<usize>>>>()
            })
        };
        if let Some(made) = found() {
            return Ok(Some((made, 0)));
        }
        loop {
            match self.make_room(&wanted, later)? {
                Retired::Nothing => break,
                Retired::Context(context) => self.end_retired(context)?,
                Retired::GaveUp => return Ok(None),
            }
        }
        let mut new = 0;
        let layout = self.layout();
        let each = wanted.iter().enumerate();
        let each =
            each.flat_map(|(index, wanted)| wanted.iter().map(move |pieces| (index, pieces)));
        for (index, pieces) in each {
            let in_place_of = self.names.read(|contexts| {
                let entry = contexts.get(index);
                let lacks = entry.filter(|entry| entry.find(pieces).is_none());
                lacks.map(|entry| entry.context().clone())
            });
            let (Some(in_place_of), Some(layout)) = (in_place_of, &*layout) else {
                continue;
            };
            let context = layout.sibling(&self.device, &in_place_of, pieces)?;
            // Threads that were at work there are likely to come here.
            context.provision_threads(in_place_of.green_contexts())?;
            let generation = Generation {
                pieces: pieces.clone(),
                context,
            };
            drop(in_place_of);
            new += 1;
            self.names.write(|contexts| {
                let entry = contexts.get_mut(index);
                entry.map(|entry| entry.generations.push(generation))
            });
        }
        Ok(Some((found().unwrap_or_default(), new))) // all are there now
    }
}

/// What each entry is to have generations over, so that every one of the rebalances is possible.
fn wanted<Id>(contexts: &[Entry<Id>], rebalances: &[Option<usize>]) -> Vec<Vec<Vec<usize>>> {
    let mut wanted = vec![Vec::new(); contexts.len()];
    for favoured in rebalances {
        for (wanted, pieces) in wanted.iter_mut().zip(pieces_after(contexts, *favoured)) {
            if !wanted.contains(&pieces) {
                wanted.push(pieces);
            }
        }
    }
    wanted
}

/// The pieces of each entry once one is favoured: half of what each preemptible other was created with,
/// from its end, goes to that one.
fn pieces_after<Id>(contexts: &[Entry<Id>], favoured: Option<usize>) -> Vec<Vec<usize>> {
    let mut gained = Vec::new();
    let mut after: Vec<Vec<usize>> = contexts
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            let gives = favoured.is_some_and(|favoured| favoured != index)
                && entry.context().policy().preemptible;
            let keep = if gives {
                entry.base.len().div_ceil(2)
            } else {
                entry.base.len()
            };
            // The odd piece, which is the last, stays with its owner: it is what others cannot use.
            let (odd, units) = entry
                .base
                .split_last()
                .map_or((None, &[][..]), |(odd, units)| (Some(odd), units));
            let kept = keep.saturating_sub(1).min(units.len());
            gained.extend_from_slice(&units[kept..]);
            units[..kept].iter().chain(odd).copied().collect()
        })
        .collect();
    if let Some(pieces) = favoured.and_then(|index| after.get_mut(index)) {
        pieces.extend(gained);
        pieces.sort_unstable();
    }
    after
}
