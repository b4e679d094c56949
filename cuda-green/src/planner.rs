//! How a device is split: pure functions from facts and requests to the calls to make and their result.
//!
//! Nothing here touches a driver. What cannot be derived, how many groups of a size the chip's topology
//! allows, is asked through [`GroupCount`].

use crate::{Capabilities, Error, Result};

/// What the planner must know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// SMs of the device.
    pub sm_count: u32,
    /// Its compute capability: clusters exist from 9.0 on.
    pub compute_capability: (u32, u32),
    /// What driver and device can do.
    pub capabilities: Capabilities,
}

/// How many SMs a partition asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmRequest {
    /// As near to this as can be without going over, but at least one unit.
    Target(u32),
    /// This many or, where the device's units demand it, a few more.
    AtLeast(u32),
    /// What the others leave.
    Rest,
}

/// The driver's dry run: how many groups of at least this many SMs a split by count would make, with
/// co-scheduling ignored or not.
pub type GroupCount<'a> = dyn Fn(u32, bool) -> Result<u32> + 'a;

/// How a plan meets the sizes that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitStrategy {
    /// One structured split into units and what each size needs beside them, merged (13.1).
    StructuredUnits,
    /// One structured split with a size for each group (13.1).
    Structured,
    /// Units of one split by count, merged (12.5).
    MergedUnits,
    /// The same with units that ignore co-scheduling: exact to 2 SMs, but no clusters above 2.
    MergedFineUnits,
    /// Equal groups of one split by count (12.4).
    EqualGroups,
}

/// One group of a structured split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// SMs of the group.
    pub sm_count: u32,
    /// So many of them are co-scheduled together.
    pub coscheduled: u32,
    /// Whether the size may be filled up with SMs that are not.
    pub backfill: bool,
}

/// The one split call of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitCall {
    /// `cuDevSmResourceSplit` with these groups.
    Structured(Vec<Group>),
    /// `cuDevSmResourceSplitByCount`.
    ByCount {
        /// Groups to ask for.
        groups: u32,
        /// SMs of each.
        min_count: u32,
        /// Whether co-scheduling is ignored.
        fine: bool,
    },
}

/// A part of the split's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The group of this index.
    Group(usize),
    /// What the split left over.
    Remainder,
}

/// One partition of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPartition {
    /// SMs asked for; of [`SmRequest::Rest`], what the other requests leave of the device.
    pub requested: u32,
    /// SMs it will have.
    pub sm_count: u32,
    /// The parts of the split that it is made of.
    pub parts: Vec<Part>,
}

/// A complete split of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How the sizes are met.
    pub strategy: SplitStrategy,
    /// The call to make.
    pub call: SplitCall,
    /// The partitions, in the order of the requests.
    pub partitions: Vec<PlannedPartition>,
    /// SMs that are co-scheduled together in each partition.
    pub coscheduled: u32,
    /// The largest thread-block cluster that a partition with a group is sure to run, in blocks. One of the
    /// remainder alone runs clusters of 2.
    pub max_cluster: u32,
    /// SMs that no partition has.
    pub left_over: u32,
}

impl DeviceFacts {
    /// The targets of `n` equal partitions: the device's share rounded down to 2, the last takes the rest.
    pub fn equal_targets(&self, n: u32) -> Vec<SmRequest> {
        let target = ((self.sm_count / n.max(1)) & !1).max(1);
        (1..=n)
            .map(|i| {
                if i < n {
                    SmRequest::Target(target)
                } else {
                    SmRequest::Rest
                }
            })
            .collect()
    }

    /// The unit of which partitions are merged, and whether it ignores co-scheduling.
    ///
    /// Where there are clusters, the unit is the device's own, so that they keep working. Before 9.0
    /// there are none, so ignoring co-scheduling costs nothing and gives exact sizes.
    pub(crate) fn unit(&self) -> (u32, bool) {
        let granularity = self.capabilities.granularity;
        if self.has_clusters() || granularity.min <= 2 {
            (granularity.min, false)
        } else {
            (FINE_UNIT, true)
        }
    }

    /// The largest cluster that is sure to run on SMs co-scheduled in groups of this size.
    pub(crate) fn max_cluster(&self, coscheduled: u32) -> u32 {
        if self.has_clusters() {
            coscheduled.clamp(1, PORTABLE_CLUSTER)
        } else {
            1
        }
    }

