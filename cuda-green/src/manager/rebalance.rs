//! Rebalancing: SMs change hands between names, and no context in use is destroyed. The hints are in `quad`; the order
//! of old and new work, and the switch of all names, in the room `names`.
//!
//! Another generation of a name, over more or fewer pieces of the same split, is put into force. Both contexts stay:
//! work in flight ends where it began, streams made before stay valid, and the way back is as short. In a strict
//! hand-off the new contexts wait, on the GPU, for the work of the old ones, so that no SM runs both.

use std::fmt::Debug;

use cuda_green_sys::CudaVersion;

use super::{
    context_key::position,
    mode::PartitionMode,
    observe::{Operation, Stopwatch},
    state::{Change, ManagerState},
};
use crate::{
    error::{Error, Result},
    names::{Generation, HandOff, Ids, OwnShare, Pieces, RetireStep},
    partition::DropLater,
    planner::SplitStrategy,
};

/// The generations that rebalances put into force, each once.
struct Ready {
    /// The index of the partition, in their order, and that of the generation.
    generations: Vec<(usize, usize)>,
    /// The number of them that had to be made.
    made: usize,
}

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Gives the favoured context half of what the other, preemptible ones were created with; with none, each gets back
    /// what it was created with.
    pub(super) fn rebalance(&self, favoured: Option<&Id>, hand_off: HandOff) -> Result<()> {
        let begun = Stopwatch::start();
        let rebalanced = self.with_generations(&[favoured], |change, ready| {
            // One of each partition.
            change.registry.put_in_force(&ready.generations, hand_off)?;
            Ok(ready.made)
        });
        if let Some(made) = self.noting(Operation::Rebalance, rebalanced)? {
            self.note_rebalance(favoured, hand_off, made, &begun);
        }
        Ok(())
    }

    /// Makes the contexts of several rebalances, none of which makes room for another, each for as many threads as any
    /// context of its name.
    pub(super) fn provision_rebalances(&self, favoured: &[Option<&Id>]) -> Result<()> {
        let provided = self.with_generations(favoured, |change, ready| {
            for (context, threads) in change.registry.with_most_siblings(&ready.generations) {
                context.provision_threads(threads)?;
            }
            Ok(())
        });
        self.noting(Operation::Provision, provided).map(drop)
    }

    /// Calls `action` with the generations that any of the rebalances puts into force, once all are made; with nothing
    /// to rebalance, returns none.
    fn with_generations<T>(
        &self,
        favoured: &[Option<&Id>],
        action: impl FnOnce(&Change<'_, Id>, &Ready) -> Result<T>,
    ) -> Result<Option<T>> {
        let positions = |ids: &Ids<Id>| {
            let place = |id: &Option<&Id>| id.map(|id| position(ids, &id)).transpose();
            favoured.iter().map(place).collect::<Result<Vec<_>>>()
        };
        loop {
            let mut later = DropLater::new(); // outlives the lock
            let (change, favoured) = self.begin_change_of(positions)?;
            if !self.can_rebalance(&change, &favoured)? {
                return Ok(None);
            }
            let wanted = change.registry.divide(&favoured, wanted);
            if let Some(ready) = self.make_generations(&change, &wanted, &mut later)? {
                // Pieces that return to a name which is gone are free now. A search for free pieces begins by freeing
                // them.
                return action(&change, &ready).map(Some);
            }
        }
    }

    /// Returns whether there is something to rebalance.
    fn can_rebalance(&self, change: &Change<'_, Id>, favoured: &[Option<usize>]) -> Result<bool> {
        if self.mode != PartitionMode::Partitioned {
            return Ok(false);
        }
        let layout = change.layout();
        let Some(layout) = &*layout else {
            return Ok(false);
        };
        let mut favoured = favoured.iter().flatten().peekable();
        if favoured.peek().is_none() {
            return Ok(true);
        }
        let mut own = favoured.filter_map(|index| change.registry.own_pieces(*index));
        if own.any(|pieces| layout.are_cut_out(&pieces)) {
            return Err(Error::IncompatibleResources {
                reason: "the SMs of this context were cut out of units to its exact size, and merge with no others; `create_partitions` splits the device so that they do",
            });
        }
        let by_count = matches!(
            layout.strategy,
            SplitStrategy::EqualGroups | SplitStrategy::Nested
        );
        let refusal = match (by_count, layout.facts.capabilities.merge) {
            (true, true) => Some((
                "rebalancing these sizes, which are no multiples of units that merge,",
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

    /// Makes the missing ones of the generations over the wanted pieces of each partition. That takes long, and names
    /// can be looked up meanwhile. Returns none where there is no room yet: something was given up, and once it is
    /// dropped, with no lock held, the caller tries again.
    fn make_generations(
        &self,
        change: &Change<'_, Id>,
        wanted: &[Vec<Pieces>],
        later: &mut DropLater,
    ) -> Result<Option<Ready>> {
        if let Some(generations) = change.registry.find_all(wanted) {
            return Ok(Some(Ready {
                generations,
                made: 0,
            }));
        }
        while let Some(step) = self.make_room(change, wanted, later)? {
            match step {
                RetireStep::TookOut(context) => self.end_retired(context)?,
                RetireStep::GaveUp => return Ok(None),
            }
        }
        let mut made = 0;
        let layout = change.layout();
        let each = wanted.iter().enumerate();
        let each =
            each.flat_map(|(index, wanted)| wanted.iter().map(move |pieces| (index, pieces)));
        for (index, pieces) in each {
            let in_place_of = change.registry.context_without(index, pieces);
            let (Some(in_place_of), Some(layout)) = (in_place_of, &*layout) else {
                continue;
            };
            let context = layout.create_in_place_of(&self.device, &in_place_of, pieces)?;
            // Threads that were at work there are likely to come here.
            context.provision_threads(in_place_of.green_contexts())?;
            drop(in_place_of);
            made += 1;
            let pieces = pieces.clone();
            let generation = Generation { pieces, context };
            change.registry.add_generation(index, generation);
        }
        let generations = change.registry.find_all(wanted);
        Ok(Some(Ready {
            generations: generations.unwrap_or_default(), // all are there now
            made,
        }))
    }
}

/// Returns the pieces of the generations that each partition needs for any of the rebalances, each once.
fn wanted(shares: &[OwnShare<'_>], rebalances: &[Option<usize>]) -> Vec<Vec<Pieces>> {
    let mut wanted = vec![Vec::new(); shares.len()];
    for favoured in rebalances {
        for (wanted, pieces) in wanted.iter_mut().zip(pieces_after(shares, *favoured)) {
            if !wanted.contains(&pieces) {
                wanted.push(pieces);
            }
        }
    }
    wanted
}

/// Returns the pieces of each partition once one is favoured: half of what each preemptible other was created with,
/// from its end, goes to that one.
fn pieces_after(shares: &[OwnShare<'_>], favoured: Option<usize>) -> Vec<Pieces> {
    let mut gained = Vec::new();
    let mut after: Vec<Pieces> = shares
        .iter()
        .enumerate()
        .map(
            |(
                index,
                OwnShare {
                    pieces,
                    preemptible,
                },
            )| {
                let gives = favoured.is_some_and(|favoured| favoured != index) && *preemptible;
                let keep = if gives {
                    pieces.len().div_ceil(2)
                } else {
                    pieces.len()
                };
                // The odd piece, which is the last, stays with its owner: others cannot use it.
                let (odd, units) = pieces
                    .split_last()
                    .map_or((None, &[][..]), |(odd, units)| (Some(odd), units));
                let keep = keep.saturating_sub(1).min(units.len());
                gained.extend_from_slice(&units[keep..]);
                units[..keep].iter().chain(odd).copied().collect()
            },
        )
        .collect();
    if let Some(pieces) = favoured.and_then(|index| after.get_mut(index)) {
        pieces.extend(gained);
        pieces.sort_unstable();
    }
    after
}
