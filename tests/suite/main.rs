//! One suite over every driver: each case runs on each simulated profile, and on the system's driver
//! where that has a GPU (`CUDA_GREEN_REQUIRE_GPU=1` makes its absence a failure).
//!
//! A case is a function over a driver. After it, a simulated driver must have no object left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // these are tests
#![allow(missing_docs)]

mod bad_input;
mod completions;
mod containment;
mod contexts;
mod embed;
#[cfg(unix)]
mod forks;
mod graphs;
mod guards;
mod launches;
mod memory;
mod modules;
mod plans;
mod probe;
mod quad;
mod queue;
mod rebalance;
mod resources;
mod splits;
mod support;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cuda_green::{Driver, DriverSpec};
use driver_matrix::{evidence, skip, steps};
use libtest_mimic::{Arguments, Failed, Trial};

/// Simulated drivers that every case runs on: each kind of device, and each step of the API's history, which
/// a trial holds.
const PROFILES: &[&str] = &[
    "t4@11.4",
    "a100@12.4",
    "h200@12.4",
    "h200@12.5",
    "rtx5090@12.8",
    "h200@13.0",
    "h200@13.1",
    "rtx5090@13.1",
    "quad680@13.1",
    "b200@13.3",
    "rtx5090@13.4",
    "h200@newest",
];

/// A driver under MPS, which numbers the ids of SMs anew in each context.
const UNDER_MPS: &str = "h200@13.0";

/// Cases that compare the SM ids of contexts, which mean nothing under MPS.
const COMPARE_SM_IDS: &[&str] = &[
    "contexts/from_many_threads_never_too_many",
    "contexts/one_by_one_until_nothing_is_left",
    "contexts/unequal_sizes_with_nothing_left",
    "graphs/fork_into_other_partitions",
    "graphs/stay_on_the_sms_of_their_capture",
    "plans/equal_groups_where_units_do_not_do",
    "plans/one_by_one_in_a_tree_of_pieces",
    "plans/what_is_planned_is_made",
    "quad/one_of_many_threads_wins",
    "quad/runs_on_disjoint_sms",
    "rebalance/gives_to_those_who_need_it",
    "rebalance/kernels_run_where_they_were_promised",
    "rebalance/what_is_kept_is_counted_and_bounded",
    "rebalance/what_was_handed_out_stays_valid",
    "resources/contexts_within_a_context",
    "resources/one_context_from_several",
    "splits/as_many_as_there_are",
    "splits/filled_up",
    "splits/into_equal_groups",
    "splits/into_pairs",
    "splits/into_unequal_groups",
];

fn compares_sm_ids(name: &str) -> bool {
    COMPARE_SM_IDS.contains(&name)
}

