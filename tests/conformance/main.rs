//! One conformance suite for real and simulated drivers: what each call of the driver API answers, seen
//! through the bindings alone.
//!
//! A case notes what it sees under names. On a machine with a GPU the notes of the real driver are held
//! against those of the simulator with the same device and version, and written to the file that
//! `CUDA_GREEN_CONFORMANCE_EVIDENCE` names. Everywhere else the simulator is held against the notes that
//! are committed in `evidence/`, and runs through every case in other profiles, where nothing may be left
//! behind and two runs must agree.
//!
//! On a real driver each case runs in a process of its own: some break the driver's rules, and it may die
//! of them. `CUDA_GREEN_CONFORMANCE_DRIVER` names another driver than the system's, such as a file.
//!
//! With `CUDA_GREEN_CONFORMANCE_TABLE` it prints a table of all of it instead: `cargo xtask matrix`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // these are tests
#![allow(clippy::undocumented_unsafe_blocks)] // see `gpu::call`
#![allow(missing_docs)]

mod beside_captures;
mod captures;
mod clusters;
mod contexts;
mod copies;
mod differences;
mod driver;
mod events;
#[cfg(unix)]
mod forks;
mod gpu;
mod graphs;
mod images;
mod launches;
mod libraries;
mod links;
mod memory;
mod merges;
mod modules;
mod order;
mod pointers;
mod pools;
mod resources;
mod streams;
mod structured;
mod table;
mod teardown;
mod two_devices;
mod visible;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cuda_green::{Driver, DriverSpec, sim::Sim};
use cuda_green_sys::{Api, CudaVersion};
use driver_matrix::{evidence, skip, steps};
use gpu::{Gpu, Seen};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    /// The CUDA version that it needs, major and minor.
    since: (u16, u8),
    /// How many devices it needs.
    devices: u32,
    /// Whether it breaks the driver's rules, or leaves something behind, to see what comes of it.
    rough: bool,
    run: fn(&Gpu<'_>, &mut Seen),
}

impl Case {
    const fn new(name: &'static str, run: fn(&Gpu<'_>, &mut Seen)) -> Self {
        Self {
            name,
            since: (12, 4),
            devices: 1,
            rough: false,
            run,
        }
    }

    const fn since(self, major: u16, minor: u8) -> Self {
        Self {
            since: (major, minor),
            ..self
        }
    }

    /// A machine with fewer has no trial of it, and no notes.
    const fn devices(self, devices: u32) -> Self {
        Self { devices, ..self }
    }

    const fn rough(self) -> Self {
        Self {
            rough: true,
            ..self
        }
    }

    fn is_for(&self, version: CudaVersion) -> bool {
        version >= CudaVersion::new(self.since.0, self.since.1)
    }
}

pub type Notes = BTreeMap<String, Value>;

/// The notes of a whole run, by case.
pub type Record = BTreeMap<String, Notes>;

/// Simulated drivers on which every case must repeat and leave nothing behind: each step of the API's history,
/// which a trial holds.
const PROFILES: &[&str] = &[
    "t4@12.4",
    "a100@12.4",
    "h200@12.4",
    "h200@12.5",
    "rtx4090@12.8",
    "rtx5090@12.8",
    "b200@12.9",
    "h200@13.0",
    "2xh200@13.0",
    "h200@13.1",
    "rtx5090@13.1",
    "quad680@13.3",
    "2xgb10@13.4",
    "h200@newest",
];

/// The real driver of which there are notes, and the simulated one that must agree with them.
const RECORDED: (&str, &str) = ("evidence/conformance-h200.json", "h200@13.0");

/// The simulated driver for notes of a machine with one device, or with more where a case that needs them is among them.
fn recorded_profile(record: &Record) -> String {
    let devices = cases()
        .filter(|case| notes_of(record, *case).is_some())
        .map(|case| case.devices)
        .max();
    match devices {
        Some(devices) if devices > 1 => format!("{devices}x{}", RECORDED.1),
        _ => RECORDED.1.to_owned(),
    }
}

/// The notes of a case that was run. Of one for several devices, older records say that it was not.
fn notes_of(record: &Record, case: Case) -> Option<&Notes> {
    let notes = record.get(case.name)?;
    (case.devices == 1 || !notes.contains_key("needs")).then_some(notes)
}

/// How many devices a simulated driver has.
fn devices_of(profile: &str) -> u32 {
    Sim::new(profile).map_or(0, |simulator| simulator.profile().device_count)
}

/// The driver that stands in the system's place.
const DRIVER: &str = "CUDA_GREEN_CONFORMANCE_DRIVER";

