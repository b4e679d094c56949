//! One suite over every driver: each case runs on each simulated profile, and on the system's driver
//! where that has a GPU (`CUDA_GREEN_REQUIRE_GPU=1` makes its absence a failure).
//!
//! A case is a function over a driver. After it, a simulated driver must have no object left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // these are tests
#![allow(missing_docs)]

mod bad_input;
mod contexts;
mod guards;
mod memory;
mod quad;
mod support;

use std::process::ExitCode;

use cuda_green::{Driver, DriverSpec};
use libtest_mimic::{Arguments, Failed, Trial};

/// Simulated drivers that every case runs on: each device and each step of the API's history.
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
    "h200@13.5",
];

pub type Case = (&'static str, fn(&Driver) -> cuda_green::Result<()>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = || {
        [
            quad::CASES,
            contexts::CASES,
            guards::CASES,
            memory::CASES,
            bad_input::CASES,
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
                    on_simulator(profile, case)
                })
            })
        })
        .collect();
    match system_driver() {
        Ok(driver) => trials.extend(cases().map(|(name, case)| {
            let driver = driver.clone();
            Trial::test(format!("system/{name}"), move || Ok(case(&driver)?))
        })),
        Err(reason)
            if std::env::var_os("CUDA_GREEN_REQUIRE_GPU").is_some_and(|value| value == "1") =>
        {
            trials.push(Trial::test("system/driver", move || {
                Err(Failed::from(reason))
            }));
        }
        Err(reason) => eprintln!("skipped: the suite on a real GPU ({reason})"),
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn system_driver() -> Result<Driver, String> {
    let driver = Driver::open(&DriverSpec::System).map_err(|error| error.to_string())?;
    driver.device_count().map_err(|error| error.to_string())?;
    Ok(driver)
}

fn on_simulator(profile: &str, case: fn(&Driver) -> cuda_green::Result<()>) -> Result<(), Failed> {
    let simulator = cuda_green::sim::Sim::new(profile)?;
    {
        let driver = Driver::simulated(&simulator)?;
        case(&driver)?;
    }
    let live = simulator.live_objects();
    if live.is_empty() {
        Ok(())
    } else {
        Err(format!("left behind: {live}").into())
    }
}
