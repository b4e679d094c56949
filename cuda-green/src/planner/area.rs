//! Predictions of what a split of some SMs gives, where each split divides what the one before left.

use super::{DeviceFacts, device_facts::FINE_UNIT};

/// A set of SMs, as far as one can know what a split of it gives.
///
/// The driver makes groups of whole co-scheduled units as far as there are any (measured on an H200, driver
/// 580), so counting them tells which parts still hold one.
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
    /// A part that is not to be split.
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

    /// The whole device, of which so many whole units can be split off.
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

    /// SMs of a group for at least so many: all of them, where that is no more than rounding.
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

    /// SMs of the largest group of at most so many.
    pub(super) fn size_within(&self, most: u32) -> Option<u32> {
        let size = match most.min(self.sm_count) {
            all if all == self.sm_count => all,
            most => most.checked_div(self.step)? * self.step,
        };
        (self.size_of(size) == Some(size)).then_some(size)
    }

    /// One of so many groups of this size, and what they leave: nothing, maybe.
    pub(crate) fn split(&self, groups: u32, size: u32) -> Option<(Self, Self)> {
        let rest = self.sm_count.checked_sub(size.checked_mul(groups)?)?;
        if size == self.sm_count && groups == 1 {
            return Some((*self, self.part(0, 0, FINE_UNIT)));
        }
        if self.step == 0 || self.size_of(size) != Some(size) {
            return None;
        }
        let whole = (size / self.unit).min(self.units / groups.max(1));
        // What is no whole unit is made of halves and quarters, each of which may break one up.
        let pairs = (size - whole * self.unit) / FINE_UNIT;
        let broken = if pairs * FINE_UNIT < self.unit {
            pairs.count_ones()
        } else {
            pairs
        };
        let whole_left = self.units.saturating_sub((whole + broken) * groups);
        // A group of whole units' size is taken for one of whole units (measured on an H200).
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
            // Without a whole unit in it, there is nothing to begin a group of whole units with.
            step: if step > kept { 0 } else { step },
            // Where the step is the unit, the device's smallest group holds; a group of pairs is no smaller
            // than its step.
            min: if step == self.unit { self.min } else { step },
            ..*self
        }
    }
}

/// SMs that are surely together where there are so many whole units.
fn kept(unit: u32, units: u32) -> u32 {
    if units > 0 { unit } else { FINE_UNIT.min(unit) }
}
