//! The text of a plan: one line for each field, in one order, and a check over all of them.
//!
//! The format is this crate's own and not JSON, as every program with this crate would otherwise build a JSON parser for
//! thirty lines of numbers. It is strict: what is read must be, byte for byte, what this version writes.

use super::{
    agreed_plan::{AgreedPartition, AgreedPlan, PlanKey},
    shared_device::DeviceUuid,
};
use crate::planner::{
    Group, Part, PartitionRequest, PlannedPartition, SmRequest, SplitCall, SplitFlag, SplitStrategy,
};

/// The most bytes of a file.
pub(super) const LONGEST: u64 = 64 << 10;

const FIRST_WORDS: &str = "cuda-green plan ";
const VERSION: &str = "1";

const STRATEGIES: [(SplitStrategy, &str); 6] = [
    (SplitStrategy::StructuredUnits, "structured-units"),
    (SplitStrategy::Structured, "structured"),
    (SplitStrategy::MergedUnits, "merged-units"),
    (SplitStrategy::MergedFineUnits, "merged-fine-units"),
    (SplitStrategy::EqualGroups, "equal-groups"),
    (SplitStrategy::Nested, "nested"),
];
const FLAGS: [(SplitFlag, &str); 3] = [
    (SplitFlag::None, "none"),
    (SplitFlag::IgnoreCoscheduling, "ignore-coscheduling"),
    (SplitFlag::MaxClusterSize, "max-cluster-size"),
];

/// Writes a plan.
pub(super) fn write(plan: &AgreedPlan) -> String {
    let key = &plan.key;
    let device = DeviceUuid(key.device).digits();
    let server = match key.server {
        None => "none".to_owned(),
        Some((device, inode)) => format!("{device}:{inode}"),
    };
    let split = match &plan.call {
        SplitCall::ByCount {
            groups,
            sm_count,
            flag,
        } => format!("count {groups} {sm_count} {}", word(&FLAGS, *flag)),
        SplitCall::Structured(groups) => {
            let groups = groups.iter().map(|group| {
                format!(
                    " {}:{}:{}:{}",
                    group.sm_count,
                    group.coscheduled,
                    group.preferred_coscheduled,
                    u32::from(group.backfill)
                )
            });
            format!("structured{}", groups.collect::<String>())
        }
    };
    let nested: String = plan.nested.iter().map(|size| format!(" {size}")).collect();
    let partitions: String = plan.partitions.iter().map(partition_line).collect();
    let body = format!(
        "{FIRST_WORDS}{VERSION}\ngeneration {}\ndevice {device}\nserver {server}\nsms {}\ndriver {}\nboot {}\n\
         strategy {}\nsplit {split}\nnested{nested}\n{partitions}",
        plan.generation,
        key.sm_count,
        key.driver,
        key.boot,
        word(&STRATEGIES, plan.strategy),
    );
    let check = check_of(body.as_bytes());
    format!("{body}end {check:016x}\n")
}

fn partition_line(partition: &AgreedPartition) -> String {
    let AgreedPartition {
        name,
        request,
        share,
        planned,
    } = partition;
    let (sms, share) = (request_word(request.sms), request_word(*share));
    let parts = planned.parts.iter().map(|part| match part {
        Part::Group(index) => index.to_string(),
        Part::Remainder => "r".to_owned(),
    });
    format!(
        "partition {sms} {} {} {share} {} {} {} {} {} {name}\n",
        request.cluster,
        u32::from(request.exact),
        planned.requested,
        planned.sm_count,
        planned.coscheduled,
        planned.max_cluster,
        parts.collect::<Vec<_>>().join(","),
    )
}

fn request_word(request: SmRequest) -> String {
    match request {
        SmRequest::AtLeast(count) => format!("at-least:{count}"),
        SmRequest::Target(count) => format!("target:{count}"),
        SmRequest::Percent(percent) => format!("percent:{percent}"),
        SmRequest::Share { at_least, weight } => format!("share:{at_least}:{weight}"),
        SmRequest::Rest => "rest".to_owned(),
    }
}

/// Reads a plan.
///
/// # Errors
/// The reason in words, for whatever this version would not have written.
pub(crate) fn read(bytes: &[u8]) -> Result<AgreedPlan, &'static str> {
    if bytes.len() as u64 > LONGEST {
        return Err("it is longer than any plan");
    }
    let text = str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let version = text
        .strip_prefix(FIRST_WORDS)
        .ok_or("it is no plan of cuda-green")?;
    match version.split('\n').next() {
        Some(VERSION) => {}
        _ => {
            return Err("another version of cuda-green wrote it; use one version in all processes");
        }
    }
    let plan = fields(text).ok_or("it is damaged")?;
    // One text for each plan: no other order, no other spelling of a number, no wrong check, nothing behind.
    if write(&plan) != text {
        return Err("it is damaged");
    }
    plan.check()?;
    Ok(plan)
}

