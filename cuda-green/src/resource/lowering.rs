//! The lowering of an [`SmSplit`](super::SmSplit): a pure function from its groups to the one call that this driver has
//! for them, and to what becomes of the call's groups.

use cuda_green_sys::CudaVersion;

use super::check::{Input, sizes_in_words};
use crate::{
    capabilities::Capabilities,
    error::{Error, Result},
    planner::{CountedSplit, Group, GroupCount, MergedGroups, SplitCall, SplitFlag},
};

/// A split as this driver makes it.
#[derive(Clone, Debug)]
pub(super) enum Lowered {
    /// The groups of this call.
    Groups(SplitCall),
    /// Merged groups of a split into all units that there are (12.5).
    Merged(CountedSplit, Vec<MergedGroups>),
}

/// The input of a lowering: checked groups, and the capabilities of driver and device.
pub(super) struct Lowering<'a> {
    pub(super) input: Input,
    pub(super) capabilities: &'a Capabilities,
    pub(super) groups: &'a [Group],
    /// Whether their co-scheduling was requested, rather than being the default.
    pub(super) demands_coscheduling: bool,
    pub(super) count_groups: &'a GroupCount<'a>,
    /// Whether a group of as many SMs as there are may find none, as in the driver's own dry run.
    pub(super) is_dry_run: bool,
}

