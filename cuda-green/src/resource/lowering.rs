//! How a driver makes a split: a pure function from what is wanted to the one call and what becomes of its
//! parts.

use cuda_green_sys::{
    CU_DEV_SM_RESOURCE_GROUP_PARAMS, CUdevSmResourceSplitByCount_flags, CudaVersion,
};

use super::{
    check::{Input, Wanted, in_words},
    split_calls::{ignore_coscheduling, params},
};
use crate::{
    capabilities::Capabilities,
    error::{Error, Result},
};

/// The call that makes a split.
#[derive(Clone, Debug)]
pub(super) enum Recipe {
    /// `cuDevSmResourceSplit`: the driver does it all (13.1).
    Structured(Vec<CU_DEV_SM_RESOURCE_GROUP_PARAMS>),
    /// `cuDevSmResourceSplitByCount`: so many groups of one size.
    Equal { groups: u32, size: u32, flags: u32 },
    /// `cuDevSmResourceSplitByCount` into all units that there are, of which groups are merged (12.5).
    Units {
        unit: u32,
        units: u32,
        flags: u32,
        groups: Vec<Merged>,
    },
}

/// A group of merged units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) units: u32,
    /// Whether what the split leaves over belongs to it.
    pub(super) remainder: bool,
}

/// The driver's dry run of a split by count: how many groups of at least this many SMs, with these flags.
pub(super) type CountGroups<'a> = dyn Fn(u32, u32) -> Result<u32> + 'a;

const PREFER_LARGE: u32 =
    CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE.0;

impl Recipe {
    /// `dry`: a group of as many SMs as there are may find none, as in the driver's own dry run.
    pub(super) fn of(
        input: &Input,
        capabilities: &Capabilities,
        wanted: &[Wanted],
        dry: bool,
        count_groups: &CountGroups<'_>,
    ) -> Result<Self> {
        if capabilities.structured_split {
            return Ok(Self::Structured(wanted.iter().map(structured).collect()));
        }
        let composing = Composing {
            input,
            capabilities,
            wanted,
            count_groups,
        };
        composing.recipe(dry)
    }
}

fn structured(group: &Wanted) -> CU_DEV_SM_RESOURCE_GROUP_PARAMS {
    let preferred = if group.preferred == group.coscheduled {
        0 // by itself the same as what is co-scheduled
    } else {
        group.preferred
    };
    params(group.sm_count, group.coscheduled, preferred, group.backfill)
}

/// A split below 13.1.
struct Composing<'a> {
    input: &'a Input,
    capabilities: &'a Capabilities,
    wanted: &'a [Wanted],
    count_groups: &'a CountGroups<'a>,
}

