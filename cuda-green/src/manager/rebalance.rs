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

/// The name that gets SMs in a rebalance, and those that give them.
#[derive(Clone, Copy)]
pub(super) enum Shift<Name> {
    /// Each has what it was created with.
    Back,
    /// One gets half of what each preemptible other was created with.
    Favour(Name),
    /// One gets what another was created with, but for at least so many SMs.
    Lend { from: Name, to: Name, keep: u32 },
}

impl<Name> Shift<Name> {
    /// Returns the name that gets SMs.
    fn favoured(self) -> Option<Name> {
        match self {
            Self::Back => None,
            Self::Favour(name) | Self::Lend { to: name, .. } => Some(name),
        }
    }

    /// Returns the names that it is about.
    fn names(self) -> impl Iterator<Item = Name> {
        let names = match self {
            Self::Back => [None, None],
            Self::Favour(name) => [Some(name), None],
            Self::Lend { from, to, .. } => [Some(from), Some(to)],
        };
        names.into_iter().flatten()
    }

    /// Returns the same of other names.
    fn try_map<Other>(self, other: impl Fn(Name) -> Result<Other>) -> Result<Shift<Other>> {
        Ok(match self {
            Self::Back => Shift::Back,
            Self::Favour(name) => Shift::Favour(other(name)?),
            Self::Lend { from, to, keep } => Shift::Lend {
                from: other(from)?,
                to: other(to)?,
                keep,
            },
        })
    }
}

impl<Name> From<Option<Name>> for Shift<Name> {
    fn from(favoured: Option<Name>) -> Self {
        favoured.map_or(Self::Back, Self::Favour)
    }
}

/// The generations that rebalances put into force, each once.
struct Ready {
    /// The index of the partition, in their order, and that of the generation.
    generations: Vec<(usize, usize)>,
    /// The number of them that had to be made.
    made: usize,
}

impl<Id: Clone + Eq + Debug> ManagerState<Id> {
    /// Gives SMs to the name that a shift favours.
    pub(super) fn rebalance(&self, shift: Shift<&Id>, hand_off: HandOff) -> Result<()> {
        let begun = Stopwatch::start();
        let rebalanced = self.with_generations(&[shift], |change, ready| {
            // One of each partition.
            change.registry.put_in_force(&ready.generations, hand_off)?;
            Ok(ready.made)
        });
        if let Some(made) = self.noting(Operation::Rebalance, rebalanced)? {
            self.note_rebalance(shift.favoured(), hand_off, made, &begun);
        }
        Ok(())
    }

