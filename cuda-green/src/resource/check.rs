//! The checks of a split that need no driver.

use super::sm_split::{PerGroup, SmCount, SmSplit};
use crate::{
    capabilities::Granularity,
    error::{Error, Result},
    planner::{Group, without_runs},
};

/// The SMs to be split, as far as a split depends on them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) total: u32,
    pub(super) granularity: Granularity,
    /// Whether the device has thread-block clusters (compute capability 9.0), and so larger co-scheduling.
    pub(super) has_clusters: bool,
}

/// Returns the most SMs that can be co-scheduled together (13.1 header).
fn most_coscheduled(input: &Input) -> u32 {
    if input.has_clusters { 32 } else { 2 }
}

/// Returns the groups of the split with all defaults filled in, checked against the SMs to be split.
pub(super) fn check(input: &Input, split: &SmSplit) -> Result<Vec<Group>> {
    let SmSplit {
        counts,
        coscheduled,
        preferred_coscheduled,
        backfill,
    } = split;
    if counts.is_empty() {
        return invalid("groups", "none".into(), "a split has at least one group");
    }
    let lengths = [
        ("coscheduled", coscheduled.as_ref().and_then(PerGroup::len)),
        (
            "preferred_coscheduled",
            preferred_coscheduled.as_ref().and_then(PerGroup::len),
        ),
        ("backfill", backfill.len()),
    ];
    for (name, length) in lengths {
        if let Some(length) = length.filter(|length| *length != counts.len()) {
            return invalid(
                name,
                format!("{length} values for {} groups", counts.len()),
                "give one value for all groups, or one for each",
            );
        }
    }
    let mut groups = Vec::with_capacity(counts.len());
    for (index, count) in counts.iter().enumerate() {
        let usual = input.granularity.coscheduled.max(1);
        let coscheduled = coscheduled.as_ref().and_then(|values| values.get(index));
        let coscheduled = coscheduled.unwrap_or(usual);
        let preferred = preferred_coscheduled
            .as_ref()
            .and_then(|values| values.get(index));
        groups.push(Group {
            preferred_coscheduled: preferred.unwrap_or(coscheduled),
            ..Group::new(
                match count {
                    SmCount::Exactly(0) => {
                        return invalid(
                            "sm_count",
                            "0".into(),
                            "a group has at least one SM; `SmCount::All` asks for as many as there are",
                        );
                    }
                    SmCount::Exactly(count) => *count,
                    SmCount::All => 0,
                },
                coscheduled,
                backfill.get(index).unwrap_or(false),
            )
        });
    }
    groups
        .iter()
        .try_for_each(|group| check_group(input, group, coscheduled.is_some()))?;
    let sizes: Vec<u32> = groups.iter().map(|group| group.sm_count).collect();
    let requested = sizes
        .iter()
        .fold(0u32, |sum, size| sum.saturating_add(*size));
    if requested > input.total {
        return Err(Error::UnmetSplit {
            groups: sizes_in_words(&sizes),
            asked: requested,
            available: input.total,
            total: input.total,
        });
    }
    Ok(groups)
}

/// Returns the sizes of groups as one text; 0 stands for as many SMs as there are.
pub(super) fn sizes_in_words(sizes: &[u32]) -> String {
    let sizes = sizes.iter().map(|size| match size {
        0 => "all".to_owned(),
        size => size.to_string(),
    });
    without_runs(sizes).join(" + ")
}

fn check_group(input: &Input, group: &Group, demands_coscheduling: bool) -> Result<()> {
    let Group {
        sm_count,
        coscheduled,
        preferred_coscheduled: preferred,
        backfill,
    } = *group;
    let most = most_coscheduled(input);
    for (name, value, given) in [
        ("coscheduled", coscheduled, demands_coscheduling),
        ("preferred_coscheduled", preferred, preferred != coscheduled),
    ] {
        let problem = if !given {
            continue;
        } else if value == 0 || value % 2 != 0 {
            "SMs are co-scheduled in even numbers"
        } else if value > most && input.has_clusters {
            "at most 32 SMs can be co-scheduled"
        } else if value > most {
            "before compute capability 9.0, no more than 2 SMs are co-scheduled"
        } else {
            continue;
        };
        return invalid(name, value.to_string(), problem);
    }
    if preferred % coscheduled != 0 {
        return invalid(
            "preferred_coscheduled",
            format!("{preferred} beside {coscheduled} co-scheduled"),
            "the preferred number is a multiple of `coscheduled`",
        );
    }
    if sm_count == 0 {
        return Ok(());
    }
    if coscheduled > sm_count {
        return invalid(
            "sm_count",
            format!("{sm_count} with {coscheduled} co-scheduled"),
            "a group has at least one co-scheduled unit, even with backfill; lower `coscheduled`",
        );
    }
    if !backfill && sm_count % coscheduled != 0 {
        return invalid(
            "sm_count",
            format!("{sm_count} with {coscheduled} co-scheduled"),
            "without backfill the size is a multiple of `coscheduled`",
        );
    }
    let step = input.granularity.coscheduled.clamp(1, 2);
    if sm_count % step != 0 {
        return invalid(
            "sm_count",
            sm_count.to_string(),
            "a group has an even number of SMs",
        );
    }
    Ok(())
}

fn invalid<T>(name: &'static str, value: String, reason: &'static str) -> Result<T> {
    Err(Error::InvalidArgument {
        name,
        value,
        reason,
    })
}
