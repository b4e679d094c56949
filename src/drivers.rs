//! Real drivers: where they lie, and what one says of itself in a process of its own.
//!
//! A driver is never loaded into a test's own process: two drivers in one process get in each other's
//! way, and one that crashes must fail one test with a message.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, c_char, c_int, c_uint, c_void},
    path::{Path, PathBuf},
    process::Command,
    ptr::null_mut,
    sync::Barrier,
    time::Instant,
};

use cuda_green::{Capabilities, Driver};
use cuda_green_sys::{
    Absence, Api, CUdevResourceType, CUresult, DriverSpec, ENTRY_POINTS, EntryPoint, Error,
    MissingEntryPoint, Platform,
};
use serde::{Deserialize, Serialize};

use crate::artifacts::ARTIFACTS;

/// The CUDA versions of the real drivers that the matrix covers, oldest first, and their releases.
pub fn versions() -> Vec<(&'static str, &'static str)> {
    let rows = ARTIFACTS.iter().filter_map(|artifact| {
        let version = artifact.place.strip_prefix("drivers/")?;
        Some((version, artifact.version.split('.').next()?))
    });
    let mut drivers: Vec<_> = rows.collect();
    drivers.dedup();
    drivers
}

/// Returns whether these drivers can be loaded on this machine.
pub const CAN_BE_LOADED: bool = cfg!(all(target_arch = "x86_64", target_os = "linux"));

/// A driver's report on itself, or the reason why it cannot be loaded.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The text of the error, where loading failed, and nothing else then.
    pub error: Option<String>,
    /// The error's kind: the name of its variant.
    pub error_kind: Option<String>,
    /// The CUDA version.
    pub version: String,
    /// Each entry point that the driver has, in the order of the table.
    pub present: Vec<String>,
    /// Each entry point that the driver lacks, and whether it has an older form.
    pub absent: BTreeMap<String, Missing>,
    /// The errors of calls of some absent entry points.
    pub calls: BTreeMap<String, String>,
    /// Entry points whose address, by the driver's own resolver, is not that of the exported symbol
    /// of their name.
    pub other_symbol: Vec<String>,
    /// Entry points that the driver's resolver gives already for the version before `since`.
    pub earlier: Vec<String>,
    /// The answer of `cuInit`.
    pub init: Option<u32>,
    /// The safe crate's report on the GPUs behind the driver.
    pub safe: Safe,
}

/// The safe crate's report on a driver.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Safe {
    /// How many GPUs there are.
    pub devices: Option<u32>,
    /// The kind and the text of the error that it gave instead.
    pub error: Option<[String; 2]>,
    /// How long that took, from opening the driver, in milliseconds.
    pub milliseconds: f64,
    /// The capabilities of the driver's version, by name.
    pub capabilities: BTreeMap<String, bool>,
}

/// [`Absence`] for JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// The name is unknown.
    NotFound,
    /// The name is known in an older ABI only.
    OlderAbi,
}

/// Returns the path of the real driver of this CUDA version, if it was fetched.
pub fn path(version: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/cuda/drivers")
        .join(version)
        .join("libcuda.so.1");
    path.exists().then_some(path)
}

