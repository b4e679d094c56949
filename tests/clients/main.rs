//! Clients that this project did not write, on the simulated driver as a shared library: NVIDIA's Python
//! packages and cudarc. Each runs in a process of its own, in which `libcuda.so.1` is the simulated driver.

#![cfg(target_os = "linux")]
// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../examples/cudarc_partition.rs"]
mod cudarc_partition;
mod cudarc_program;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use driver_matrix::{drivers, skip::skip};

/// Which simulated driver the library is.
const PROFILE: &str = "CUDA_GREEN_SIM_PROFILE";

/// Has cargo build with what it built for the tests, and put the library into a folder of its own, where no other build
/// replaces it.
fn elsewhere() -> [(&'static str, PathBuf); 2] {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    [
        ("CARGO_BUILD_BUILD_DIR", temporary.parent().unwrap().into()),
        ("CARGO_TARGET_DIR", temporary.join("clients")),
    ]
}

/// The folder in which the built library lies as `libcuda.so.1`.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Cargo builds no shared library for a test of another package, so the test asks it to.
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "cuda-green-sim-driver"])
            .args(["--message-format", "json-render-diagnostics"])
            .envs(elsewhere())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let library = String::from_utf8(built.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "cuda_green_sim_driver")
            .find_map(|message| Some(PathBuf::from(message["filenames"][0].as_str()?)))
            .unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated-libcuda");
        fs::create_dir_all(&folder).unwrap();
        let place = folder.join("libcuda.so.1");
        // Replaced in one step, since another run may have it loaded.
        let new = folder.join(format!("new-{}", std::process::id()));
        fs::copy(library, &new).unwrap();
        fs::rename(new, place).unwrap();
        folder
    })
}