/// In a process of its own: which case to run.
const ALONE: &str = "CUDA_GREEN_CONFORMANCE_CASE";

fn cases() -> impl Iterator<Item = Case> {
    [
        driver::CASES,
        resources::CASES,
        merges::CASES,
        contexts::CASES,
        streams::CASES,
        events::CASES,
        memory::CASES,
        copies::CASES,
        pools::CASES,
        modules::CASES,
        links::CASES,
        launches::CASES,
        clusters::CASES,
        graphs::CASES,
        captures::CASES,
        beside_captures::CASES,
        libraries::CASES,
        order::CASES,
        pointers::CASES,
        structured::CASES,
        teardown::CASES,
        two_devices::CASES,
        visible::CASES,
        #[cfg(unix)]
        forks::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

fn main() -> ExitCode {
    if std::env::var_os(visible::CHILD).is_some() {
        return visible::child();
    }
    if let Some(name) = std::env::var_os(ALONE) {
        return run_alone(&name.to_string_lossy());
    }
    if std::env::var_os(table::VARIABLE).is_some() {
        let (text, agrees) = table::table(cases(), recorded());
        print!("{text}");
        return if agrees {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("profiles/each_step_of_the_api", || {
        Ok(steps::all_among(PROFILES)?)
    })];
    for profile in PROFILES {
        let devices = devices_of(profile);
        let possible = cases().filter(|case| case.devices <= devices);
        trials.extend(possible.map(|case| {
            Trial::test(format!("{profile}/{}", case.name), move || {
                repeats(profile, case)
            })
        }));
    }
    match recorded() {
        Ok(record) => trials.extend(cases().filter_map(|case| {
            let profile = recorded_profile(&record);
            let Some(notes) = notes_of(&record, case).cloned() else {
                let what = format!("conformance of {} with a recorded driver", case.name);
                skip::note(&format!("{what}: it was not run on a GPU yet"));
                return None;
            };
            Some(Trial::test(format!("recorded/{}", case.name), move || {
                compare(case, &notes, &simulated(&profile, case)?)
            }))
        })),
        Err(reason) => skip::note(&format!("conformance with a recorded driver: {reason}")),
    }
    let seen: Arc<Mutex<Record>> = Arc::default();
    let system = system_driver();
    match &system {
        Ok((driver, profile)) => trials.extend(cases().filter_map(|case| {
            let devices = driver.device_count().unwrap_or(0);
            if case.devices > devices {
                let (name, needed) = (case.name, case.devices);
                skip::note(&format!(
                    "conformance of {name} on a real GPU: it needs {needed} devices, and {devices} are there"
                ));
                return None;
            }
            let (profile, seen) = (profile.clone(), Arc::clone(&seen));
            Some(Trial::test(format!("system/{}", case.name), move || {
                let notes = real(case);
                seen.lock()
                    .unwrap()
                    .insert(case.name.to_owned(), notes.clone());
                let Some(profile) = profile else {
                    return Ok(()); // a device that nobody simulates: its notes are all there is
                };
                compare(case, &notes, &simulated(&profile, case)?)
            }))
        })),
        Err(reason)
            if std::env::var_os("CUDA_GREEN_REQUIRE_GPU").is_some_and(|value| value == "1") =>
        {
            let reason = reason.clone();
            trials.push(Trial::test("system/driver", move || {
                Err(Failed::from(reason))
            }));
        }
        Err(reason) => skip::note(&format!("conformance of a real GPU: {reason}")),
    }
    let path = std::env::var_os("CUDA_GREEN_CONFORMANCE_EVIDENCE");
    if let Some(path) = &path {
        evidence::check(path.as_ref()).unwrap();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let (Ok((driver, _)), Some(path)) = (&system, path) {
        let device = driver.device(0).unwrap();
        let command = "CUDA_GREEN_REQUIRE_GPU=1 cargo test --release --test conformance -- --test-threads=1 system/";
        let record = seen.lock().unwrap().clone();
        evidence::write(path.as_ref(), &device, command, serde_json::json!(record)).unwrap();
    }
    conclusion.exit_code()
}

/// The system's driver, if it has a GPU, and the profile that simulates it, if one does.
fn system_driver() -> Result<(Driver, Option<String>), String> {
    let driver = open()?;
    let device = driver.device(0).map_err(|error| error.to_string())?;
    let profile = cuda_green::sim::profiles()
        .iter()
        .find(|profile| profile.device_name == device.name())
        .map(|profile| match driver.device_count() {
            Ok(count) if count > 1 => format!("{count}x{}@{}", profile.name, driver.version()),
            _ => format!("{}@{}", profile.name, driver.version()),
        })
        .filter(|spec| Sim::new(spec).is_ok());
    Ok((driver, profile))
}

/// The notes of a real driver that are committed.
fn recorded() -> Result<Record, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDED.0);
    let text =
        std::fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", RECORDED.0))?;
    let evidence: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    serde_json::from_value(evidence["figures"].clone()).map_err(|error| error.to_string())
}

/// Runs a case, to its end or to a panic, which becomes a note.
fn observe(api: &Api, profile: Option<&str>, case: Case, seen: &mut Seen) {
    if !case.is_for(api.version()) {
        seen.note("needs", format!("CUDA {}.{}", case.since.0, case.since.1));
        return;
    }
    let gpu = Gpu::new(api, profile);
    let ended = catch_unwind(AssertUnwindSafe(|| (case.run)(&gpu, seen)));
    match ended {
        Ok(()) if !case.rough => gpu.end(),
        // The process, or the simulated driver, ends here.
        Ok(()) => {}
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            seen.note("panicked", text);
            // The next case begins anew.
            while unsafe { api.cuCtxPopCurrent_v2(std::ptr::null_mut()) }
                .is_ok_and(|code| code == gpu::OK)
            {}
        }
    }
}

/// The notes of a simulated driver, which must end with nothing left.
fn simulated(profile: &str, case: Case) -> Result<Notes, Failed> {
    let simulator = Sim::new(profile)?;
    let api = simulator.api()?;
    let mut seen = Seen::default();
    observe(&api, Some(profile), case, &mut seen);
    let mut live = simulator.live_objects();
    // Streams that their context took along, which some cases are about.
    live.abandoned = 0;
    if !live.is_empty() && !case.rough {
        return Err(format!("left behind: {live}; seen: {:#?}", seen.notes).into());
    }
    Ok(seen.notes)
}

fn repeats(profile: &str, case: Case) -> Result<(), Failed> {
    let first = simulated(profile, case)?;
    if let Some(panic) = first.get("panicked") {
        return Err(format!("it panicked: {panic}").into());
    }
    let second = simulated(profile, case)?;
    if first == second {
        Ok(())
    } else {
        Err(format!("two runs differ: {first:#?}, {second:#?}").into())
    }
}

/// Fails where a real and a simulated driver differ, unless the reason is known.
fn compare(case: Case, real: &Notes, simulated: &Notes) -> Result<(), Failed> {
    let mut lines = Vec::new();
    let names: std::collections::BTreeSet<_> = real.keys().chain(simulated.keys()).collect();
    for name in names {
        let died = real.contains_key(ENDED);
        let (real, simulated) = (real.get(name), simulated.get(name));
        // What a driver would have said that died before.
        if died && real.is_none() {
            continue;
        }
        if real != simulated && differences::reason(case.name, name).is_none() {
            let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            lines.push(format!(
                "{name}: real {}, simulated {}",
                show(real),
                show(simulated)
            ));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    Err(format!("{} notes differ:\n{}", lines.len(), lines.join("\n")).into())
}

/// The notes of a real driver: runs a case in a process of its own and takes its notes down, up to its end
/// or its death.
fn real(case: Case) -> Notes {
    let mut notes = Notes::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(ALONE, case.name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        out.lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<(String, Value)>(&line).ok())
            .collect::<Vec<_>>()
    });
    let limit = Instant::now() + Duration::from_secs(30);
    let ended = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.to_string().replace(" (core dumped)", ""),
            None if Instant::now() > limit => {
                child.kill().unwrap();
                child.wait().unwrap();
                break "no end after 30 s".to_owned();
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    for (name, value) in reader.join().unwrap() {
        notes.insert(name, value);
    }
    if ended != "exit status: 0" {
        notes.insert(ENDED.to_owned(), ended.into());
    }
    notes
}

/// The note of a process that died.
const ENDED: &str = "ended";

/// The driver to look at.
fn open() -> Result<Driver, String> {
    let spec = match std::env::var_os(DRIVER) {
        Some(text) => DriverSpec::parse(&text).map_err(|error| error.to_string())?,
        None => DriverSpec::System,
    };
    Driver::open(&spec).map_err(|error| error.to_string())
}

/// In a process of its own: runs one case on the system's driver, each note printed at once.
fn run_alone(name: &str) -> ExitCode {
    let Some(case) = cases().find(|case| case.name == name) else {
        return ExitCode::FAILURE;
    };
    let Ok(driver) = open() else {
        return ExitCode::FAILURE;
    };
    let mut seen = Seen {
        aloud: true,
        ..Seen::default()
    };
    observe(driver.api(), None, case, &mut seen);
    ExitCode::SUCCESS
}
