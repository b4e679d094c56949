//! Plans of merged units (12.5): every partition is some units of one split by count.

use super::{
    Demands, DeviceFacts, GroupCount, Part, Plan, PlannedPartition, SmRequest, SplitCall,
    SplitStrategy,
};
use crate::Result;

/// Units of one split, merged; the remainder joins the partition that has the rest, or one that saves units
/// by it.
pub(super) fn plan(
    facts: &DeviceFacts,
    demands: &Demands,
    unit: u32,
    fine: bool,
    count_groups: &GroupCount<'_>,
) -> Result<Option<Plan>> {
    let units = count_groups(unit, fine)?;
    let remainder = facts.sm_count.saturating_sub(units.saturating_mul(unit));
    let Some(shares) = shares(facts, demands, unit, units, remainder) else {
        return Ok(None);
    };
    let mut next = 0;
    let partitions: Vec<PlannedPartition> = shares
        .iter()
        .zip(&demands.requested)
        .map(|(share, &requested)| {
            let groups = (next..next + share.units).map(|group| Part::Group(group as usize));
            next += share.units;
            let with = share.has_remainder.then_some(Part::Remainder);
            let coscheduled = if share.units > 0 {
                unit
            } else {
                facts.coscheduled_left_over()
            };
            PlannedPartition {
                requested,
                sm_count: share.units * unit + if share.has_remainder { remainder } else { 0 },
                parts: groups.chain(with).collect(),
                coscheduled,
                max_cluster: facts.max_cluster(coscheduled),
            }
        })
        .collect();
    let strategy = if fine {
        SplitStrategy::MergedFineUnits
    } else {
        SplitStrategy::MergedUnits
    };
    let call = SplitCall::ByCount {
        groups: units,
        min_count: unit,
        fine,
    };
    Ok(Some(Plan::new(facts, strategy, call, partitions)))
}

/// What one partition gets.
#[derive(Clone, Copy, Default)]
struct Share {
    units: u32,
    has_remainder: bool,
}

fn shares(
    facts: &DeviceFacts,
    demands: &Demands,
    unit: u32,
    units: u32,
    remainder: u32,
) -> Option<Vec<Share>> {
    let joins = facts.remainder_joins();
    // The rest may be the remainder alone, or have it beside units where it joins them.
    let rest_least = demands.rest_least();
    let without_units = if joins || remainder >= rest_least {
        remainder
    } else {
        0
    };
    let of_rest = rest_least.saturating_sub(without_units).div_ceil(unit);
    let room = units.saturating_sub(of_rest) * unit;
    let sizes = demands.sizes(unit, unit, room)?;
    let mut shares: Vec<Share> = sizes
        .iter()
        .enumerate()
        .map(|(index, size)| Share {
            units: if demands.rest == Some(index) {
                0
            } else {
                size / unit
            },
            has_remainder: false,
        })
        .collect();
    let needed = |shares: &[Share]| shares.iter().map(|share| share.units).sum::<u32>();
    if let Some(rest) = demands.rest {
        let spare = units.checked_sub(needed(&shares))?;
        let has_remainder = remainder > 0 && (joins || spare == 0);
        let given = spare * unit + if has_remainder { remainder } else { 0 };
        if given < rest_least.max(1) {
            return None;
        }
        *shares.get_mut(rest)? = Share {
            units: spare,
            has_remainder,
        };
    } else if needed(&shares) > units {
        make_room(facts, demands, unit, units, remainder, &mut shares)?;
    }
    Some(shares)
}

/// Makes sizes fit whose whole units are too many: one has the remainder in place of units, then targets are
/// lowered, the largest first.
fn make_room(
    facts: &DeviceFacts,
    demands: &Demands,
    unit: u32,
    units: u32,
    remainder: u32,
    shares: &mut [Share],
) -> Option<()> {
    let joins = facts.remainder_joins();
    // At least one unit where a cluster is demanded that the remainder does not keep.
    let with_remainder = |index: usize, units: u32| {
        let request = demands.list.get(index)?;
        let SmRequest::AtLeast(count) = request.sms else {
            return None;
        };
        let least = u32::from(request.cluster > facts.coscheduled_left_over());
        let with = count.saturating_sub(remainder).div_ceil(unit).max(least);
        units
            .checked_sub(with)
            .filter(|saved| *saved > 0 && (joins || with == 0))
    };
    // It saves most where it is nearest to whole units.
    let saving = shares.iter_mut().enumerate().filter_map(|(index, share)| {
        let saved = with_remainder(index, share.units)?;
        Some((saved, share))
    });
    let mut has_remainder = None;
    if let Some((saved, share)) = saving
        .max_by_key(|(saved, _)| *saved)
        .filter(|_| remainder > 0)
    {
        share.units -= saved;
        share.has_remainder = true;
        has_remainder = Some(());
    }
    let target = |index: usize| match demands.list.get(index)?.sms {
        SmRequest::Target(_) | SmRequest::Percent(_) => demands.requested.get(index).copied(),
        _ => None,
    };
    while shares.iter().map(|share| share.units).sum::<u32>() > units {
        let targets = shares.iter_mut().enumerate();
        let (_, largest) = targets
            .filter(|(index, share)| target(*index).is_some() && share.units > 1)
            .max_by_key(|(_, share)| share.units)?;
        largest.units -= 1;
    }
    if has_remainder.is_none() && joins {
        let fits = |(index, share): &(usize, &mut Share)| {
            target(*index).is_some_and(|most| share.units * unit + remainder <= most)
        };
        if let Some((_, share)) = shares.iter_mut().enumerate().find(fits) {
            share.has_remainder = remainder > 0;
        }
    }
    Some(())
}
