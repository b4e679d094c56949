//! Other shares of one split: which units change hands, so that each name keeps or gets SMs and none swaps all of them.

use super::agreed_plan::{AgreedPartition, AgreedPlan};
use crate::{
    error::{Error, Result},
    planner::{Part, PartitionRequest, SmRequest, check_requests},
    sharing_error::SharingError,
};

/// The groups of a split, of which those of one size change hands.
struct Units {
    /// SMs of a group that can change hands.
    unit: u32,
    /// SMs of each group, in the split's order.
    groups: Vec<u32>,
    remainder: u32,
}

/// What a name has, and what it is to have.
struct Share {
    /// Units that it has, in the plan's order.
    units: Vec<Part>,
    /// Other parts, which stay with it: the remainder, and groups that are larger.
    fixed: Vec<Part>,
    fixed_sms: u32,
    /// Units that it must have.
    least: u32,
    /// Units that it is to have.
    wanted: u32,
    /// Whether it can have more: a remainder alone stays alone, as not every driver merges it.
    grows: bool,
}

/// Returns the plan in which some names have other shares. Those that have a share or the rest get what that leaves, and
/// all others keep what they have. The split stays, so units of it change hands; each name keeps one at least.
pub(super) fn change(plan: &AgreedPlan, wanted: &[(String, SmRequest)]) -> Result<AgreedPlan> {
    let mut next = plan.clone();
    for (at, (name, request)) in wanted.iter().enumerate() {
        let index = plan.position(name)?;
        if wanted.iter().take(at).any(|(other, _)| other == name) {
            return Err(SharingError::Name {
                name: name.clone(),
                reason: "the change names it twice",
            }
            .into());
        }
        if let Some(partition) = next.partitions.get_mut(index) {
            partition.share = *request;
        }
    }
    if next.partitions.iter().filter(|one| is_rest(one)).count() > 1 {
        return Err(Error::InvalidArgument {
            name: "shares",
            value: in_words(&next),
            reason: "two names would have the rest; give one of them a number",
        });
    }
    let requests = next.partitions.iter().map(|one| PartitionRequest {
        sms: one.share,
        ..one.request
    });
    check_requests(&requests.collect::<Vec<_>>())?;
    let units = Units::of(plan).ok_or(SharingError::FixedShares)?;
    let is_set =
        |partition: &AgreedPartition| wanted.iter().any(|(name, _)| *name == partition.name);
    let mut shares: Vec<Share> = next
        .partitions
        .iter()
        .map(|partition| units.share(partition, is_set(partition), plan.key.sm_count))
        .collect();
    for (partition, share) in next.partitions.iter().zip(&shares) {
        let asked = match partition.share {
            SmRequest::AtLeast(sms) => sms,
            SmRequest::Share { at_least, .. } => at_least,
            _ => 0,
        };
        if !share.grows && asked > share.fixed_sms && is_set(partition) {
            return Err(SharingError::FixedShares.into());
        }
    }
    let owned: usize = shares.iter().map(|share| share.units.len()).sum();
    let free = units.free(plan);
    let all = (owned + free.len()) as u32;
    let asked: u64 = shares.iter().map(|share| u64::from(share.wanted)).sum();
    let Some(left) = u64::from(all).checked_sub(asked) else {
        let fixed: u32 = shares.iter().map(|share| share.fixed_sms).sum();
        let sms = asked.saturating_mul(u64::from(units.unit)) + u64::from(fixed);
        return Err(Error::InsufficientSms {
            requests: in_words(&next),
            asked: u32::try_from(sms).unwrap_or(u32::MAX),
            available: all * units.unit + fixed,
            stranded: 0,
            total: plan.key.sm_count,
        });
    };
    divide(&next, &mut shares, left as u32);
    hand_over(&mut shares, free);
    for (partition, share) in next.partitions.iter_mut().zip(shares) {
        partition.set(&units, share)?;
    }
    Ok(next)
}