/// Reads the fields of a text; spellings that are not those of [`write`] are found by writing it again.
fn fields(text: &str) -> Option<AgreedPlan> {
    let mut lines = text.lines();
    let mut field = |name: &str| -> Option<&str> {
        let rest = lines.next()?.strip_prefix(name)?;
        Some(rest.strip_prefix(' ').unwrap_or(rest))
    };
    field(FIRST_WORDS.trim_end())?;
    let generation = field("generation")?.parse().ok()?;
    let device = uuid(field("device")?)?;
    let server = match field("server")? {
        "none" => None,
        pipes => {
            let (device, inode) = pipes.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        }
    };
    let key = PlanKey {
        device,
        server,
        sm_count: field("sms")?.parse().ok()?,
        driver: field("driver")?.parse().ok()?,
        boot: field("boot")?.to_owned(),
    };
    let strategy = value(&STRATEGIES, field("strategy")?)?;
    let call = split(field("split")?)?;
    let nested = numbers(field("nested")?)?;
    let mut partitions = Vec::new();
    for line in lines {
        match line.strip_prefix("partition ") {
            Some(partition) => partitions.push(read_partition(partition)?),
            None => {
                return line.starts_with("end ").then_some(AgreedPlan {
                    generation,
                    key,
                    strategy,
                    call,
                    nested,
                    partitions,
                });
            }
        }
    }
    None
}

fn read_partition(line: &str) -> Option<AgreedPartition> {
    let mut words = line.splitn(10, ' ');
    let sms = words.next()?;
    let mut number = || words.next()?.parse::<u32>().ok();
    let (cluster, exact) = (number()?, number()?);
    let share = words.next()?;
    let mut number = || words.next()?.parse::<u32>().ok();
    let (requested, sm_count) = (number()?, number()?);
    let (coscheduled, max_cluster) = (number()?, number()?);
    let parts = words.next()?.split(',').map(|part| match part {
        "r" => Some(Part::Remainder),
        index => Some(Part::Group(index.parse().ok()?)),
    });
    let parts = parts.collect::<Option<Vec<_>>>()?;
    Some(AgreedPartition {
        name: words.next()?.to_owned(),
        request: PartitionRequest {
            sms: request(sms)?,
            cluster,
            exact: flag(exact)?,
        },
        share: request(share)?,
        planned: PlannedPartition {
            requested,
            sm_count,
            parts,
            coscheduled,
            max_cluster,
        },
    })
}

fn request(word: &str) -> Option<SmRequest> {
    let (kind, value) = word.split_once(':').unwrap_or((word, ""));
    Some(match kind {
        "at-least" => SmRequest::AtLeast(value.parse().ok()?),
        "target" => SmRequest::Target(value.parse().ok()?),
        "percent" => SmRequest::Percent(value.parse().ok()?),
        "share" => {
            let (at_least, weight) = value.split_once(':')?;
            SmRequest::Share {
                at_least: at_least.parse().ok()?,
                weight: weight.parse().ok()?,
            }
        }
        "rest" => SmRequest::Rest,
        _ => return None,
    })
}

fn split(line: &str) -> Option<SplitCall> {
    let (kind, rest) = line.split_once(' ')?;
    match kind {
        "count" => {
            let mut words = rest.split(' ');
            Some(SplitCall::ByCount {
                groups: words.next()?.parse().ok()?,
                sm_count: words.next()?.parse().ok()?,
                flag: value(&FLAGS, words.next()?)?,
            })
        }
        "structured" => {
            let groups = rest.split(' ').map(|group| {
                let mut numbers = group.split(':').map(|word| word.parse::<u32>().ok());
                let mut number = || numbers.next().flatten();
                Some(Group {
                    sm_count: number()?,
                    coscheduled: number()?,
                    preferred_coscheduled: number()?,
                    backfill: flag(number()?)?,
                })
            });
            Some(SplitCall::Structured(groups.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn numbers(line: &str) -> Option<Vec<u32>> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    words.map(|word| word.parse().ok()).collect()
}

fn flag(number: u32) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn uuid(word: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if !word.is_ascii() || word.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(word.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn word<T: PartialEq>(table: &[(T, &'static str)], value: T) -> &'static str {
    let found = table.iter().find(|(one, _)| *one == value);
    found.map_or("", |(_, word)| word)
}

fn value<T: Copy>(table: &[(T, &'static str)], word: &str) -> Option<T> {
    let found = table.iter().find(|(_, one)| *one == word);
    found.map(|(value, _)| *value)
}

/// Returns the check of some bytes (FNV-1a), which finds damage; it keeps no one out.
pub(super) fn check_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
#[path = "plan_text_tests.rs"]
pub(super) mod tests;