    /// Makes the contexts of several rebalances, none of which makes room for another, each for as many threads as any
    /// context of its name.
    pub(super) fn provision_rebalances(&self, shifts: &[Shift<&Id>]) -> Result<()> {
        let provided = self.with_generations(shifts, |change, ready| {
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
        shifts: &[Shift<&Id>],
        action: impl FnOnce(&Change<'_, Id>, &Ready) -> Result<T>,
    ) -> Result<Option<T>> {
        self.refuse_where_joined(
            "a rebalance",
            "`set_shares` changes the plan for all of them",
        )?;
        let positions = |ids: &Ids<Id>| {
            let place = |shift: &Shift<&Id>| shift.try_map(|id| position(ids, &id));
            shifts.iter().map(place).collect::<Result<Vec<_>>>()
        };
        loop {
            let mut later = DropLater::new(); // outlives the lock
            let (change, shifts) = self.begin_change_of(positions)?;
            if !self.can_rebalance(&change, &shifts)? {
                return Ok(None);
            }
            let wanted = change.registry.divide(&in_pieces(&change, &shifts), wanted);
            if let Some(ready) = self.make_generations(&change, &wanted, &mut later)? {
                // Pieces that return to a name which is gone are free now. A search for free pieces begins by freeing
                // them.
                return action(&change, &ready).map(Some);
            }
        }
    }

    /// Returns whether there is something to rebalance.
    fn can_rebalance(&self, change: &Change<'_, Id>, shifts: &[Shift<usize>]) -> Result<bool> {
        if self.mode != PartitionMode::Partitioned {
            return Ok(false);
        }
        let layout = change.layout();
        let Some(layout) = &*layout else {
            return Ok(false);
        };
        let mut names = shifts.iter().flat_map(|shift| shift.names()).peekable();
        if names.peek().is_none() {
            return Ok(true);
        }
        let mut own = names.filter_map(|index| change.registry.own_pieces(index));
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

/// Returns the shifts with the number of pieces to keep in place of SMs: as few as have so many SMs, the last one of the
/// lender among them.
fn in_pieces<Id>(change: &Change<'_, Id>, shifts: &[Shift<usize>]) -> Vec<Shift<usize>> {
    let layout = change.layout();
    let sm_count = |piece: &usize| {
        layout
            .as_ref()
            .map_or(0, |layout| layout.sm_count(&[*piece]))
    };
    let in_pieces = |shift: &Shift<usize>| match *shift {
        Shift::Lend { from, to, keep } => {
            let own = change.registry.own_pieces(from).unwrap_or_default();
            let sizes: Vec<u32> = own.iter().map(sm_count).collect();
            let keep = pieces_to_keep(&sizes, keep);
            Shift::Lend { from, to, keep }
        }
        other => other,
    };
    shifts.iter().map(in_pieces).collect()
}

/// Returns how many pieces of these sizes, the last one and then the first ones, have so many SMs.
fn pieces_to_keep(sizes: &[u32], sms: u32) -> u32 {
    let (last, units) = sizes.split_last().unwrap_or((&0, &[]));
    let mut kept = *last;
    let mut pieces = 1;
    for unit in units {
        if kept >= sms {
            break;
        }
        kept += unit;
        pieces += 1;
    }
    pieces
}

/// Returns the pieces of the generations that each partition needs for any of the rebalances, each once.
fn wanted(shares: &[OwnShare<'_>], shifts: &[Shift<usize>]) -> Vec<Vec<Pieces>> {
    let mut wanted = vec![Vec::new(); shares.len()];
    for shift in shifts {
        for (wanted, pieces) in wanted.iter_mut().zip(pieces_after(shares, *shift)) {
            if !wanted.contains(&pieces) {
                wanted.push(pieces);
            }
        }
    }
    wanted
}

/// Returns the pieces of each partition after a shift: what others do not keep of the pieces that they were created with
/// goes to the favoured one, from the end.
fn pieces_after(shares: &[OwnShare<'_>], shift: Shift<usize>) -> Vec<Pieces> {
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
                let half = pieces.len().div_ceil(2);
                let keep = match shift {
                    Shift::Favour(favoured) if favoured != index && *preemptible => half,
                    Shift::Lend { from, to, keep } if from == index && to != index => keep as usize,
                    _ => pieces.len(),
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
    if let Some(pieces) = shift.favoured().and_then(|index| after.get_mut(index)) {
        pieces.extend(gained);
        pieces.sort_unstable();
    }
    after
}

#[cfg(test)]
mod tests {
    use super::pieces_to_keep;

    #[test]
    fn as_few_pieces_stay_as_have_the_sms() {
        for (sizes, sms, pieces) in [
            (&[8, 8, 8, 8][..], 0, 1),
            (&[8, 8, 8, 8], 8, 1),
            (&[8, 8, 8, 8], 9, 2),
            (&[8, 8, 8, 12], 12, 1),
            (&[8, 8, 8, 12], 13, 2),
            (&[8, 8, 8, 8], 1000, 4),
            (&[32], 8, 1),
            (&[], 8, 1),
        ] {
            assert_eq!(pieces_to_keep(sizes, sms), pieces, "{sizes:?} {sms}");
        }
    }
}
