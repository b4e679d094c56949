//! Predictions for splits within splits: the sizes that a split of some SMs gives, and what stays co-scheduled.

use super::{DeviceFacts, device_facts::FINE_UNIT};

/// A set of SMs, with all that can be predicted about splits of it.
///
/// The driver makes groups of whole co-scheduled units while there are any (measured on an H200, driver 580), so
/// counting the units shows which parts still hold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) sm_count: u32,
    /// SMs that are surely co-scheduled together in it.
    pub(crate) coscheduled: u32,
    /// Whole co-scheduled units that it surely holds.
    units: u32,
    /// SMs of a whole unit.
    unit: u32,
    /// Sizes of its groups are multiples of this; 0 where it is not to be split.
    step: u32,
    /// SMs of its smallest group.
    pub(super) min: u32,
}

impl Area {
    /// Returns a part that is not to be split.
    pub(crate) fn fixed(sm_count: u32, coscheduled: u32) -> Self {
        Self {
            sm_count,
            coscheduled: coscheduled.min(sm_count),
            units: 0,
            unit: coscheduled,
            step: 0,
            min: 0,
        }
    }

    /// Returns the whole device, of which this many whole units can be split off.
    pub(crate) fn device(facts: &DeviceFacts, units: u32) -> Self {
        let unit = facts.coscheduled();
        Self {
            sm_count: facts.sm_count,
            coscheduled: kept(unit, units).min(facts.sm_count),
            units,
            unit,
            step: unit,
            min: facts.capabilities.granularity.min,
        }
    }

    /// Returns the size of a group of at least this many SMs. Where the area
    /// is not to be split, or rounding up exceeds it, that is all of it.
    pub(crate) fn size_of(&self, at_least: u32) -> Option<u32> {
        if at_least > self.sm_count {
            return None;
        }
        if self.step == 0 {
            return Some(self.sm_count);
        }
        let size = at_least.max(self.min).checked_next_multiple_of(self.step)?;
        Some(size.min(self.sm_count))
    }

    /// Returns the size of the largest group of at most this many SMs.
    pub(super) fn size_within(&self, most: u32) -> Option<u32> {
        let size = match most.min(self.sm_count) {
            all if all == self.sm_count => all,
            most => most.checked_div(self.step)? * self.step,
        };
        (self.size_of(size) == Some(size)).then_some(size)
    }

    /// Predicts a split into groups of this size: returns one of the groups, and what they leave, which may be nothing.
    pub(crate) fn split(&self, groups: u32, size: u32) -> Option<(Self, Self)> {
        let rest = self.sm_count.checked_sub(size.checked_mul(groups)?)?;
        if size == self.sm_count && groups == 1 {
            return Some((*self, self.part(0, 0, FINE_UNIT)));
        }
        if self.step == 0 || self.size_of(size) != Some(size) {
            return None;
        }
        let whole = (size / self.unit).min(self.units / groups.max(1));
        // SMs beside whole units come from halves and quarters of units; each may break up one more unit.
        let pairs = (size - whole * self.unit) / FINE_UNIT;
        let broken = if pairs * FINE_UNIT < self.unit {
            pairs.count_ones()
        } else {
            pairs
        };
        let whole_left = self.units.saturating_sub((whole + broken) * groups);
        // The driver treats a group whose size is a multiple of the unit as one of whole units (measured on an H200).
        let step = if size.is_multiple_of(self.unit) {
            self.unit
        } else {
            FINE_UNIT
        };
        Some((
            self.part(size, whole, step),
            self.part(rest, whole_left, FINE_UNIT),
        ))
    }

    pub(super) fn part(&self, sm_count: u32, units: u32, step: u32) -> Self {
        let step = step.min(self.unit);
        let kept = kept(self.unit, units);
        Self {
            sm_count,
            units,
            coscheduled: kept.min(sm_count),
            // A part without a whole unit cannot give a group of whole units.
            step: if step > kept { 0 } else { step },
            // Where the step is the unit, the device's minimum holds; where it is a pair, a pair is the minimum.
            min: if step == self.unit { self.min } else { step },
            ..*self
        }
    }
}

/// Returns how many SMs are surely co-scheduled together where there are this many whole units.
fn kept(unit: u32, units: u32) -> u32 {
    if units > 0 { unit } else { FINE_UNIT.min(unit) }
}