impl Composing<'_> {
    fn recipe(&self, dry: bool) -> Result<Recipe> {
        let Some(first) = self.wanted.first() else {
            return self.unmet(0); // no group: found before this
        };
        let alike = |one: &Wanted, other: &Wanted| {
            (one.coscheduled, one.preferred) == (other.coscheduled, other.preferred)
        };
        if !self.wanted.iter().all(|group| alike(group, first)) {
            return self.unsupported(
                "co-scheduling each group of a split in its own way",
                (13, 1),
            );
        }
        let (unit, fine) = self.unit(first)?;
        let large = first.preferred > first.coscheduled;
        let flags = match (fine, large) {
            (true, true) => {
                return self.unsupported(
                    "preferring larger co-scheduled groups than the 2 SMs that are asked for",
                    (13, 1),
                );
            }
            (true, false) => ignore_coscheduling(),
            (false, true) if !self.capabilities.split_flags => {
                return self.unsupported("preferring larger co-scheduled groups", (12, 5));
            }
            (false, true) => PREFER_LARGE,
            (false, false) => 0,
        };
        let equal = first.sm_count > 0
            && self
                .wanted
                .iter()
                .all(|group| group.sm_count == first.sm_count);
        // Groups of several units by count need not be co-scheduled throughout (measured on an H200: 3 of 4
        // units of a group of 32), so what was demanded is made of units.
        let whole_units = !first.demands || fine || first.sm_count == unit;
        if equal && whole_units && self.rounds_to_itself(first.sm_count, fine) {
            return self.equal(first.sm_count, flags);
        }
        if large {
            return self.unsupported(
                "preferring larger co-scheduled groups in a split of unequal sizes",
                (13, 1),
            );
        }
        if !self.capabilities.merge {
            return match self.wanted {
                [group] if group.sm_count == 0 => self.all(group, flags),
                _ if equal && first.demands => self.unsupported(
                    "a group of several units that are sure to be co-scheduled",
                    (12, 5),
                ),
                _ if equal => self.unsupported("a group of this size", (12, 5)),
                _ => self.unsupported("a split into groups of different sizes", (12, 5)),
            };
        }
        self.units(unit, flags, dry)
    }

    /// The unit that groups are made of, and whether it ignores co-scheduling.
    fn unit(&self, group: &Wanted) -> Result<(u32, bool)> {
        let usual = self.input.granularity;
        let smallest = usual.min.max(usual.coscheduled);
        if group.coscheduled == usual.coscheduled {
            // Without clusters, ignoring co-scheduling costs nothing and gives exact sizes.
            let fine = !self.input.has_clusters && smallest > 2 && self.capabilities.split_flags;
            return Ok(if fine { (2, true) } else { (smallest, false) });
        }
        if group.coscheduled != 2 {
            return self.unsupported(
                "co-scheduling other than the device's own and than 2 SMs",
                (13, 1),
            );
        }
        if !self.capabilities.split_flags {
            return self.unsupported("co-scheduling of 2 SMs", (12, 5));
        }
        Ok((2, true))
    }

    /// Whether a split by count leaves the size as it is.
    fn rounds_to_itself(&self, size: u32, fine: bool) -> bool {
        let usual = self.input.granularity;
        let (min, step) = if fine {
            (2, 2)
        } else {
            (usual.min, usual.coscheduled.max(1))
        };
        let rounded = size.max(min).next_multiple_of(step);
        rounded.min(self.input.total) == size
    }

    fn equal(&self, size: u32, flags: u32) -> Result<Recipe> {
        let groups = self.wanted.len() as u32;
        let possible = (self.count_groups)(size, flags)?;
        if groups > possible {
            return self.unmet(possible.saturating_mul(size));
        }
        Ok(Recipe::Equal {
            groups,
            size,
            flags,
        })
    }

    /// One group of as many SMs as there are, where nothing merges (12.4).
    fn all(&self, group: &Wanted, flags: u32) -> Result<Recipe> {
        let total = self.input.total;
        let size = if group.backfill {
            total
        } else {
            total / group.coscheduled * group.coscheduled
        };
        if size == 0 || (self.count_groups)(size, flags)? == 0 {
            return self.unmet(0);
        }
        Ok(Recipe::Equal {
            groups: 1,
            size,
            flags,
        })
    }

    /// Groups of merged units, the remainder with one of them where that makes its size.
    fn units(&self, unit: u32, flags: u32, dry: bool) -> Result<Recipe> {
        if unit > self.input.total {
            return self.unmet(0);
        }
        let units = (self.count_groups)(unit, flags)?;
        let in_units = units.saturating_mul(unit);
        let mut remainder = self.input.total.saturating_sub(in_units);
        let mut left = units;
        let mut groups = Vec::with_capacity(self.wanted.len());
        for group in self.wanted {
            let merged = if group.sm_count == 0 {
                Merged {
                    units: left,
                    remainder: group.backfill && left > 0 && remainder > 0,
                }
            } else if group.sm_count % unit == 0 {
                Merged {
                    units: group.sm_count / unit,
                    remainder: false,
                }
            } else {
                let beside = group.sm_count.saturating_sub(remainder);
                if remainder == 0 || beside == 0 || beside % unit != 0 {
                    return self.unsupported(
                        "a group whose size is neither of whole units nor of those and all that is left over",
                        (13, 1),
                    );
                }
                Merged {
                    units: beside / unit,
                    remainder: true,
                }
            };
            if merged.remainder {
                remainder = 0;
            }
            left = match left.checked_sub(merged.units) {
                Some(left) if merged.units > 0 || dry => left,
                _ => return self.unmet(in_units),
            };
            groups.push(merged);
        }
        Ok(Recipe::Units {
            unit,
            units,
            flags,
            groups,
        })
    }

    fn unmet<T>(&self, available: u32) -> Result<T> {
        Err(Error::UnmetSplit {
            groups: in_words(self.wanted.iter().map(|group| group.sm_count)),
            asked: self.wanted.iter().map(|group| group.sm_count).sum(),
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
