//! Splits of SMs: pure functions from a set of SMs to disjoint sets, as the driver does it.

use cuda_green_sys::CUresult;

use crate::sms::SmSet;

/// The outcome of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) groups: Vec<SmSet>,
    pub(crate) remainder: SmSet,
}

/// A split into equal groups, computed but not yet made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EqualSplit {
    /// SMs in each group.
    pub(crate) size: u32,
    /// Number of groups that are possible.
    pub(crate) groups: u32,
    /// SMs that are co-scheduled within a group, if there are as many: groups are made of such units first.
    piece: u32,
    /// Whether this is a part of a device: see [`make`](Self::make).
    part: bool,
    /// Whether chunks that were together stay together: see [`make`](Self::make).
    joined: bool,
}

/// The rules of a split by count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granularity {
    /// Group sizes are multiples of it.
    pub(crate) unit: u32,
    /// The smallest size of a group.
    pub(crate) smallest: u32,
    /// The preferred number of co-scheduled SMs in a group; a power of two, at least `unit`.
    pub(crate) piece: u32,
    /// Whether the SMs are those of a context over a part of the device.
    pub(crate) part: bool,
    /// Whether co-scheduling is ignored, so that it is left to chance.
    pub(crate) joined: bool,
}

impl EqualSplit {
    /// Computes groups of at least `min_count` SMs in multiples of `unit`, and no smaller than `smallest`.
    ///
    /// The size is rounded up, and each group gets at least one co-scheduled unit, so that an H200 gives 15 groups of
    /// 8 and not the 16 that its 132 SMs would suggest. A size that no longer fits after rounding, but did before, is
    /// the whole set (129 to 132 SMs of 132). A size larger than the set is `INVALID_RESOURCE_CONFIGURATION`. All
    /// measured on an H200, driver 580.
    pub(crate) fn plan(
        sms: &SmSet,
        min_count: u32,
        granularity: Granularity,
    ) -> Result<Self, CUresult> {
        let refused = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        let total = sms.count();
        let Granularity {
            unit,
            smallest,
            piece,
            part,
            joined,
        } = granularity;
        let unit = unit.max(1);
        // In a part of a device, no two groups begin in the same chunk (measured on an H200, driver 580: 11
        // groups at most in 100 SMs of 11 chunks).
        let units = if part {
            sms.chunks_of(unit)
        } else {
            sms.units(unit)
        };
        if min_count > total || units == 0 {
            return Err(refused);
        }
        let size = min_count
            .max(smallest)
            .max(1)
            .next_multiple_of(unit)
            .min(total);
        Ok(Self {
            size,
            groups: (total / size).min(units),
            piece,
            part,
            joined,
        })
    }

    /// Makes `wanted` groups, or as many as are possible. The rest is the remainder.
    ///
    /// Groups are alike: each gets the same number of whole units, then the same number of halves,
    /// and so on, which is how four groups of 32 come about on a device with 15 units of 8: three
    /// units, one half and two quarters each. (Deduced from the clusters that fit into such groups on an
    /// H200, driver 580.)
    ///
    /// If co-scheduling is ignored, pairs that a group takes from one chunk in consecutive rounds are still together:
    /// one group of 100 SMs has room for clusters of 8, each of four groups of 32 for clusters of 6 (deduced
    /// likewise).
    ///
    /// In a part of a device, that is in a context's own resource, each group must find its next unit in another
    /// chunk. If there are too few of those, all groups stay smaller than requested: 32 SMs of which 24 are whole
    /// units become two groups of 14 and not of 16 (measured on an H200, driver 580).
    pub(crate) fn make(self, sms: &SmSet, wanted: u32) -> Parts {
        let mut pool = sms.clone();
        let made = self.groups.min(wanted);
        let mut groups = vec![SmSet::default(); made as usize];
        if made == 0 {
            return Parts {
                groups,
                remainder: pool,
            };
        }
        if self.size == pool.count() {
            // The whole set stays as it is.
            groups[0] = std::mem::take(&mut pool);
            return Parts {
                groups,
                remainder: pool,
            };
        }
        // Units of the first round stay separate; the reason is not known.
        let mut later = vec![SmSet::default(); made as usize];
        let mut missing = self.size;
        let mut piece = self.piece;
        while missing > 0 && piece > 1 {
            let each = if self.part {
                // One round at a time, in which each group takes from another chunk.
                u32::from(pool.chunks_of(piece) >= made && missing >= piece)
            } else {
                (pool.units(piece) / made).min(missing / piece)
            };
            let pieces = pool.take_in_turn(piece, each * made);
            for (index, (round, chunk)) in pieces.into_iter().enumerate() {
                let group = index % made as usize;
                if self.joined && round > 0 {
                    later[group].push_joined(chunk);
                } else {
                    groups[group].push(chunk);
                }
            }
            missing -= each * piece;
            if each == 0 || !self.part {
                piece /= 2;
            }
        }
        for (group, later) in groups.iter_mut().zip(later) {
            later.chunks().iter().for_each(|chunk| group.push(*chunk));
        }
        Parts {
            groups,
            remainder: pool,
        }
    }
}

/// A structured split's request for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupRequest {
    /// SMs wanted; 0 asks for as many as there are.
    pub(crate) sm_count: u32,
    /// SMs that must be co-scheduled; never 0.
    pub(crate) coscheduled: u32,
    /// SMs that are preferably co-scheduled; at least `coscheduled`.
    pub(crate) preferred: u32,
    /// Whether the rest of the group may be filled with any SMs.
    pub(crate) backfill: bool,
}

/// Splits off one group after the other, as the 13.1 header describes it. Groups that find no SMs are empty; the
/// caller decides whether that is an error, because a dry run allows it.
///
/// A group always has at least one co-scheduled unit, backfill or not. A group that requests a number and cannot have
/// it is `INVALID_RESOURCE_CONFIGURATION`.
pub(crate) fn structured(sms: &SmSet, requests: &[GroupRequest]) -> Result<Parts, CUresult> {
    let mut pool = sms.clone();
    let mut groups = Vec::with_capacity(requests.len());
    for request in requests {
        groups.push(split_off(&mut pool, *request)?);
    }
    Ok(Parts {
        groups,
        remainder: pool,
    })
}

fn split_off(pool: &mut SmSet, request: GroupRequest) -> Result<SmSet, CUresult> {
    let refused = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    let unit = request.coscheduled.max(1);
    let discovery = request.sm_count == 0;
    let wanted = if discovery {
        pool.count()
    } else {
        request.sm_count
    };
    if pool.units(unit) == 0 || wanted < unit || wanted > pool.count() {
        return if discovery {
            Ok(SmSet::default())
        } else {
            Err(refused)
        };
    }
    let mut group = SmSet::default();
    let mut missing = wanted;
    let prefers_large = request.preferred > unit;
    while missing >= request.preferred && prefers_large {
        let Some(chunk) = pool.take_unit(request.preferred) else {
            break;
        };
        missing -= chunk.len;
        group.push(chunk);
    }
    while missing >= unit {
        let Some(chunk) = pool.take_unit(unit) else {
            break;
        };
        missing -= unit;
        group.push(chunk);
    }
    if missing > 0 && request.backfill {
        for chunk in pool.take_any(missing) {
            missing -= chunk.len;
            group.push(chunk);
        }
    }
    if missing > 0 && !discovery {
        return Err(refused);
    }
    Ok(group)
}

#[cfg(test)]
mod tests;