pub type Case = (&'static str, fn(&Driver) -> cuda_green::Result<()>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = || {
        [
            quad::CASES,
            contexts::CASES,
            containment::CASES,
            guards::CASES,
            memory::limits::CASES,
            memory::buffers::CASES,
            memory::captures::CASES,
            memory::streams::CASES,
            memory::figures::CASES,
            plans::CASES,
            probe::CASES,
            bad_input::CASES,
            rebalance::CASES,
            rebalance::hand_off::CASES,
            rebalance::in_flight::CASES,
            resources::CASES,
            splits::CASES,
            launches::CASES,
            modules::CASES,
            completions::CASES,
            graphs::CASES,
            embed::CASES,
            queue::CASES,
            queue::resident::CASES,
            #[cfg(unix)]
            forks::CASES,
        ]
        .into_iter()
        .flatten()
        .copied()
    };
    let mut trials: Vec<Trial> = PROFILES
        .iter()
        .flat_map(|profile| {
            cases().map(move |(name, case)| {
                Trial::test(format!("{profile}/{name}"), move || {
                    on_simulator(profile, &[], case)
                })
            })
        })
        .collect();
    let under_mps = cases().filter(|(name, _)| !compares_sm_ids(name));
    trials.extend(under_mps.map(|(name, case)| {
        Trial::test(format!("{UNDER_MPS} under MPS/{name}"), move || {
            on_simulator(UNDER_MPS, &["mps=100%"], case)
        })
    }));
    trials.push(Trial::test("profiles/each_step_of_the_api", || {
        Ok(steps::all_among(PROFILES)?)
    }));
    let results = Results::default();
    let system = system_driver();
    match &system {
        Ok(driver) => {
            let under_mps = driver.device(0).is_ok_and(|device| device.is_under_mps());
            trials.extend(cases().map(|(name, case)| {
                let (driver, results) = (driver.clone(), results.clone());
                Trial::test(format!("system/{name}"), move || {
                    if under_mps && compares_sm_ids(name) {
                        results.skip(name, "skipped: compares SM ids, which MPS numbers anew");
                        return Ok(());
                    }
                    results.note(name, &driver, case)
                })
            }));
        }
        Err(reason)
            if std::env::var_os("CUDA_GREEN_REQUIRE_GPU").is_some_and(|value| value == "1") =>
        {
            let failed = Failed::from(reason);
            trials.push(Trial::test("system/driver", move || Err(failed)));
        }
        Err(reason) => skip::note(&format!("the suite on a real GPU: {reason}")),
    }
    let path = std::env::var_os("CUDA_GREEN_SUITE_EVIDENCE");
    if let Some(path) = &path {
        evidence::check(path.as_ref()).unwrap();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let (Ok(driver), Some(path)) = (&system, path) {
        let device = driver.device(0).unwrap();
        let command =
            "CUDA_GREEN_REQUIRE_GPU=1 cargo test --release --test suite -- --test-threads=1";
        let results = results.0.lock().unwrap().clone();
        evidence::write(path.as_ref(), &device, command, serde_json::json!(results)).unwrap();
    }
    conclusion.exit_code()
}

/// How each case ended on the real driver, for the evidence.
#[derive(Clone, Default)]
struct Results(Arc<Mutex<BTreeMap<String, String>>>);

impl Results {
    fn skip(&self, name: &str, why: &str) {
        self.0
            .lock()
            .unwrap()
            .insert(name.to_owned(), why.to_owned());
        skip::note(&format!("{name} under MPS"));
    }

    fn note(
        &self,
        name: &str,
        driver: &Driver,
        case: fn(&Driver) -> cuda_green::Result<()>,
    ) -> Result<(), Failed> {
        let note = |how: &str| {
            self.0
                .lock()
                .unwrap()
                .insert(name.to_owned(), how.to_owned())
        };
        note("panicked"); // unless it comes back
        let result = case(driver);
        note(
            &result
                .as_ref()
                .map_or_else(ToString::to_string, |()| "ok".to_owned()),
        );
        Ok(result?)
    }
}

fn system_driver() -> Result<Driver, String> {
    let driver = Driver::open(&DriverSpec::System).map_err(|error| error.to_string())?;
    driver.device_count().map_err(|error| error.to_string())?;
    Ok(driver)
}

fn on_simulator(
    profile: &str,
    faults: &[&str],
    case: fn(&Driver) -> cuda_green::Result<()>,
) -> Result<(), Failed> {
    let simulator = cuda_green::sim::Sim::new(profile)?;
    for fault in faults {
        simulator.inject(fault.parse()?);
    }
    {
        let driver = Driver::simulated(&simulator)?;
        case(&driver)?;
    }
    if let Some(fault) = simulator.unfired_injections().first() {
        return Err(format!("the fault {fault} never happened").into());
    }
    // The thread that waits for completions lets go of its last event a moment after it told its end.
    let limit = Instant::now() + Duration::from_secs(5);
    loop {
        let live = simulator.live_objects();
        if live.is_empty() {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(format!("left behind: {live}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