    pub(crate) fn has_clusters(&self) -> bool {
        self.compute_capability.0 >= 9
    }
}

/// Units that ignore co-scheduling have this many SMs (measured on an H200: 66 × 2; 12.5 and later). What a
/// remainder keeps together is no more.
pub(crate) const FINE_UNIT: u32 = 2;

/// So many units a structured split may lose to groups that need a few SMs beside whole units.
const MOST_UNITS_LOST: u32 = 3;

/// Clusters of up to 8 blocks run on every device that has clusters; larger ones a kernel must ask for.
const PORTABLE_CLUSTER: u32 = 8;

/// The plans that meet the requests, best first: where the driver refuses one for reasons of topology
/// (`CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`), the next is to be tried.
///
/// The order: a structured split into units that merge, so that they can change hands later, or straight into
/// the sizes (13.1); merged units of the device's own size (12.5); merged fine
/// units, where the device's own are too coarse; equal groups (12.4).
///
/// # Errors
/// [`Error::InvalidArgument`] for no request, a request of 0 SMs, or more than one [`SmRequest::Rest`];
/// [`Error::InsufficientSms`] where the requests exceed the device or no plan can meet them; what
/// `count_groups` fails with.
pub fn plans(
    facts: &DeviceFacts,
    requests: &[SmRequest],
    count_groups: &GroupCount<'_>,
) -> Result<Vec<Plan>> {
    let requested = resolve(facts, requests)?;
    let capabilities = &facts.capabilities;
    let (unit, fine) = facts.unit();
    let mut plans = Vec::new();
    if capabilities.structured_split {
        let sizes = structured(facts, requests, &requested);
        if let Some(sizes) = &sizes {
            let units = count_groups(sizes.coscheduled, false)?;
            for units in (units.saturating_sub(MOST_UNITS_LOST)..=units).rev() {
                for plain_first in [true, false] {
                    let plan = in_units(facts, sizes, units, plain_first);
                    plans.extend(
                        plan.into_iter()
                            .filter(|plan| !plans.contains(plan))
                            .collect::<Vec<_>>(),
                    );
                }
            }
        }
        plans.extend(sizes);
    }
    if capabilities.merge {
        let strategy = if fine {
            SplitStrategy::MergedFineUnits
        } else {
            SplitStrategy::MergedUnits
        };
        plans.extend(merged(
            facts,
            requests,
            &requested,
            unit,
            strategy,
            count_groups,
        )?);
        if plans.is_empty() && unit > FINE_UNIT {
            let strategy = SplitStrategy::MergedFineUnits;
            plans.extend(merged(
                facts,
                requests,
                &requested,
                FINE_UNIT,
                strategy,
                count_groups,
            )?);
        }
    }
    plans.extend(equal(facts, requests, &requested, count_groups)?);
    if plans.is_empty() {
        return Err(Error::InsufficientSms {
            asked: requested.iter().sum(),
            available: facts.sm_count,
            stranded: 0,
            total: facts.sm_count,
        });
    }
    Ok(plans)
}

/// Each request in SMs, checked against the device.
pub(crate) fn resolve(facts: &DeviceFacts, requests: &[SmRequest]) -> Result<Vec<u32>> {
    let invalid = |value: String, reason| Error::InvalidArgument {
        name: "sm_count",
        value,
        reason,
    };
    if requests.is_empty() {
        return Err(invalid(
            "no request".into(),
            "a split needs at least one partition",
        ));
    }
    let total = facts.sm_count;
    let mut asked = 0u32;
    let mut rests = 0;
    for request in requests {
        match *request {
            SmRequest::Target(0) | SmRequest::AtLeast(0) => {
                return Err(invalid("0".into(), "a partition has at least one SM"));
            }
            SmRequest::Target(count) | SmRequest::AtLeast(count) => {
                asked = asked.saturating_add(count)
            }
            SmRequest::Rest => rests += 1,
        }
    }
    if rests > 1 {
        return Err(invalid(
            format!("{rests} times the rest"),
            "only one partition can have the rest",
        ));
    }
    if asked.saturating_add(rests) > total {
        return Err(Error::InsufficientSms {
            asked,
            available: total,
            stranded: 0,
            total,
        });
    }
    Ok(requests
        .iter()
        .map(|request| match *request {
            SmRequest::Target(count) | SmRequest::AtLeast(count) => count,
            SmRequest::Rest => total - asked,
        })
        .collect())
}