impl Units {
    /// Returns the groups of a split that merge; none where they do not.
    fn of(plan: &AgreedPlan) -> Option<Self> {
        let groups = plan.call.sizes();
        let unit = groups.iter().copied().min().filter(|unit| *unit > 0)?;
        let all: u64 = groups.iter().map(|size| u64::from(*size)).sum();
        let remainder = u64::from(plan.key.sm_count).checked_sub(all)?;
        let units = Self {
            unit,
            groups,
            remainder: u32::try_from(remainder).ok()?,
        };
        // The driver may have made other groups than it was asked for.
        let is_as_asked = plan.partitions.iter().all(|partition| {
            let parts = &partition.planned.parts;
            units.sm_count(parts) == partition.planned.sm_count
        });
        (plan.strategy.merges() && is_as_asked).then_some(units)
    }

    fn size(&self, part: &Part) -> u32 {
        match part {
            Part::Group(index) => self.groups.get(*index).copied().unwrap_or_default(),
            Part::Remainder => self.remainder,
        }
    }

    fn sm_count(&self, parts: &[Part]) -> u32 {
        parts.iter().map(|part| self.size(part)).sum()
    }

    fn is_unit(&self, part: &Part) -> bool {
        matches!(part, Part::Group(_)) && self.size(part) == self.unit
    }

    /// Returns the units that no name has.
    fn free(&self, plan: &AgreedPlan) -> Vec<Part> {
        let has = |part: &Part| {
            plan.partitions
                .iter()
                .any(|one| one.planned.parts.contains(part))
        };
        let groups = (0..self.groups.len()).map(Part::Group);
        groups
            .filter(|part| self.is_unit(part) && !has(part))
            .collect()
    }

    fn share(&self, partition: &AgreedPartition, is_set: bool, all_sms: u32) -> Share {
        let parts = partition.planned.parts.iter().copied();
        let (units, fixed): (Vec<Part>, Vec<Part>) = parts.partition(|part| self.is_unit(part));
        let fixed_sms = self.sm_count(&fixed);
        let has_fixed_group = fixed.iter().any(|part| matches!(part, Part::Group(_)));
        // One group stays, which keeps clusters; a remainder alone has none.
        let least = u32::from(!units.is_empty() && !has_fixed_group);
        let at_least = |sms: u32| sms.saturating_sub(fixed_sms).div_ceil(self.unit).max(least);
        let up_to = |sms: u32| (sms.saturating_sub(fixed_sms) / self.unit).max(least);
        let grows = !units.is_empty() || has_fixed_group;
        let wanted = match partition.share {
            _ if !grows => 0,
            SmRequest::Share { at_least: sms, .. } => at_least(sms),
            SmRequest::Rest => least,
            _ if !is_set => units.len() as u32,
            SmRequest::AtLeast(sms) => at_least(sms),
            SmRequest::Target(sms) => up_to(sms),
            SmRequest::Percent(percent) => {
                let sms = u64::from(all_sms) * u64::from(percent.min(100)) / 100;
                up_to(sms as u32)
            }
        };
        Share {
            units,
            fixed,
            fixed_sms,
            least,
            wanted,
            grows,
        }
    }
}

impl AgreedPartition {
    /// Gives it these parts.
    fn set(&mut self, units: &Units, share: Share) -> Result<()> {
        let mut parts = [share.units, share.fixed].concat();
        parts.sort_unstable();
        let planned = &mut self.planned;
        planned.sm_count = units.sm_count(&parts);
        planned.parts = parts;
        planned.requested = match self.share {
            SmRequest::AtLeast(sms) | SmRequest::Target(sms) => sms,
            _ => planned.sm_count,
        };
        let asked = match self.share {
            SmRequest::AtLeast(sms) | SmRequest::Target(sms) => Some(sms),
            _ => None,
        };
        if self.request.exact && asked.is_some_and(|sms| sms != planned.sm_count) {
            return Err(Error::InvalidArgument {
                name: "shares",
                value: format!("{} for {:?}", self.share, self.name),
                reason: "the name was to have its size exactly, and the units of the split do not make it",
            });
        }
        Ok(())
    }
}