/// Runs one of the Python programs with the simulated driver in place of the real one.
fn python(program: &str, packages: &[&str], profile: &str, version: &str) {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cuda/python");
    let what = format!("{program} on {profile}");
    for package in packages {
        if !fetched.join(package).exists() {
            return skip(&what, &format!("{package} is not fetched"));
        }
    }
    let path = std::env::join_paths(packages.iter().map(|package| fetched.join(package)));
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(program);
    let output = Command::new("python3")
        .arg(program)
        .arg(version)
        .env("PYTHONPATH", path.unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LD_LIBRARY_PATH", folder())
        .env(PROFILE, profile)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skip(&what, &format!("python3: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("went well"),
        "{what}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn cuda_bindings_partitions_a_device() {
    for (profile, version) in [
        ("h200@12.4", "12040"),
        ("h200@12.8", "12080"),
        ("h200@13.0", "13000"),
        ("rtx5090@13.1", "13010"),
        ("b200@13.5", "13050"),
    ] {
        python("bindings.py", &["bindings", "pathfinder"], profile, version);
    }
}

#[test]
fn cuda_core_partitions_a_device() {
    let packages = ["bindings", "core", "pathfinder", "numpy"];
    for (profile, version) in [("h200@13.0", "13000"), ("rtx5090@13.1", "13010")] {
        python("core.py", &packages, profile, version);
    }
}

/// Set in the process that is the client itself.
const CUDARC: &str = "CUDA_GREEN_TEST_CUDARC";

/// cudarc finds the library by its name, as it finds the real one: in a process of its own, with one of
/// these tests as its program. Gives what it said, if it ended well.
fn cudarc(test: &str, profile: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CUDARC, "1")
        .env("LD_LIBRARY_PATH", folder())
        .env_remove("CUDA_GREEN_DRIVER")
        .env(PROFILE, profile)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{profile}: {text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.into_owned()
}

#[test]
fn cudarc_uses_a_device() {
    if std::env::var_os(CUDARC).is_some() {
        return cudarc_program::run();
    }
    for profile in ["h200@12.8", "h200@13.0", "rtx5090@13.5"] {
        let text = cudarc("cudarc_uses_a_device", profile);
        assert!(text.contains("went well"), "{profile}: {text}");
    }
}

/// The example of that name: cudarc's kernels run on the SMs of the partition whose stream they get.
#[test]
fn cudarc_runs_in_partitions() {
    let test = "cudarc_runs_in_partitions";
    let out =
        |profile| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cudarc-{profile}.json"));
    if std::env::var_os(CUDARC).is_some() {
        let profile = std::env::var(PROFILE).unwrap();
        return cudarc_partition::run(Some(&out(profile))).unwrap();
    }
    for (profile, counts) in [
        ("h200@12.8", [32, 32, 32, 36]),
        ("h200@13.0", [32, 32, 32, 36]),
        ("rtx5090@13.5", [42, 42, 42, 44]),
    ] {
        let text = cudarc(test, profile);
        assert!(text.contains("SIMULATED"), "{profile}: {text}");
        let report = fs::read(out(profile.to_owned())).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["simulated"], true);
        let mut all = BTreeSet::new();
        for (id, count) in cuda_green::ContextId::ALL.iter().zip(counts) {
            let seen = &report["figures"][id.to_string()]["sm_ids_seen_by_cudarc"];
            let seen = seen.as_array().unwrap();
            assert_eq!(seen.len(), count, "{profile}, {id}: {text}");
            all.extend(seen.iter().map(|sm| sm.as_u64().unwrap()));
        }
        assert_eq!(all.len(), counts.iter().sum::<usize>(), "they are disjoint");
    }
}

/// Set in the process that loads the library itself.
const OWN: &str = "CUDA_GREEN_TEST_OWN";

/// As a library it is a simulated driver still, and figures that come from it can be told from real ones.
#[test]
fn the_safe_crate_knows_it_for_what_it_is() {
    let library = folder().join("libcuda.so.1");
    if std::env::var_os(OWN).is_some() {
        let driver = cuda_green::Driver::open(&cuda_green::DriverSpec::Path(library)).unwrap();
        assert!(driver.is_simulated());
        assert_eq!(driver.device(0).unwrap().name(), "NVIDIA H200");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_safe_crate_knows_it_for_what_it_is"])
        .env(OWN, "1")
        .env(PROFILE, "h200@13.0")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The project's own loader finds in the library what it finds in the resolver, for each version.
#[test]
fn the_projects_loader_takes_it_for_a_driver_of_its_version() {
    let program = Path::new(env!("CARGO_BIN_EXE_driver-matrix"));
    let library = folder().join("libcuda.so.1");
    for version in cuda_green_sim::cuda_versions() {
        let profile = format!("h200@{version}");
        let variables = [(PROFILE, profile.as_str())];
        let report = drivers::ask(program, Some(library.as_os_str()), &variables).unwrap();
        assert_eq!(report.error, None, "{profile}");
        assert_eq!(report.version, version.to_string());
        assert_eq!(report.init, Some(0), "{profile}");
        for entry in cuda_green_sys::ENTRY_POINTS {
            let missing = report.absent.get(entry.name());
            assert_eq!(
                missing.is_some(),
                entry.since > version,
                "{profile}: {} {missing:?}",
                entry.name()
            );
        }
    }
}

/// Nobody can come upon a simulated GPU without having asked for one.
#[test]
fn without_a_profile_there_is_no_device_and_a_word_why() {
    let library = folder().join("libcuda.so.1");
    for profile in [None, Some("h300@13.0")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_driver-matrix"));
        command.arg("report").arg(&library).env_remove(PROFILE);
        if let Some(profile) = profile {
            command.env(PROFILE, profile);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("simulated CUDA driver: CUDA_GREEN_SIM_PROFILE"),
            "{text}"
        );
        assert!(text.contains("h200"), "{text}");
        let answer = String::from_utf8_lossy(&output.stdout);
        // As a driver on a machine without a GPU: it has a version and functions, and no device.
        assert!(
            answer.contains("\"error\": null") && answer.contains("\"init\": 100"),
            "{answer}"
        );
    }
}

/// `CUDA_VISIBLE_DEVICES` hides devices, as from a real driver.
#[test]
fn devices_are_hidden_where_the_environment_says_so() {
    let program = Path::new(env!("CARGO_BIN_EXE_driver-matrix"));
    let library = folder().join("libcuda.so.1");
    for (visible, init) in [("0", 0), ("1,0", 0), ("0,0", 101), ("", 100), ("2", 100)] {
        let variables = [(PROFILE, "2xh200@13.0"), ("CUDA_VISIBLE_DEVICES", visible)];
        let report = drivers::ask(program, Some(library.as_os_str()), &variables).unwrap();
        assert_eq!(
            (report.error, report.init),
            (None, Some(init)),
            "{visible:?}"
        );
    }
}
