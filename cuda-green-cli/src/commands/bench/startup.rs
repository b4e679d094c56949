//! `cuda-green bench startup`: the cost of loading the driver and of `check_availability` as the first thing that a
//! process does.
//!
//! A process loads and initialises a driver once, so each measurement is a new process of this program. `cuInit` takes
//! some 150 ms and varies by more than the check takes, so comparing two processes would not show what the check adds.
//! To measure that, a process first loads and initialises the driver by hand and then times the check.

use std::{
    ffi::{OsStr, c_int, c_uint},
    hint::black_box,
    mem::ManuallyDrop,
    process::Command,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use cuda_green::{DriverSpec, Error, GpuMemoryPool, sys};
use libloading::{Library, Symbol};
use serde::Serialize;

use super::{
    run::{Figures, Work},
    samples::Samples,
};
use crate::{
    args::StartupPart,
    render::{duration::duration, output},
};

#[derive(Serialize)]
pub struct Startup {
    /// None with a simulated driver, which is not a library.
    load: Option<Load>,
    check_availability: Check,
}

#[derive(Serialize)]
struct Load {
    beyond_dlopen_ns: f64,
    max_ns: f64,
    entry_points: usize,
    processes: usize,
}

/// Medians. Fields are `None` on a simulated driver, whose `cuInit` takes no time.
#[derive(Serialize)]
struct Check {
    first_call_ns: f64,
    load_and_cu_init_ns: Option<f64>,
    beyond_cu_init_ns: Option<f64>,
    no_gpu_visible_ns: Option<f64>,
    no_driver_ns: f64,
    processes_each: usize,
}

pub fn measure(work: &Work<'_>) -> anyhow::Result<Startup> {
    let is_library = work.device.driver().simulator().is_none();
    let times = if work.quick { 2 } else { 7 };
    let check = |variables: &[(&str, &str)]| -> anyhow::Result<f64> {
        let [first] = processes(work, StartupPart::First, times, variables)?;
        Ok(first.at(0.5))
    };
    work.progress.set_length(if is_library { 5 } else { 2 });
    let mut figures = Check {
        first_call_ns: check(&[])?,
        load_and_cu_init_ns: None,
        beyond_cu_init_ns: None,
        no_gpu_visible_ns: None,
        no_driver_ns: check(&[("CUDA_GREEN_DRIVER", "/nonexistent/libcuda.so.1")])?,
        processes_each: times,
    };
    let mut load = None;
    if is_library {
        let [by_hand, beyond] = processes(work, StartupPart::Adds, times, &[])?;
        figures.load_and_cu_init_ns = Some(by_hand.at(0.5));
        figures.beyond_cu_init_ns = Some(beyond.at(0.5));
        figures.no_gpu_visible_ns = Some(check(&[("CUDA_VISIBLE_DEVICES", "-1")])?);
        let times = if work.quick { 2 } else { 20 };
        let [beyond] = processes(work, StartupPart::Load, times, &[])?;
        load = Some(Load {
            beyond_dlopen_ns: beyond.at(0.5),
            max_ns: beyond.at(1.0),
            entry_points: sys::ENTRY_POINTS.len(),
            processes: times,
        });
    }
    Ok(Startup {
        load,
        check_availability: figures,
    })
}

/// Starts `times` processes with these environment variables, and returns the numbers that they print, by column.
fn processes<const N: usize>(
    work: &Work<'_>,
    part: StartupPart,
    times: usize,
    variables: &[(&str, &str)],
) -> anyhow::Result<[Samples; N]> {
    let part = part.to_possible_value().context("a part without a name")?;
    work.progress.set_message(part.get_name().to_owned());
    let mut columns = [const { Vec::new() }; N];
    for _ in 0..times {
        let output = Command::new(std::env::current_exe()?)
            .args(["bench", "startup", "--only", part.get_name()])
            .env("CUDA_GREEN_DRIVER", work.device.driver().source())
            .envs(variables.iter().copied())
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the measuring process failed: {told}"
        );
        let text = String::from_utf8(output.stdout)?;
        let mut numbers = text.split_whitespace();
        for column in &mut columns {
            let number = numbers.next().context("too few numbers were printed")?;
            column.push(number.parse()?);
        }
    }
    work.progress.inc(1);
    Ok(columns.map(Samples::of))
}