/// Divides what is left among names with weights, and gives the others' rounding to the one with the rest.
fn divide(plan: &AgreedPlan, shares: &mut [Share], left: u32) {
    let weight = |partition: &AgreedPartition, share: &Share| match partition.share {
        SmRequest::Share { weight, .. } if share.grows => u64::from(weight),
        _ => 0,
    };
    let each = plan.partitions.iter().zip(shares.iter());
    let all: u64 = each
        .map(|(partition, share)| weight(partition, share))
        .sum();
    let mut spare = left;
    for (partition, share) in plan.partitions.iter().zip(shares.iter_mut()) {
        let part = (u64::from(left) * weight(partition, share)).checked_div(all);
        let part = part.and_then(|part| u32::try_from(part).ok());
        let part = part.unwrap_or_default().min(spare);
        share.wanted += part;
        spare -= part;
    }
    let rest = plan.partitions.iter().position(is_rest);
    let rest = rest.and_then(|rest| shares.get_mut(rest));
    if let Some(share) = rest.filter(|share| share.grows) {
        share.wanted += spare;
    }
}

/// Moves units from names that have too many to those that have too few: nobody loses one and gets another.
fn hand_over(shares: &mut [Share], mut free: Vec<Part>) {
    for share in shares.iter_mut() {
        let keep = share
            .units
            .len()
            .min(share.wanted.max(share.least) as usize);
        free.extend(share.units.split_off(keep));
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    for share in shares {
        let missing = (share.wanted as usize).saturating_sub(share.units.len());
        share.units.extend(free.by_ref().take(missing));
    }
}

fn is_rest(partition: &AgreedPartition) -> bool {
    partition.share == SmRequest::Rest
}

fn in_words(plan: &AgreedPlan) -> String {
    let names = plan.partitions.iter();
    let names = names.map(|one| format!("{} ({})", one.share, one.name));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        capabilities::Capabilities,
        planner::{DeviceFacts, PartitionRequest, plans},
        sharing::{agreed_plan::PlanKey, plan_text::tests::example},
    };

    fn set(plan: &AgreedPlan, wanted: &[(&str, SmRequest)]) -> Result<AgreedPlan> {
        let wanted: Vec<(String, SmRequest)> = wanted
            .iter()
            .map(|(name, request)| ((*name).to_owned(), *request))
            .collect();
        change(plan, &wanted)
    }

    fn sizes(plan: &AgreedPlan) -> Vec<u32> {
        let partitions = plan.partitions.iter();
        partitions.map(|one| one.planned.sm_count).collect()
    }

    #[test]
    fn the_rest_gives_and_takes_what_others_are_set_to() {
        let plan = example(); // 8 units, and 8 with the remainder of 4
        let more = set(&plan, &[("serving", SmRequest::AtLeast(90))]).unwrap();
        assert_eq!(sizes(&more), [96, 36]);
        assert_eq!(more.check(), Ok(()));
        let less = set(&more, &[("serving", SmRequest::Target(30))]).unwrap();
        assert_eq!(sizes(&less), [24, 108]);
        // The smallest share is one unit.
        let least = set(&plan, &[("serving", SmRequest::Target(1))]).unwrap();
        assert_eq!(sizes(&least), [8, 124]);
        let most = set(&plan, &[("serving", SmRequest::AtLeast(120))]).unwrap();
        assert_eq!(sizes(&most), [120, 12]);
        let half = set(&plan, &[("serving", SmRequest::Percent(50))]).unwrap();
        assert_eq!(sizes(&half), [64, 68]);
        // What was set stays set.
        let other = set(&more, &[("everything else", SmRequest::AtLeast(30))]).unwrap();
        assert_eq!(sizes(&other), [96, 36]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let plan = example();
        let too_many = set(&plan, &[("serving", SmRequest::AtLeast(121))]);
        let too_many = too_many.unwrap_err();
        assert!(matches!(
            too_many,
            Error::InsufficientSms { available: 132, .. }
        ));
        assert!(too_many.to_string().contains("121 (serving)"), "{too_many}");
        let unknown = set(&plan, &[("x", SmRequest::AtLeast(8))]);
        assert!(matches!(
            unknown,
            Err(Error::Sharing(SharingError::NoSuchName { .. }))
        ));
        let twice = [("serving", SmRequest::Rest), ("serving", SmRequest::Rest)];
        assert!(set(&plan, &twice).is_err());
        // As a list of partitions is.
        let share = |at_least, weight| SmRequest::Share { at_least, weight };
        for cannot_be in [
            SmRequest::Rest, // the other name has it
            share(16, 2),
            share(16, 0),
            SmRequest::AtLeast(0),
            SmRequest::Target(0),
            SmRequest::Percent(0),
            SmRequest::Percent(150),
        ] {
            let refused = set(&plan, &[("serving", cannot_be)]);
            assert!(
                matches!(refused, Err(Error::InvalidArgument { .. })),
                "{cannot_be}: {refused:?}"
            );
        }
        let mut exact = plan.clone();
        exact.partitions[0].request.exact = true;
        assert!(set(&exact, &[("serving", SmRequest::AtLeast(60))]).is_err());
        assert!(set(&exact, &[("serving", SmRequest::AtLeast(72))]).is_ok());
        let mut fixed = plan;
        fixed.strategy = crate::planner::SplitStrategy::EqualGroups;
        let refused = set(&fixed, &[("serving", SmRequest::AtLeast(72))]);
        assert!(matches!(
            refused,
            Err(Error::Sharing(SharingError::FixedShares))
        ));
    }

    fn request() -> impl Strategy<Value = SmRequest> {
        prop_oneof![
            (0..140_u32).prop_map(SmRequest::AtLeast),
            (0..140_u32).prop_map(SmRequest::Target),
            (0..110_u32).prop_map(SmRequest::Percent),
            (0..40_u32, 0..5_u32)
                .prop_map(|(at_least, weight)| SmRequest::Share { at_least, weight }),
            Just(SmRequest::Rest),
        ]
    }

    proptest! {
        /// Each change makes a plan that can be written, of which nobody swaps SMs, and which has what was asked for.
        #[test]
        fn changes_keep_the_split_and_swap_nothing(
            first in prop::collection::vec(1..40_u32, 1..5),
            changes in prop::collection::vec((0..5_usize, request()), 1..6),
            structured in any::<bool>(),
        ) {
            let version = if structured { (13, 1) } else { (13, 0) };
            let version = cuda_green_sys::CudaVersion::new(version.0, version.1);
            let facts = DeviceFacts::new(132, (9, 0), Capabilities::of(version, (9, 0), None));
            let requests: Vec<PartitionRequest> =
                first.iter().map(|sms| PartitionRequest::at_least(*sms)).collect();
            let count = |sms: u32, _| Ok(132 / sms);
            let Ok(found) = plans(&facts, &requests, &count) else {
                return Ok(());
            };
            let Some(found) = found.into_iter().next() else {
                return Ok(());
            };
            let key = PlanKey { ..example().key };
            let named: Vec<(String, PartitionRequest)> = requests
                .iter()
                .enumerate()
                .map(|(index, request)| (format!("n{index}"), *request))
                .collect();
            let mut plan = AgreedPlan::of(&key, &named, found);
            for (name, request) in changes {
                let wanted = [(format!("n{name}"), request)];
                let Ok(next) = change(&plan, &wanted) else {
                    continue;
                };
                prop_assert_eq!(next.check(), Ok(()));
                prop_assert!(next.has_the_split_of(&plan));
                for (index, one) in next.partitions.iter().enumerate() {
                    let (old, new) = (plan.parts(index), next.parts(index));
                    let keeps = old.iter().all(|part| new.contains(part))
                        || new.iter().all(|part| old.contains(part));
                    prop_assert!(keeps, "{old:?} {new:?}");
                    if index == name && let SmRequest::AtLeast(sms) = request {
                        prop_assert!(one.planned.sm_count >= sms);
                    }
                }
                plan = next;
            }
        }
    }
}
