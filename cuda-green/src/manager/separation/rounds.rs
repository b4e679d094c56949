//! The rounds of the test, as both processes do them.

use std::{
    env,
    io::{BufRead, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::super::{
    layout::Layout, partition_manager::SmPartitionManager, shared_plan::SharedPlan,
    state::ManagerState,
};
use crate::{
    device::{Claim, CudaDevice},
    driver::Driver,
    error::{Error, Result},
    partition::{GreenContext, GreenContextConfig},
    probe::Residency,
    resource::SmResource,
    sharing::{
        AgreedPlan, NO_PARTNER, Partner, PartnerProgram, Separation, WITHOUT_MPS, keep, kept_for,
        read_plan,
    },
    sharing_error::SharingError,
};

/// The program that is the second process, where the plan names none.
const VARIABLE: &str = "CUDA_GREEN_TESTER";
/// Its argument.
const ARGUMENT: &str = "separation-partner";
/// How long blocks stay: longer each time where they were not resident at once, as the two hosts may have been slow.
const STAYS: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];
/// How long all blocks must have been resident at the least.
const TOGETHER: Duration = Duration::from_millis(1);
/// The most bytes of a line, and of a plan.
const LONGEST: u64 = 64 << 10;

/// Keeps a result beside the plan. Where that fails, the plan counts as not tested, and works.
pub(in crate::manager) fn keep_tested(folder: &Path, plan: &AgreedPlan, result: &Separation) {
    if let Separation::Failed { .. } = result {
        log::error!("{result}");
    }
    if let Err(error) = keep(folder, plan, result) {
        log::warn!("the result of the test of a plan's partitions is not kept: {error}");
    }
}

/// Returns for each round which groups the first process fills; the second fills the others.
fn rounds(groups: usize) -> Vec<Vec<bool>> {
    let bits = usize::BITS - groups.saturating_sub(1).leading_zeros();
    let has =
        |bit: u32, value: bool| (0..groups).map(move |index| (index >> bit & 1 == 1) == value);
    (0..bits)
        .flat_map(|bit| [has(bit, false).collect(), has(bit, true).collect()])
        .collect()
}

impl ManagerState<String> {
    /// Tests whether the groups of a plan are apart in two processes. Nobody may hold a name of it meanwhile.
    pub(in crate::manager) fn test_separation(
        &self,
        plan: &SharedPlan,
        agreed: &AgreedPlan,
        claim: &Arc<Claim>,
        all: &SmResource,
    ) -> Separation {
        let not_tested = |reason: String| Separation::NotTested { reason };
        if !self.device.is_under_mps() {
            return not_tested(WITHOUT_MPS.to_owned());
        }
        // A result that shows them to be apart holds for each plan of the split.
        let kept = kept_for(plan.folder.as_deref(), true, agreed);
        if kept.is_apart() {
            return kept;
        }
        let named = || {
            let program = env::var_os(VARIABLE).filter(|program| !program.is_empty())?;
            Some((program.into(), vec![ARGUMENT.into()]))
        };
        let Some((program, arguments)) = plan.tester.clone().or_else(named) else {
            return not_tested(NO_PARTNER.to_owned());
        };
        let program = PartnerProgram { program, arguments };
        self.test_with(&program, agreed, claim, all)
            .unwrap_or_else(|error| not_tested(format!("the test failed: {error}")))
    }

    fn test_with(
        &self,
        program: &PartnerProgram,
        agreed: &AgreedPlan,
        claim: &Arc<Claim>,
        all: &SmResource,
    ) -> Result<Separation> {
        let mut partner = Partner::start(program)?;
        partner.say(&agreed.to_text());
        let groups = Groups::of(&self.split_as_agreed(claim, agreed, all)?);
        let theirs = partner.answer("groups")?;
        if theirs != groups.sizes() {
            return Ok(Separation::Failed {
                reason: format!(
                    "the split has groups of {} SMs in one process, and of {theirs} in the other",
                    groups.sizes()
                ),
            });
        }
        for own in rounds(groups.0.len()) {
            let others: Vec<usize> = (0..own.len()).filter(|index| !own[*index]).collect();
            let own: Vec<usize> = (0..own.len()).filter(|index| own[*index]).collect();
            partner.say(&format!("fill {}\n", words(&others)));
            let residency = groups.fill(&own)?;
            partner.answer("filled")?;
            if !together(&mut partner, &residency)? {
                return Ok(Separation::Failed {
                    reason: format!(
                        "blocks of the groups {} in one process and {} in the other were never on the device at once",
                        words(&own),
                        words(&others)
                    ),
                });
            }
        }
        Ok(Separation::Apart)
    }
}

/// Has both processes fill their groups; returns whether all blocks were resident at once.
fn together(partner: &mut Partner, own: &Residency) -> Result<bool> {
    for stay in STAYS {
        partner.say(&format!("hold {}\n", stay.as_millis()));
        let own = own.fill(stay)?;
        let theirs = interval(&partner.answer("held")?);
        if let (Some((from, until)), Some((their_from, their_until))) = (own, theirs)
            && until.min(their_until) >= from.max(their_from) + TOGETHER
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads an interval in nanoseconds; `-` is none.
fn interval(text: &str) -> Option<(Duration, Duration)> {
    let (from, until) = text.split_once(' ')?;
    let time = |text: &str| text.parse().ok().map(Duration::from_nanos);
    Some((time(from)?, time(until)?))
}

/// Returns numbers with a comma between two.
fn words(numbers: &[usize]) -> String {
    let numbers = numbers.iter().map(usize::to_string);
    numbers.collect::<Vec<_>>().join(",")
}

/// The groups of a split that no further split divides, in its order.
struct Groups(Vec<SmResource>);

impl Groups {
    fn of(split: &Layout) -> Self {
        let leaves = split.leaves();
        Self(
            leaves
                .map(|(index, _)| split.resources[index].clone())
                .collect(),
        )
    }

    fn sizes(&self) -> String {
        words(
            &self
                .0
                .iter()
                .map(|one| one.sm_count() as usize)
                .collect::<Vec<_>>(),
        )
    }

    /// Makes one context over some groups, or one over each where the driver does not merge them, and prepares to fill them.
    fn fill(&self, indices: &[usize]) -> Result<Residency> {
        let groups: Vec<SmResource> = indices
            .iter()
            .filter_map(|index| self.0.get(*index).cloned())
            .collect();
        let config = GreenContextConfig::default();
        let contexts = match GreenContext::from_resources(&groups, None, config) {
            Ok(one) => vec![one],
            Err(_) => groups
                .iter()
                .map(|group| {
                    GreenContext::from_resources(std::slice::from_ref(group), None, config)
                })
                .collect::<Result<_>>()?,
        };
        Residency::of(&contexts)
    }
}

/// Serves as the second process of the test whether the partitions of a plan are apart in two processes
/// ([`SharedPlan::tested_by`](crate::SharedPlan::tested_by)), until the standard input ends.
///
/// The first process says on the standard input which groups to fill and when; the answers go to the standard output. The process
/// claims nothing, and must not use the device otherwise. The device is found by its UUID.
///
/// # Errors
/// [`Error::Sharing`](crate::Error::Sharing) for an input that is not that of the test, and where it cannot be read or answered;
/// [`Error::Driver`](crate::Error::Driver) and the errors of creating contexts. The first process is told, too.
pub fn serve_separation_test(driver: &Driver) -> Result<()> {
    let served = serve(driver);
    if let Err(error) = &served {
        let _ = say(&format!("error {}", error.to_string().replace('\n', " ")));
    }
    served
}

fn serve(driver: &Driver) -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut text = String::new();
    while !text
        .lines()
        .next_back()
        .is_some_and(|line| line.starts_with("end "))
    {
        if read_line(&mut input, &mut text)? == 0 || text.len() as u64 > LONGEST {
            return Err(unexpected("it has no plan"));
        }
    }
    let agreed = read_plan(text.as_bytes()).map_err(unexpected)?;
    let device = (0..driver.device_count()?)
        .map(|ordinal| driver.device(ordinal))
        .find(|device| {
            let uuid = device.as_ref().ok().and_then(|device| device.uuid().ok());
            uuid.is_none_or(|uuid| uuid == agreed.key.device)
        });
    let device: CudaDevice =
        device.ok_or_else(|| unexpected("it is of a device that is not here"))??;
    let manager: SmPartitionManager<String> = SmPartitionManager::with_ids(&device)?;
    let claim = device.claim()?;
    device.check_mps_allows_splits()?;
    let split = manager
        .state
        .split_as_agreed(&claim, &agreed, &device.sm_resource()?)?;
    let groups = Groups::of(&split);
    say(&format!("groups {}", groups.sizes()))?;
    let mut filled = None;
    loop {
        let mut line = String::new();
        if read_line(&mut input, &mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().split_once(' ') {
            Some(("fill", indices)) => {
                drop(filled.take());
                let indices = indices.split(',').map(str::parse);
                let indices: std::result::Result<Vec<usize>, _> = indices.collect();
                let indices = indices.map_err(|_| unexpected("it names no groups"))?;
                filled = Some(groups.fill(&indices)?);
                say("filled")?;
            }
            Some(("hold", stay)) => {
                let stay = stay.parse().map_err(|_| unexpected("it names no time"))?;
                let Some(filled) = &filled else {
                    return Err(unexpected("it fills nothing"));
                };
                match filled.fill(Duration::from_millis(stay))? {
                    Some((from, until)) => {
                        say(&format!("held {} {}", from.as_nanos(), until.as_nanos()))?;
                    }
                    None => say("held -")?,
                }
            }
            _ => return Err(unexpected("it is no word of the test")),
        }
    }
}

fn read_line(input: &mut impl BufRead, line: &mut String) -> Result<usize> {
    let read = input.take(LONGEST).read_line(line);
    Ok(read.map_err(|error| failed("reading", "the standard input", error))?)
}

fn say(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let written = output
        .write_all(format!("@ {text}\n").as_bytes())
        .and_then(|()| output.flush());
    Ok(written.map_err(|error| failed("writing", "the standard output", error))?)
}

fn failed(what: &'static str, path: &str, error: std::io::Error) -> SharingError {
    SharingError::Io {
        what,
        path: path.into(),
        error,
    }
}

fn unexpected(problem: impl Into<String>) -> Error {
    SharingError::File {
        path: "the standard input".into(),
        problem: problem.into(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_groups_is_in_two_processes_both_ways() {
        for groups in 0..70 {
            let rounds = rounds(groups);
            for one in 0..groups {
                for other in (0..groups).filter(|other| *other != one) {
                    let apart = rounds.iter().filter(|round| round[one] && !round[other]);
                    assert!(apart.count() > 0, "{one} and {other} of {groups}");
                }
            }
            // Each process fills something in each round.
            let fills = |round: &Vec<bool>| round.contains(&true) && round.contains(&false);
            assert!(rounds.iter().all(fills), "{groups}");
        }
        assert_eq!(rounds(17).len(), 10);
    }

    #[test]
    fn intervals_are_read_as_they_are_written() {
        let (one, two) = (Duration::from_nanos(1), Duration::from_nanos(2));
        assert_eq!(interval("1 2"), Some((one, two)));
        for none in ["-", "", "1", "1 x", "1 -2"] {
            assert_eq!(interval(none), None, "{none}");
        }
    }
}