impl Lowering<'_> {
    /// Lowers the groups.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::UnmetSplit`]; the errors of `count_groups`.
    pub(super) fn lower(&self) -> Result<Lowered> {
        if self.capabilities.structured_split {
            return Ok(Lowered::Groups(SplitCall::Structured(self.groups.to_vec())));
        }
        let Some(first) = self.groups.first() else {
            return self.unmet(0); // `check` refuses an empty split
        };
        let alike = |group: &Group| {
            (group.coscheduled, group.preferred_coscheduled)
                == (first.coscheduled, first.preferred_coscheduled)
        };
        if !self.groups.iter().all(alike) {
            return self.unsupported(
                "co-scheduling each group of a split in its own way",
                (13, 1),
            );
        }
        let (unit, is_fine) = self.unit(first)?;
        let prefers_larger = first.preferred_coscheduled > first.coscheduled;
        let flag = match (is_fine, prefers_larger) {
            (true, true) => {
                return self.unsupported(
                    "preferring larger co-scheduled groups than the 2 SMs that are asked for",
                    (13, 1),
                );
            }
            (true, false) => SplitFlag::IgnoreCoscheduling,
            (false, true) if !self.capabilities.split_flags => {
                return self.unsupported("preferring larger co-scheduled groups", (12, 5));
            }
            (false, true) => SplitFlag::MaxClusterSize,
            (false, false) => SplitFlag::None,
        };
        let equal = first.sm_count > 0
            && self
                .groups
                .iter()
                .all(|group| group.sm_count == first.sm_count);
        // A group of several units of a split by count need not be co-scheduled throughout (measured on an H200: 3 of 4
        // units of a group of 32), so demanded co-scheduling is made of merged units.
        let whole_units = !self.demands_coscheduling || is_fine || first.sm_count == unit;
        if equal && whole_units && self.rounds_to_itself(first.sm_count, is_fine) {
            return self.equal(first.sm_count, flag);
        }
        if prefers_larger {
            return self.unsupported(
                "preferring larger co-scheduled groups in a split of unequal sizes",
                (13, 1),
            );
        }
        if !self.capabilities.merge {
            return match self.groups {
                [group] if group.sm_count == 0 => self.all(group, flag),
                _ if equal && self.demands_coscheduling => self.unsupported(
                    "a group of several units that are sure to be co-scheduled",
                    (12, 5),
                ),
                _ if equal => self.unsupported("a group of this size", (12, 5)),
                _ => self.unsupported("a split into groups of different sizes", (12, 5)),
            };
        }
        self.merged(unit, flag)
    }

    /// Returns the unit that groups are made of, and whether it ignores co-scheduling.
    fn unit(&self, group: &Group) -> Result<(u32, bool)> {
        let usual = self.input.granularity;
        let smallest = usual.min.max(usual.coscheduled);
        if group.coscheduled == usual.coscheduled {
            // Without clusters, ignoring co-scheduling costs nothing and gives exact sizes.
            let fine = !self.input.has_clusters && smallest > 2 && self.capabilities.split_flags;
            return Ok(if fine { (2, true) } else { (smallest, false) });
        }
        if group.coscheduled != 2 {
            return self.unsupported(
                "co-scheduling other than the device's own or 2 SMs",
                (13, 1),
            );
        }
        if !self.capabilities.split_flags {
            return self.unsupported("co-scheduling of 2 SMs", (12, 5));
        }
        Ok((2, true))
    }

    /// Returns whether a split by count leaves the size as it is.
    fn rounds_to_itself(&self, size: u32, is_fine: bool) -> bool {
        let usual = self.input.granularity;
        let (min, step) = if is_fine {
            (2, 2)
        } else {
            (usual.min, usual.coscheduled.max(1))
        };
        let rounded = size.max(min).next_multiple_of(step);
        rounded.min(self.input.total) == size
    }

    /// Lowers groups of one size.
    fn equal(&self, sm_count: u32, flag: SplitFlag) -> Result<Lowered> {
        let groups = self.groups.len() as u32;
        let possible = (self.count_groups)(sm_count, flag)?;
        if groups > possible {
            return self.unmet(possible.saturating_mul(sm_count));
        }
        Ok(Lowered::Groups(SplitCall::ByCount {
            groups,
            sm_count,
            flag,
        }))
    }

    /// Lowers one group of as many SMs as there are, where nothing merges (12.4).
    fn all(&self, group: &Group, flag: SplitFlag) -> Result<Lowered> {
        let total = self.input.total;
        let sm_count = if group.backfill {
            total
        } else {
            total / group.coscheduled * group.coscheduled
        };
        if sm_count == 0 {
            return self.unmet(0);
        }
        self.equal(sm_count, flag)
    }

    /// Lowers to groups of merged units; one of them has the remainder, too, where that makes its size.
    fn merged(&self, unit: u32, flag: SplitFlag) -> Result<Lowered> {
        if unit > self.input.total {
            return self.unmet(0);
        }
        let units = CountedSplit::of(self.input.total, unit, flag, self.count_groups)?;
        let in_units = units.groups.saturating_mul(unit);
        let mut remainder = units.remainder;
        let mut left = units.groups;
        let mut merged = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            let one = if group.sm_count == 0 {
                MergedGroups {
                    groups: left,
                    remainder: group.backfill && left > 0 && remainder > 0,
                }
            } else if group.sm_count % unit == 0 {
                MergedGroups {
                    groups: group.sm_count / unit,
                    remainder: false,
                }
            } else {
                let beside = group.sm_count.saturating_sub(remainder);
                if remainder == 0 || beside == 0 || beside % unit != 0 {
                    return self.unsupported(
                        "a group that is neither whole units nor whole units and the whole remainder",
                        (13, 1),
                    );
                }
                MergedGroups {
                    groups: beside / unit,
                    remainder: true,
                }
            };
            if one.remainder {
                remainder = 0;
            }
            left = match left.checked_sub(one.groups) {
                Some(left) if one.groups > 0 || self.is_dry_run => left,
                _ => return self.unmet(in_units),
            };
            merged.push(one);
        }
        Ok(Lowered::Merged(units, merged))
    }

    /// Refuses the groups: this many SMs are available for such.
    fn unmet<T>(&self, available: u32) -> Result<T> {
        let sizes: Vec<u32> = self.groups.iter().map(|group| group.sm_count).collect();
        Err(Error::UnmetSplit {
            groups: sizes_in_words(&sizes),
            asked: sizes.iter().sum(),
            available,
            total: self.input.total,
        })
    }

    fn unsupported<T>(&self, what: &'static str, (major, minor): (u16, u8)) -> Result<T> {
        Err(Error::Unsupported {
            what,
            needs: CudaVersion::new(major, minor),
            driver: self.capabilities.driver,
        })
    }
}
