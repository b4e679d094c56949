//! Whether a split can be at all: everything that can be known before the driver is asked.

use super::sm_split::{PerGroup, SmCount, SmSplit};
use crate::{
    capabilities::Granularity,
    error::{Error, Result},
    planner::without_runs,
};

/// What is split, as far as a split depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input {
    pub(super) total: u32,
    pub(super) granularity: Granularity,
    /// Whether there are thread-block clusters (compute capability 9.0), and so larger co-scheduling.
    pub(super) has_clusters: bool,
}

/// One group, with every value that was given for all or by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// 0: as many as there are.
    pub(super) sm_count: u32,
    pub(super) coscheduled: u32,
    /// Whether that was asked for, and is not only the default.
    pub(super) demands: bool,
    pub(super) preferred: u32,
    pub(super) backfill: bool,
}

/// The most SMs that can be co-scheduled (13.1 header).
fn most_coscheduled(input: &Input) -> u32 {
    if input.has_clusters { 32 } else { 2 }
}

/// Each group of the split, checked against what is split.
pub(super) fn check(input: &Input, split: &SmSplit) -> Result<Vec<Wanted>> {
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
    let wanted = counts
        .iter()
        .enumerate()
        .map(|(index, count)| {
            let demanded = coscheduled.as_ref().and_then(|values| values.get(index));
            let unit = demanded.unwrap_or(input.granularity.coscheduled.max(1));
            let preferred = preferred_coscheduled
                .as_ref()
                .and_then(|values| values.get(index));
            Ok(Wanted {
                sm_count: match count {
                    SmCount::Exactly(0) => {
                        return invalid(
                            "sm_count",
                            "0".into(),
                            "a group has at least one SM; `SmCount::All` finds out how many there are",
                        );
                    }
                    SmCount::Exactly(count) => *count,
                    SmCount::All => 0,
                },
                coscheduled: unit,
                demands: demanded.is_some(),
                preferred: preferred.unwrap_or(unit),
                backfill: backfill.get(index).unwrap_or(false),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    wanted
        .iter()
        .try_for_each(|group| check_group(input, group))?;
    let asked = wanted
        .iter()
        .fold(0u32, |sum, group| sum.saturating_add(group.sm_count));
    if asked > input.total {
        return Err(Error::UnmetSplit {
            groups: in_words(wanted.iter().map(|group| group.sm_count)),
            asked,
            available: input.total,
            total: input.total,
        });
    }
    Ok(wanted)
}

/// The sizes of groups as one text; 0 stands for as many as there are.
pub(super) fn in_words(counts: impl IntoIterator<Item = u32>) -> String {
    let counts = counts.into_iter().map(|count| match count {
        0 => "all".to_owned(),
        count => count.to_string(),
    });
    without_runs(counts).join(" + ")
}

fn check_group(input: &Input, group: &Wanted) -> Result<()> {
    let Wanted {
        sm_count,
        coscheduled,
        demands,
        preferred,
        backfill,
    } = *group;
    let most = most_coscheduled(input);
    for (name, value, given) in [
        ("coscheduled", coscheduled, demands),
        ("preferred_coscheduled", preferred, preferred != coscheduled),
    ] {
        let problem = if !given {
            continue;
        } else if value == 0 || value % 2 != 0 {
            "SMs are co-scheduled in even numbers"
        } else if value > most && input.has_clusters {
            "at most 32 SMs can be co-scheduled"
        } else if value > most {
            "before compute capability 9.0, 2 SMs are co-scheduled and never more"
        } else {
            continue;
        };
        return invalid(name, value.to_string(), problem);
    }
    if preferred % coscheduled != 0 {
        return invalid(
            "preferred_coscheduled",
            format!("{preferred} beside {coscheduled} co-scheduled"),
            "what is preferred is made of whole co-scheduled units, so it is a multiple of those",
        );
    }
    if sm_count == 0 {
        return Ok(());
    }
    if coscheduled > sm_count {
        return invalid(
            "sm_count",
            format!("{sm_count} with {coscheduled} co-scheduled"),
            "a group has at least one co-scheduled unit, backfill or not; lower `coscheduled`",
        );
    }
    if !backfill && sm_count % coscheduled != 0 {
        return invalid(
            "sm_count",
            format!("{sm_count} with {coscheduled} co-scheduled"),
            "without backfill a group is a multiple of what is co-scheduled",
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