/// One structured split: every group has exactly its size, to a multiple of 2.
fn structured(facts: &DeviceFacts, requests: &[SmRequest], requested: &[u32]) -> Option<Plan> {
    let mut sizes: Vec<u32> = requests
        .iter()
        .map(|request| match *request {
            SmRequest::Target(count) => count.max(2) & !1,
            SmRequest::AtLeast(count) => count.next_multiple_of(2),
            SmRequest::Rest => 0,
        })
        .collect();
    let used: u32 = sizes.iter().sum();
    let left = facts.sm_count.checked_sub(used)?;
    let mut left_over = left;
    if let Some(rest) = requests
        .iter()
        .position(|request| *request == SmRequest::Rest)
    {
        sizes[rest] = left & !1;
        left_over = left & 1;
    }
    let smallest = *sizes.iter().min()?;
    if smallest < 2 {
        return None;
    }
    // A group must hold at least one set of co-scheduled SMs, so small ones lower it for all.
    let mut coscheduled = facts.capabilities.granularity.multiple.max(2);
    while coscheduled > smallest {
        coscheduled /= 2;
    }
    let groups = sizes
        .iter()
        .map(|&sm_count| Group {
            sm_count,
            coscheduled,
            backfill: true,
        })
        .collect();
    let partitions = sizes
        .iter()
        .zip(requested)
        .enumerate()
        .map(|(index, (&sm_count, &requested))| PlannedPartition {
            requested,
            sm_count,
            parts: vec![Part::Group(index)],
        })
        .collect();
    Some(Plan {
        strategy: SplitStrategy::Structured,
        call: SplitCall::Structured(groups),
        partitions,
        coscheduled,
        max_cluster: facts.max_cluster(coscheduled),
        left_over,
    })
}

/// The same sizes with each group in units: the last of them has what a unit does not divide. Groups of one
/// split merge where they are co-scheduled alike. There are at most so many units in all.
fn in_units(facts: &DeviceFacts, sizes: &Plan, most: u32, plain_first: bool) -> Option<Plan> {
    let unit = sizes.coscheduled;
    if unit < facts.capabilities.granularity.min {
        return None; // the sizes are too small for units of the device's own
    }
    let counts = sizes
        .partitions
        .iter()
        .map(|partition| partition.sm_count / unit);
    let mut units: Vec<u32> = counts.map(|count| count.max(1)).collect();
    for _ in most..units.iter().sum() {
        // The last of the largest can best do with a coarser piece: `max_by_key` gives the last.
        *units
            .iter_mut()
            .max_by_key(|units| **units)
            .filter(|units| **units > 1)? -= 1;
    }
    // The driver looks at the groups in order. One with something over may take whole units for it that
    // plain ones miss later; or plain ones leave no unit for it. Which order works depends on the chip.
    let mut groups = Vec::new();
    let mut parts = vec![Vec::new(); units.len()];
    for plain in [plain_first, !plain_first] {
        for ((partition, &units), parts) in sizes.partitions.iter().zip(&units).zip(&mut parts) {
            for group in units_of(partition.sm_count, units, unit)? {
                if group.backfill != plain {
                    parts.push(Part::Group(groups.len()));
                    groups.push(group);
                }
            }
        }
    }
    let with_parts = |(partition, parts): (&PlannedPartition, Vec<Part>)| PlannedPartition {
        parts,
        ..partition.clone()
    };
    Some(Plan {
        strategy: SplitStrategy::StructuredUnits,
        call: SplitCall::Structured(groups),
        partitions: sizes.partitions.iter().zip(parts).map(with_parts).collect(),
        ..sizes.clone()
    })
}

/// So many SMs in so many groups of a unit each; the last has what is over.
fn units_of(sm_count: u32, units: u32, unit: u32) -> Option<impl Iterator<Item = Group>> {
    let last = sm_count
        .checked_sub(units.checked_sub(1)? * unit)
        .filter(|last| *last >= unit)?;
    let group = move |sm_count| Group {
        sm_count,
        coscheduled: unit,
        backfill: sm_count != unit,
    };
    Some((1..units).map(move |_| group(unit)).chain([group(last)]))
}

