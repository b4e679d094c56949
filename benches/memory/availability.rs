//! What `check_availability` costs when it is the first thing a process does.
//!
//! `cuInit` takes some 150 ms, give or take more than what is asked about here, so no difference of two
//! processes would tell. In each of a few new processes, the driver is first loaded and initialised by hand;
//! what the check takes after that is what it adds. How long the check takes in all is measured in others.

use std::{
    ffi::{OsStr, c_int, c_uint},
    process::Command,
    time::Instant,
};

use cuda_green::{CudaDevice, Driver, Error, GpuMemoryPool};
use serde_json::{Map, Value, json};

use crate::common::{Outcome, percentile, sort};

/// Set for a process that is to measure and print one thing.
const CHILD: &str = "CUDA_GREEN_BENCH_CHILD";

/// What such a process does; none where this is no such process.
pub fn child() -> Option<Outcome> {
    let wanted = std::env::var(CHILD).ok()?;
    Some(match &*wanted {
        "adds" => adds(),
        _ => check().map(|nanoseconds| println!("{nanoseconds}")),
    })
}

/// Loads the driver by hand, and then prints how long that took and how long the check takes after it.
fn adds() -> Outcome {
    let path = std::env::var_os("CUDA_GREEN_BENCH_LIBRARY").ok_or("no library was named")?;
    let start = Instant::now();
    // SAFETY: the driver's library may be loaded by every process.
    let library = unsafe { libloading::Library::new(path)? };
    // SAFETY: this is the function's type in `cuda.h`.
    let init: libloading::Symbol<'_, unsafe extern "system" fn(c_uint) -> c_int> =
        unsafe { library.get(b"cuInit\0")? };
    // SAFETY: `cuInit` may be called at any time, and 0 is the only flag there is.
    let _ = unsafe { init(0) };
    let by_hand = start.elapsed().as_nanos();
    let beyond = check()?;
    println!("{by_hand} {beyond}");
    Ok(())
}

/// Nanoseconds of the check, whatever it says as long as it is clear.
fn check() -> Outcome<u128> {
    let start = Instant::now();
    let result = GpuMemoryPool::check_availability();
    let took = start.elapsed().as_nanos();
    match result {
        Ok(()) | Err(Error::NoGpu { .. } | Error::Load(_)) => Ok(took),
        Err(error) => Err(error.into()),
    }
}

/// The medians of what new processes print.
fn ask(what: &str, times: usize, variables: &[(&str, &OsStr)]) -> Outcome<Vec<f64>> {
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for _ in 0..times {
        let output = Command::new(std::env::current_exe()?)
            .env(CHILD, what)
            .envs(variables.iter().copied())
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let text = String::from_utf8(output.stdout)?;
        for (column, number) in text.split_whitespace().enumerate() {
            columns.resize(columns.len().max(column + 1), Vec::new());
            columns[column].push(number.parse()?);
        }
    }
    Ok(columns
        .into_iter()
        .map(|mut samples| {
            sort(&mut samples);
            percentile(&samples, 0.5)
        })
        .collect())
}

pub fn availability(device: &CudaDevice, quick: bool, figures: &mut Map<String, Value>) -> Outcome {
    let library = match Driver::load() {
        Ok(driver) if !driver.is_simulated() && !device.driver().is_simulated() => {
            match driver.source() {
                "system" => "libcuda.so.1".to_owned(),
                path => path.to_owned(),
            }
        }
        // A simulated driver has no `cuInit` that would take its time.
        _ => return Ok(()),
    };
    let times = if quick { 2 } else { 7 };
    let library = OsStr::new(&library);
    let named = [("CUDA_GREEN_BENCH_LIBRARY", library)];
    let adds = ask("adds", times, &named)?;
    let [by_hand, beyond] = adds[..] else {
        return Err("the child printed something else".into());
    };
    let first = ask("first", times, &[])?;
    let hidden = ask(
        "first",
        times,
        &[("CUDA_VISIBLE_DEVICES", OsStr::new("-1"))],
    )?;
    let nowhere = OsStr::new("/nonexistent/libcuda.so.1");
    let no_driver = ask("first", times, &[("CUDA_GREEN_DRIVER", nowhere)])?;
    let (first, hidden, no_driver) = (first[0], hidden[0], no_driver[0]);
    let milli = |nanoseconds: f64| nanoseconds / 1e6;
    println!(
        "check_availability: {:.2} ms as the first call, of which {:.3} ms beyond loading and cuInit ({:.2} ms); \
         {:.2} ms with no GPU visible, {:.3} ms without a driver\n",
        milli(first),
        milli(beyond),
        milli(by_hand),
        milli(hidden),
        milli(no_driver)
    );
    figures.insert(
        "check_availability".into(),
        json!({
            "first_call_ns": first, "load_and_cu_init_ns": by_hand, "beyond_cu_init_ns": beyond,
            "no_gpu_visible_ns": hidden, "no_driver_ns": no_driver, "processes_each": times,
        }),
    );
    Ok(())
}
