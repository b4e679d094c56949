//! The division of SMs among targets that do not all fit.

use super::{Demands, demands::grouped};

/// The numbers of groups that a target may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) fewest: u32,
    pub(super) most: u32,
    /// SMs that it has beside its groups.
    pub(super) beside: u32,
}

/// The loss of a division; less is better, and earlier fields count first.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Loss {
    /// SMs by which targets are missed, beyond rounding to whole units.
    below: u64,
    /// SMs by which targets are missed in all.
    missed: u64,
    /// The squares of all sizes. Of divisions that miss as much, it is least where the largest targets are lowered.
    squares: u64,
}

impl Loss {
    fn plus(self, other: Self) -> Self {
        Self {
            below: self.below + other.below,
            missed: self.missed + other.missed,
            squares: self.squares + other.squares,
        }
    }
}

impl Demands {
    /// Divides up to `groups` groups of `group_sms` SMs among the targets that have bounds, so that they lose least.
    /// Equal targets with equal bounds get the same number. Returns the groups of each request, 0 for one without
    /// bounds; `None` where the fewest of all targets are too many.
    pub(super) fn divide(
        &self,
        bounds: &[Option<Bounds>],
        group_sms: u32,
        groups: u32,
    ) -> Option<Vec<u32>> {
        let bounds_of = |index: usize| bounds.get(index).copied().flatten();
        let targets = (0..bounds.len()).filter(|index| bounds_of(*index).is_some());
        let kinds = grouped(targets, |index| (self.list.get(index), bounds_of(index)));
        // For each kind and number of groups that it and the kinds before it have: how many each of its members has.
        let mut chosen: Vec<Vec<u32>> = Vec::new();
        // The least loss of the kinds so far for each number of groups that they have.
        let mut losses = vec![None; groups as usize + 1];
        *losses.first_mut()? = Some(Loss::default());
        for kind in &kinds {
            let of = *kind.first()?;
            let Bounds {
                fewest,
                most,
                beside,
            } = bounds_of(of)?;
            let mut counts = vec![0; losses.len()];
            let mut next: Vec<Option<Loss>> = vec![None; losses.len()];
            // Of equal losses the first stays, so that earlier kinds have more.
            for count in fewest..=most {
                let more = count as usize * kind.len();
                if more > groups as usize {
                    break;
                }
                let loss = self.loss(of, kind.len(), count * group_sms + beside);
                let entries = next.iter_mut().zip(&mut counts).skip(more);
                for ((entry, entry_count), before) in entries.zip(&losses) {
                    if let Some(loss) = before.map(|before| loss.plus(before))
                        && entry.is_none_or(|best| loss < best)
                    {
                        *entry = Some(loss);
                        *entry_count = count;
                    }
                }
            }
            losses = next;
            chosen.push(counts);
        }
        let possible = losses.iter().enumerate();
        let possible = possible.filter_map(|(used, loss)| Some(((*loss)?, used)));
        let (_, mut used) = possible.min()?;
        let mut divided = vec![0; bounds.len()];
        for (kind, counts) in kinds.iter().zip(&chosen).rev() {
            let count = *counts.get(used)?;
            for index in kind {
                *divided.get_mut(*index)? = count;
            }
            used = used.checked_sub(count as usize * kind.len())?;
        }
        Some(divided)
    }

    /// Returns the loss where this many targets like this one have so many SMs.
    fn loss(&self, index: usize, targets: usize, sm_count: u32) -> Loss {
        let requested = self.requested.get(index).copied().unwrap_or(0);
        let [below, missed, size] = [
            self.missed(index, sm_count),
            requested.saturating_sub(sm_count),
            sm_count,
        ]
        .map(u64::from);
        let targets = targets as u64;
        Loss {
            below: below * targets,
            missed: missed * targets,
            squares: size * size * targets,
        }
    }

    /// Returns limits for [`sizes`](Self::sizes) under which all requests fit `room` SMs and targets lose least.
    /// Requests for which `reserved` knows a size have that. Returns `None` where not all fit.
    pub(super) fn limits(
        &self,
        unit: u32,
        min: u32,
        room: u32,
        reserved: impl Fn(usize) -> Option<u32>,
    ) -> Option<Vec<u32>> {
        let unit = unit.max(1);
        let mut taken = 0u32;
        let mut limits = vec![u32::MAX; self.list.len()];
        let mut bounds = vec![None; self.list.len()];
        let entries = limits.iter_mut().zip(&mut bounds).zip(&self.list);
        for (index, ((limit, bounds), request)) in entries.enumerate() {
            let most = self.floor_in(request, unit, min, u32::MAX);
            if let Some(size) = reserved(index) {
                *limit = size;
                taken = taken.checked_add(size)?;
            } else if request.is_target() {
                *bounds = Some(Bounds {
                    fewest: self.floor_in(request, unit, min, 0) / unit,
                    most: most / unit,
                    beside: 0,
                });
            } else {
                taken = taken.checked_add(most)?;
            }
        }
        let groups = self.divide(&bounds, unit, room.checked_sub(taken)? / unit)?;
        for ((limit, groups), bounds) in limits.iter_mut().zip(groups).zip(bounds) {
            if bounds.is_some() {
                *limit = groups * unit;
            }
        }
        Some(limits)
    }
}