/// Units of one split, merged; the remainder joins the partition that has the rest.
fn merged(
    facts: &DeviceFacts,
    requests: &[SmRequest],
    requested: &[u32],
    unit: u32,
    strategy: SplitStrategy,
    count_groups: &GroupCount<'_>,
) -> Result<Option<Plan>> {
    let fine = strategy == SplitStrategy::MergedFineUnits;
    let units = count_groups(unit, fine)?;
    let remainder = facts.sm_count.saturating_sub(units.saturating_mul(unit));
    let mut needs: Vec<u32> = requests
        .iter()
        .map(|request| match *request {
            SmRequest::Target(count) => (count / unit).max(1),
            SmRequest::AtLeast(count) => count.div_ceil(unit),
            SmRequest::Rest => 0,
        })
        .collect();
    let rest = requests
        .iter()
        .position(|request| *request == SmRequest::Rest);
    let mut has_remainder = rest;
    if rest.is_none() && needs.iter().sum::<u32>() > units {
        // The remainder saves units where it is part of a size; most where it is nearest to whole units.
        let with_remainder = |request: &SmRequest| match *request {
            SmRequest::AtLeast(count) => Some(count.saturating_sub(remainder).div_ceil(unit)),
            _ => None,
        };
        let saved =
            |index: &usize| with_remainder(&requests[*index]).map(|with| needs[*index] - with);
        has_remainder = (0..requests.len())
            .max_by_key(saved)
            .filter(|index| saved(index) > Some(0));
        if let Some((index, need)) =
            has_remainder.and_then(|index| Some((index, with_remainder(&requests[index])?)))
        {
            needs[index] = need;
        }
    }
    let Some(spare) = units.checked_sub(needs.iter().sum()) else {
        return Ok(None);
    };
    if let Some(index) = rest {
        if spare == 0 {
            return Ok(None);
        }
        needs[index] = spare;
    }
    let mut next = 0;
    let mut partitions = Vec::with_capacity(requests.len());
    for (index, (&need, &requested)) in needs.iter().zip(requested).enumerate() {
        let mut parts: Vec<Part> = (next..next + need)
            .map(|group| Part::Group(group as usize))
            .collect();
        next += need;
        let mut sm_count = need * unit;
        if has_remainder == Some(index) && remainder > 0 {
            parts.push(Part::Remainder);
            sm_count += remainder;
        }
        partitions.push(PlannedPartition {
            requested,
            sm_count,
            parts,
        });
    }
    let given: u32 = partitions.iter().map(|partition| partition.sm_count).sum();
    let left_over = facts.sm_count - given;
    Ok(Some(Plan {
        strategy,
        call: SplitCall::ByCount {
            groups: units,
            min_count: unit,
            fine,
        },
        partitions,
        coscheduled: unit,
        max_cluster: facts.max_cluster(unit),
        left_over,
    }))
}

/// Equal groups: every partition gets one of the same size, and the remainder is left over.
fn equal(
    facts: &DeviceFacts,
    requests: &[SmRequest],
    requested: &[u32],
    count_groups: &GroupCount<'_>,
) -> Result<Option<Plan>> {
    let granularity = facts.capabilities.granularity;
    let partitions = requests.len() as u32;
    let step = granularity.multiple.max(1);
    let at_least = requests.iter().filter_map(|request| match *request {
        SmRequest::AtLeast(count) => Some(count),
        _ => None,
    });
    // No group may be smaller than the largest demand, nor need it be larger than the smallest target.
    let floor = at_least
        .max()
        .unwrap_or(1)
        .max(granularity.min)
        .next_multiple_of(step)
        .min(facts.sm_count.max(1));
    let target = requests
        .iter()
        .zip(requested)
        .filter_map(|(request, &count)| match request {
            SmRequest::AtLeast(_) => None,
            _ => Some(count / step * step),
        });
    let mut size = target.min().unwrap_or(floor).max(floor);
    while size >= floor && size > 0 {
        if size <= facts.sm_count && count_groups(size, false)? >= partitions {
            let partitions = requested
                .iter()
                .enumerate()
                .map(|(index, &requested)| PlannedPartition {
                    requested,
                    sm_count: size,
                    parts: vec![Part::Group(index)],
                })
                .collect::<Vec<_>>();
            let left_over = facts.sm_count - size * partitions.len() as u32;
            return Ok(Some(Plan {
                strategy: SplitStrategy::EqualGroups,
                call: SplitCall::ByCount {
                    groups: partitions.len() as u32,
                    min_count: size,
                    fine: false,
                },
                partitions,
                coscheduled: granularity.multiple,
                max_cluster: facts.max_cluster(granularity.multiple),
                left_over,
            }));
        }
        size = size.saturating_sub(step);
    }
    Ok(None)
}

