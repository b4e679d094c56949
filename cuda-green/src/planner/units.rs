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
    let sizes = demands.sizes(unit, unit)?;
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
    let joins = facts.remainder_joins();
    let needed = |shares: &[Share]| shares.iter().map(|share| share.units).sum::<u32>();
    if let Some(rest) = demands.rest {
        let spare = units.checked_sub(needed(&shares))?;
        let has_remainder = remainder > 0 && (joins || spare == 0);
        let given = spare * unit + if has_remainder { remainder } else { 0 };
        if given < demands.rest_least().max(1) {
            return None;
        }
        *shares.get_mut(rest)? = Share {
            units: spare,
            has_remainder,
        };
    } else if needed(&shares) > units {
        // The remainder saves units where it is part of a size; most where it is nearest to whole units.
        // With it goes at least one unit where a cluster is demanded, or where it can go with none.
        let with_remainder = |index: usize| {
            let request = demands.list.get(index)?;
            let SmRequest::AtLeast(count) = request.sms else {
                return None;
            };
            let least = u32::from(request.cluster > facts.coscheduled_left_over());
            let with = count.saturating_sub(remainder).div_ceil(unit).max(least);
            (joins || with == 0).then_some(with)
        };
        let (saved, index) = (0..shares.len())
            .filter_map(|index| {
                let with = with_remainder(index)?;
                Some((shares.get(index)?.units.checked_sub(with)?, index))
            })
            .max_by_key(|(saved, _)| *saved)?;
        let share = shares.get_mut(index)?;
        share.units -= saved;
        share.has_remainder = true;
        if saved == 0 || remainder == 0 || needed(&shares) > units {
            return None;
        }
    }
    Some(shares)
}