/// Asks a driver in a process of its own; `program` is this package's binary.
///
/// # Errors
/// The process's end and output, where it did not end with a report.
pub fn ask(
    program: &Path,
    driver: Option<&OsStr>,
    variables: &[(&str, &str)],
) -> Result<Report, String> {
    let output = Command::new(program)
        .arg("report")
        .args(driver)
        .env_remove(cuda_green_sys::DRIVER_VARIABLE)
        .envs(variables.iter().copied())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        format!(
            "{driver:?} ended with {} and no report ({error}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Loads the driver of the environment from many threads at once and returns what each got.
#[derive(Debug, Serialize, Deserialize)]
pub struct Loads {
    /// How many threads there were.
    pub threads: usize,
    /// The kinds of the errors that `Api::load` gave, each once.
    pub api_errors: BTreeSet<String>,
    /// The kinds of the errors that `Driver::load` gave, each once.
    pub driver_errors: BTreeSet<String>,
    /// The different tables that `Api::load` filled, in words.
    pub tables: BTreeSet<String>,
    /// How many different drivers `Driver::load` gave.
    pub drivers: usize,
}

/// Loads the driver of the environment from many threads at once, from within the process that loads it.
pub fn load() -> Loads {
    const THREADS: usize = 32;
    let start = Barrier::new(THREADS);
    let one = || {
        start.wait();
        let driver = Driver::load();
        start.wait();
        (driver, Api::load())
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.filter_map(Result::ok).collect()
    });
    let mut loads = Loads {
        threads: results.len(),
        api_errors: BTreeSet::new(),
        driver_errors: BTreeSet::new(),
        tables: BTreeSet::new(),
        drivers: 0,
    };
    let mut drivers = BTreeSet::new();
    for (driver, api) in &results {
        match driver {
            Ok(driver) => _ = drivers.insert(std::ptr::from_ref(driver.api())),
            Err(cuda_green::Error::Load(error)) => _ = loads.driver_errors.insert(kind(error)),
            Err(error) => _ = loads.driver_errors.insert(error.to_string()),
        }
        match api {
            Ok(api) => _ = loads.tables.insert(format!("{api:?}")),
            Err(error) => _ = loads.api_errors.insert(kind(error)),
        }
    }
    loads.drivers = drivers.len();
    loads
}

/// Returns the safe crate's report on a driver, and the time that it took.
fn safe(spec: &DriverSpec) -> Safe {
    let start = Instant::now();
    let driver = Driver::open(spec);
    let devices = driver.as_ref().map(Driver::device_count);
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let mut safe = Safe {
        milliseconds,
        ..Safe::default()
    };
    match devices {
        Ok(Ok(count)) => safe.devices = Some(count),
        Ok(Err(error)) => safe.error = Some([safe_kind(&error), error.to_string()]),
        Err(error) => safe.error = Some([safe_kind(error), error.to_string()]),
    }
    if let Ok(driver) = driver {
        // Nothing that is listed here depends on the device.
        let can = Capabilities::of(driver.version(), (9, 0), None);
        let features = can.features().into_iter();
        safe.capabilities = features
            .map(|feature| (feature.name.to_owned(), feature.there))
            .collect();
    }
    safe
}

/// Returns the name of the error's variant.
fn kind(error: &Error) -> String {
    match error {
        Error::DriverNotFound { .. } => "DriverNotFound",
        Error::DriverUnloadable { .. } => "DriverUnloadable",
        Error::NotACudaDriver { .. } => "NotACudaDriver",
        Error::VersionUnknown { .. } => "VersionUnknown",
        Error::VersionImpossible { .. } => "VersionImpossible",
        Error::Simulated(_) => "Simulated",
        Error::VariableRefused { .. } => "VariableRefused",
        Error::InvalidSpec(_) => "InvalidSpec",
        Error::InvalidVersion(_) => "InvalidVersion",
        Error::MissingEntryPoint(_) => "MissingEntryPoint",
        _ => "another",
    }
    .to_owned()
}

/// Returns the name of the variant, as far as the tests distinguish errors of the safe crate.
fn safe_kind(error: &cuda_green::Error) -> String {
    match error {
        cuda_green::Error::Load(error) => kind(error),
        cuda_green::Error::NoGpu { .. } => "NoGpu".to_owned(),
        _ => "another".to_owned(),
    }
}

/// The report on a driver, from within the process that loads it.
pub fn report(spec: Result<DriverSpec, Error>) -> Report {
    let path = match &spec {
        Ok(DriverSpec::Path(path)) => Some(path.clone()),
        // The first candidate: where it is not the one that was loaded, nothing is compared.
        Ok(DriverSpec::System) => Platform::CURRENT
            .driver_candidates()
            .first()
            .map(PathBuf::from),
        _ => None,
    };
    // First, so that its time is that of a program that has loaded nothing yet.
    let safe = spec.as_ref().map_or_else(|_| Safe::default(), safe);
    let loaded = spec.and_then(|spec| Api::load_spec(&spec));
    let mut report = Report {
        error: None,
        error_kind: None,
        version: String::new(),
        present: Vec::new(),
        absent: BTreeMap::new(),
        calls: BTreeMap::new(),
        other_symbol: Vec::new(),
        earlier: Vec::new(),
        init: None,
        safe,
    };
    match loaded {
        Err(error) => {
            report.error_kind = Some(kind(&error));
            report.error = Some(error.to_string());
        }
        Ok(api) => {
            report.version = api.version().to_string();
            for (entry, absence) in api.entry_points() {
                let name = entry.name().to_owned();
                match absence {
                    None => report.present.push(name),
                    Some(Absence::NotFound) => _ = report.absent.insert(name, Missing::NotFound),
                    Some(Absence::OlderAbi) => _ = report.absent.insert(name, Missing::OlderAbi),
                }
            }
            call_the_absent(&api, &mut report);
            if let Some(path) = path {
                compare_with_symbols(&path, &mut report);
            }
            // SAFETY: `cuInit` takes no pointer, and its flags are 0.
            report.init = unsafe { api.cuInit(0) }.ok().map(|result| result.0);
        }
    }
    report
}

/// Calls through each entry point that only newer drivers have, if this driver lacks it: nothing of the
/// driver's can run then, and the answer must name what is missing.
fn call_the_absent(api: &Api, report: &mut Report) {
    let sm = CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    type Call<'a> = (&'a str, &'a dyn Fn() -> Option<MissingEntryPoint>);
    // SAFETY (of all of these): each is called only where `report.absent` has its name, and then
    // there is no function behind it that could follow a null pointer.
    let calls: &[Call<'_>] = &[
        ("cuDeviceGetDevResource", &|| {
            // SAFETY: see above.
            unsafe { api.cuDeviceGetDevResource(0, null_mut(), sm) }.err()
        }),
        ("cuGreenCtxCreate", &|| {
            // SAFETY: see above.
            unsafe { api.cuGreenCtxCreate(null_mut(), null_mut(), 0, 0) }.err()
        }),
        ("cuGreenCtxStreamCreate", &|| {
            // SAFETY: see above.
            unsafe { api.cuGreenCtxStreamCreate(null_mut(), null_mut(), 0, 0) }.err()
        }),
        ("cuGreenCtxGetId", &|| {
            // SAFETY: see above.
            unsafe { api.cuGreenCtxGetId(null_mut(), null_mut()) }.err()
        }),
        ("cuStreamGetCtx_v2", &|| {
            // SAFETY: see above.
            unsafe { api.cuStreamGetCtx_v2(null_mut(), null_mut(), null_mut()) }.err()
        }),
        ("cuStreamGetDevResource", &|| {
            // SAFETY: see above.
            unsafe { api.cuStreamGetDevResource(null_mut(), null_mut(), sm) }.err()
        }),
    ];
    for (name, call) in calls {
        if report.absent.contains_key(*name) {
            let said = call().map_or("it was called".to_owned(), |missing| missing.to_string());
            report.calls.insert((*name).to_owned(), said);
        }
    }
}

/// Holds the driver's own resolver against its exported symbols, beside the loader and without it.
fn compare_with_symbols(path: &Path, report: &mut Report) {
    type GetProcAddress =
        unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_uint) -> CUresult;
    // SAFETY: the same library is loaded already, and stays so.
    let Ok(library) = (unsafe { libloading::Library::new(path) }) else {
        return;
    };
    // SAFETY: the type is that of the symbol.
    let Ok(resolver) = (unsafe { library.get::<GetProcAddress>(c"cuGetProcAddress_v2") }) else {
        return; // a driver from before it, whose symbols are all there is
    };
    let ask = |entry: &EntryPoint, version: c_int| {
        let (mut address, mut status) = (null_mut(), 0);
        // SAFETY: the name is a C string, and both outputs are valid.
        let result = unsafe {
            resolver(
                entry.proc_name.as_ptr(),
                &mut address,
                version,
                0,
                &mut status,
            )
        };
        result
            .ok()
            .ok()
            .map(|()| address.cast_const())
            .filter(|address| !address.is_null())
    };
    for entry in ENTRY_POINTS {
        if report.absent.contains_key(entry.name()) {
            continue;
        }
        // SAFETY: the address is only compared.
        let symbol = unsafe { library.get::<*const c_void>(entry.symbol) }.ok();
        let symbol = symbol.map(|symbol| *symbol);
        if symbol.is_none() || ask(entry, entry.since.to_raw()) != symbol {
            report.other_symbol.push(entry.name().to_owned());
        } else if ask(entry, entry.since.to_raw() - 10) == symbol {
            report.earlier.push(entry.name().to_owned());
        }
    }
}