/// A part of the split in force, as far as handing it out depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) part: Part,
    pub(crate) sm_count: u32,
    pub(crate) free: bool,
}

/// The pieces for one more context of at least `asked` SMs: the fewest SMs that do.
///
/// Where pieces merge, that is a set of groups, with or without the remainder. The remainder by itself keeps
/// no clusters above 2 (measured on an H200), so it is given alone only when nothing else is enough. Where
/// pieces do not merge, it is one group.
pub(crate) fn choose(pieces: &[Piece], merge: bool, asked: u32) -> Option<Vec<usize>> {
    let free = |remainder: bool| {
        pieces
            .iter()
            .enumerate()
            .filter(move |(_, piece)| piece.free && (piece.part == Part::Remainder) == remainder)
            .map(|(index, piece)| (index, piece.sm_count))
    };
    if !merge {
        let enough = free(false).filter(|(_, sm_count)| *sm_count >= asked);
        return enough
            .min_by_key(|(_, sm_count)| *sm_count)
            .map(|(index, _)| vec![index]);
    }
    // Every sum that groups can make, each with its last group and the sum before that.
    let all: u32 = free(false).map(|(_, sm_count)| sm_count).sum();
    let mut sums: Vec<Option<(usize, u32)>> = vec![None; all as usize + 1];
    for (index, sm_count) in free(false) {
        for sum in (sm_count..=all).rev() {
            let before = sum - sm_count;
            if sums[sum as usize].is_none() && (before == 0 || sums[before as usize].is_some()) {
                sums[sum as usize] = Some((index, before));
            }
        }
    }
    let least = |asked: u32| (asked.max(1)..=all).find(|sum| sums[*sum as usize].is_some());
    let without = least(asked).map(|sum| (sum, sum, None));
    let with = free(true).next().and_then(|(index, sm_count)| {
        least(asked.saturating_sub(sm_count)).map(|sum| (sum + sm_count, sum, Some(index)))
    });
    let alone = free(true).find(|(_, sm_count)| *sm_count >= asked);
    let best = without
        .into_iter()
        .chain(with)
        .min_by_key(|(total, ..)| *total);
    let Some((_, mut sum, remainder)) = best else {
        return alone.map(|(index, _)| vec![index]);
    };
    let mut chosen: Vec<usize> = remainder.into_iter().collect();
    while let Some((index, before)) = sums[sum as usize] {
        chosen.push(index);
        sum = before;
    }
    chosen.sort_unstable();
    Some(chosen)
}

/// Units of the device's own size as one structured split (13.1), which gives what a count's remainder
/// would be to the last of them: there, units and a remainder no longer merge.
pub(crate) fn structured_units(facts: &DeviceFacts, units: u32) -> Option<Vec<Group>> {
    let unit = facts.capabilities.granularity.multiple.max(2);
    Some(units_of(facts.sm_count & !1, units, unit)?.collect())
}

/// SMs that one more context could get, and SMs that are free but can be given to none.
pub(crate) fn available(pieces: &[Piece], merge: bool) -> (u32, u32) {
    let free = || pieces.iter().filter(|piece| piece.free);
    let sum: u32 = free().map(|piece| piece.sm_count).sum();
    if merge {
        return (sum, 0);
    }
    let groups = || {
        free()
            .filter(|piece| piece.part != Part::Remainder)
            .map(|piece| piece.sm_count)
    };
    (groups().max().unwrap_or(0), sum - groups().sum::<u32>())
}

#[cfg(test)]
mod tests;