/// Measures one part in this process, and prints the result.
pub fn only(part: StartupPart) -> anyhow::Result<()> {
    match part {
        StartupPart::Load => load(),
        StartupPart::Adds => adds(),
        StartupPart::First => output::print(&format!("{}\n", check()?)),
    }
}

/// Loads by hand the library that the environment names. It is never unloaded, because the driver's threads run its
/// code.
fn library(spec: &DriverSpec) -> anyhow::Result<ManuallyDrop<Library>> {
    let name = match spec {
        DriverSpec::System if cfg!(windows) => OsStr::new("nvcuda.dll"),
        DriverSpec::System => OsStr::new("libcuda.so.1"),
        DriverSpec::Path(path) => path.as_os_str(),
        other => bail!("{other:?} is no library"),
    };
    // SAFETY: the CUDA driver is trusted, as by every program that is linked to it.
    let library = unsafe { Library::new(name) }.with_context(|| name.display().to_string())?;
    Ok(ManuallyDrop::new(library))
}

/// Times loading the driver and resolving every entry point, beyond `dlopen`.
fn load() -> anyhow::Result<()> {
    let spec = DriverSpec::from_env()?;
    let _loaded = library(&spec)?;
    let start = Instant::now();
    let api = sys::Api::load_spec(&spec);
    let took = start.elapsed().as_nanos();
    black_box(api)?;
    output::print(&format!("{took}\n"))
}

/// Times loading and initialising by hand, and the check after that.
fn adds() -> anyhow::Result<()> {
    let spec = DriverSpec::from_env()?;
    let start = Instant::now();
    let library = library(&spec)?;
    // SAFETY: this is the function's type in `cuda.h`.
    let init: Symbol<'_, unsafe extern "system" fn(c_uint) -> c_int> =
        unsafe { library.get(b"cuInit\0")? };
    // SAFETY: `cuInit` may be called at any time, and 0 is the only flag there is.
    let _ = unsafe { init(0) };
    let by_hand = start.elapsed().as_nanos();
    let beyond = check()?;
    output::print(&format!("{by_hand} {beyond}\n"))
}

/// Returns the nanoseconds of the check, whether or not it finds a GPU.
fn check() -> anyhow::Result<u128> {
    let start = Instant::now();
    let result = GpuMemoryPool::check_availability();
    let took = start.elapsed().as_nanos();
    match result {
        Ok(()) | Err(Error::NoGpu { .. } | Error::Load(_)) => Ok(took),
        Err(error) => Err(error.into()),
    }
}

impl Figures for Startup {
    fn table(&self) -> String {
        let check = &self.check_availability;
        let lines = [
            ("as a process's first call", Some(check.first_call_ns)),
            ("  loading and cuInit by hand", check.load_and_cu_init_ns),
            ("  and then the check", check.beyond_cu_init_ns),
            ("no GPU visible", check.no_gpu_visible_ns),
            ("no driver", Some(check.no_driver_ns)),
        ];
        let mut table = "check_availability, each time in a new process".to_owned();
        for (what, time) in lines {
            let time = time.map_or("–".to_owned(), duration);
            table += &format!("\n  {what:<36} {time:>9}");
        }
        match &self.load {
            None => table + "\n\nA simulated driver is not a library, so nothing is loaded.",
            Some(load) => {
                let beyond = duration(load.beyond_dlopen_ns);
                let what = format!("{} entry points, beyond dlopen", load.entry_points);
                table + &format!("\n\nloading the driver\n  {what:<36} {beyond:>9}")
            }
        }
    }
}
