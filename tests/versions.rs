//! What is said of versions and devices elsewhere is what the headers, the simulator and the tables say.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::{ffi::c_char, path::Path};

use cuda_green::{CudaVersion, sim::Sim};
use cuda_green_sys::{CUresult, ENTRY_POINTS};
use driver_matrix::{
    headers::{self, Header, VERSIONS},
    skip::skip,
    steps,
};

fn read(document: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap()
}

#[test]
fn the_simulator_speaks_each_version_up_to_the_newest_header() {
    let known: Vec<_> = cuda_green_sim::cuda_versions().collect();
    for version in VERSIONS.iter() {
        assert!(known.contains(&headers::version(version)), "{version}");
    }
    let newest = headers::version(headers::newest());
    assert_eq!(known.last(), Some(&newest), "or the bindings are not its");
}

/// What shows a capability: the entry point or the constant that came with it, or nothing where a version
/// only allows more.
enum Sign {
    EntryPoint(&'static str),
    Constant(&'static str),
    Words,
}

fn sign(capability: &str) -> Sign {
    match capability {
        "green_contexts" => Sign::EntryPoint("cuGreenCtxCreate"),
        "split_flags" => Sign::Constant(
            "CUdevSmResourceSplitByCount_flags::CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING",
        ),
        "merge" | "shared_current" => Sign::Words,
        "direct_streams" => Sign::EntryPoint("cuGreenCtxStreamCreate"),
        "context_ids" => Sign::EntryPoint("cuGreenCtxGetId"),
        "structured_split" => Sign::EntryPoint("cuDevSmResourceSplit"),
        "workqueues" => Sign::Constant("CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG"),
        "stream_resources" => Sign::EntryPoint("cuStreamGetDevResource"),
        "plain_creation" => Sign::Constant("CUgreenCtxCreate_flags::CU_GREEN_CTX_NONE"),
        "locality_domains" => Sign::Constant(
            "CUdevSmResourceGroup_flags::CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID",
        ),
        other => panic!("say here what in the headers shows `{other}`"),
    }
}

#[test]
fn each_capability_began_with_what_shows_it() {
    for feature in steps::features(CudaVersion::new(0, 0)) {
        match sign(feature.name) {
            Sign::EntryPoint(name) => {
                let entry = ENTRY_POINTS.iter().find(|entry| entry.name() == name);
                assert_eq!(
                    entry.map(|entry| entry.since),
                    Some(feature.since),
                    "{name}"
                );
            }
            Sign::Constant(name) => {
                each("capabilities", |version, header| {
                    let expected = headers::version(version) >= feature.since;
                    assert_eq!(
                        header.constants.contains_key(name),
                        expected,
                        "{name} in {version}"
                    );
                });
            }
            Sign::Words => {}
        }
    }
}

/// Calls `check` with each header set that is there.
fn each(test: &str, check: impl Fn(&'static str, &'static Header)) {
    for (version, header) in headers::all() {
        match header {
            Some(header) => check(version, header),
            None => skip(
                &format!("{test} with header {version}"),
                &headers::why_missing(),
            ),
        }
    }
}

/// A driver knows the names of the errors of its own version (on an H200, driver 580).
#[test]
fn the_simulator_knows_the_error_codes_of_each_version_s_header() {
    let Some(newest) = headers::all().last().and_then(|(_, header)| header) else {
        return skip("error codes by version", &headers::why_missing());
    };
    each("error codes by version", |version, header| {
        let simulator = Sim::new(&format!("h200@{version}")).unwrap();
        let api = simulator.api().unwrap();
        let codes = newest.constants.iter();
        for (name, value) in codes.filter(|(name, _)| name.starts_with("cudaError_enum::")) {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: the output is valid for one pointer.
            let code = unsafe { api.cuGetErrorName(CUresult(value.parse().unwrap()), &mut text) };
            assert_eq!(
                code.unwrap() == CUresult::CUDA_SUCCESS,
                header.constants.contains_key(name),
                "{name} in {version}"
            );
        }
    });
}

#[test]
fn the_documents_name_the_newest_version() {
    let newest = headers::newest();
    let documents = [
        "README.md",
        "cuda-green-sys/README.md",
        "cuda-green-sim/README.md",
        "cuda-green/guide/testing.md",
    ];
    let lacking: Vec<_> = documents
        .into_iter()
        .filter(|document| !read(document).contains(newest))
        .collect();
    assert!(lacking.is_empty(), "{newest} is not in {lacking:?}");
}

#[test]
fn the_simulator_s_readme_lists_each_device() {
    let readme = read("cuda-green-sim/README.md");
    for device in cuda_green_sim::profiles() {
        let (major, minor) = device.compute_capability;
        let name = format!("`{}`", device.name);
        let figures = format!("| {} | {major}.{minor} |", device.sm_count);
        let mut rows = readme.lines().filter(|line| line.starts_with('|'));
        assert!(
            rows.any(|row| row.contains(&name) && row.ends_with(&figures)),
            "no row has {name} {figures}"
        );
    }
}
