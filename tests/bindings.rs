//! Proves that the committed bindings are those of the newest CUDA header, and right for every older one.
//!
//! `BLESS=1` writes `cuda-green-sys/src/bindings.rs` anew instead of comparing it.

use std::{path::Path, process::Command};

use cuda_green_sys::{CUresult, CudaVersion, ENTRY_POINTS, SIGNATURES};
use driver_matrix::{
    headers::{self, COMMITTED, FACTS, GROWING, Header, VERSIONS},
    skip::{bless, skip},
};

/// The newest header, or `None` with a word on it.
fn newest(test: &str) -> Option<&'static Header> {
    let version = headers::newest();
    let header = FACTS.headers.get(version);
    if header.is_none() {
        skip(
            &format!("{test} with header {version}"),
            &headers::why_missing(),
        );
    }
    header
}

/// Calls `check` with each header set that is there, and fails with all that it complains of.
fn each(test: &str, check: impl Fn(&'static str, &'static Header, &mut Vec<String>)) {
    let mut complaints = Vec::new();
    for (version, header) in headers::all() {
        match header {
            None => skip(
                &format!("{test} with header {version}"),
                &headers::why_missing(),
            ),
            Some(header) => {
                let mut new = Vec::new();
                check(version, header, &mut new);
                complaints.extend(new.into_iter().map(|line| format!("{version}: {line}")));
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_committed_bindings_are_those_of_the_newest_header() {
    if newest("committed bindings").is_none() {
        return;
    }
    let generated = std::fs::read_to_string(headers::generated_path()).unwrap();
    if bless() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda-green-sys/src/bindings.rs");
        std::fs::write(&path, &generated).unwrap();
        let status = Command::new("rustfmt")
            .args(["--edition", "2024"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success(), "rustfmt failed");
        return;
    }
    let difference = generated
        .lines()
        .zip(COMMITTED.lines())
        .enumerate()
        .find(|(_, (new, old))| new != old);
    assert!(
        generated == COMMITTED,
        "cuda-green-sys/src/bindings.rs is not what header {} gives; `cargo xtask bindings` \
         writes it anew. First difference (line, (header, committed)): {difference:?}",
        headers::newest()
    );
}

#[test]
fn the_build_read_every_name_in_the_table() {
    let table: Vec<_> = ENTRY_POINTS.iter().map(|entry| entry.name()).collect();
    assert_eq!(FACTS.symbols, table);
}

#[test]
fn header_versions_sort_as_text() {
    assert!(VERSIONS.is_sorted());
    assert!(VERSIONS.is_sorted_by_key(|text| headers::version(text)));
}

/// Constants that count the others, so that every new one changes them, and the version itself.
const COUNTS: &[&str] = &[
    "CUDA_VERSION",
    "CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX",
    "CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX",
    "CUjit_option_enum::CU_JIT_NUM_OPTIONS",
];

#[test]
fn every_older_header_has_the_same_layouts() {
    let Some(newest) = newest("layouts") else {
        return;
    };
    each("layouts", |version, header, complaints| {
        for (name, old) in &header.layouts {
            let Some(new) = newest.layouts.get(name) else {
                complaints.push(format!("{name} is gone from the newest header"));
                continue;
            };
            let grows = GROWING.contains(&name.as_str()) && old.size < new.size;
            if old.size != new.size && !grows {
                complaints.push(format!("{name}: size {} became {}", old.size, new.size));
            }
            // The one change there is: 13.1 put a pointer into the struct. The driver of an older
            // version reads and writes the same bytes, and stricter alignment does it no harm.
            let documented = name == "CUdevResource_st" && version < "13.1" && old.align == 4;
            if old.align != new.align && !documented {
                complaints.push(format!(
                    "{name}: alignment {} became {}",
                    old.align, new.align
                ));
            }
            for (path, offset) in &old.fields {
                match new.fields.get(path) {
                    Some(now) if now == offset => {}
                    // New fields take their room from the front of what was reserved for them.
                    Some(now) if path == "reserved" && now > offset => {}
                    now => {
                        complaints.push(format!("{name}.{path}: offset {offset} became {now:?}"))
                    }
                }
            }
        }
    });
}

#[test]
fn every_older_header_has_the_same_constants_and_type_names() {
    let Some(newest) = newest("constants") else {
        return;
    };
    each("constants", |_, header, complaints| {
        let compared = header.constants.iter();
        for (name, value) in compared.filter(|(name, _)| !COUNTS.contains(&name.as_str())) {
            match newest.constants.get(name) {
                Some(now) if now == value => {}
                now => complaints.push(format!("{name}: {value} became {now:?}")),
            }
        }
        for (name, target) in &header.aliases {
            match newest.aliases.get(name) {
                Some(now) if now == target => {}
                now => complaints.push(format!("{name}: {target} became {now:?}")),
            }
        }
    });
}

#[test]
fn every_function_has_the_table_s_signature_in_every_header() {
    each("signatures", |version, header, complaints| {
        for (symbol, signature) in SIGNATURES {
            let Some(parameters) = header.functions.get(*symbol) else {
                continue; // whether it may be missing is the next test's matter
            };
            let ours = parse(signature);
            let same = ours.len() == parameters.len()
                && ours.iter().zip(parameters).all(|(our, their)| {
                    // Older headers name some parameters otherwise; C does not care.
                    our.1 == their.1 && (our.0 == their.0 || version != headers::newest())
                });
            if !same {
                complaints.push(format!("{symbol}: table {ours:?}, header {parameters:?}"));
            }
        }
    });
}

/// `(a: c_int, b: *mut c_void)` as names and types, with C's name for bytes.
fn parse(signature: &str) -> Vec<(String, String)> {
    signature
        .trim_start_matches('(')
        .trim_end_matches(')')
        .split(',')
        .filter_map(|parameter| parameter.split_once(':'))
        // How the compiler spaces tokens is no difference.
        .map(|(name, kind)| (name, kind.replace("* ", "*")))
        .map(|(name, kind)| match kind.trim() {
            "u8" => (name.trim().to_owned(), "c_uchar".to_owned()),
            kind => (name.trim().to_owned(), kind.to_owned()),
        })
        .collect()
}

#[test]
fn every_error_code_of_every_header_has_its_name() {
    each("error codes", |_, header, complaints| {
        let mut count = 0;
        for (name, value) in &header.constants {
            let Some(name) = name.strip_prefix("cudaError_enum::") else {
                continue;
            };
            count += 1;
            let code = CUresult(value.parse().unwrap());
            if code.name() != Some(name) {
                complaints.push(format!("{name} ({value}) is {:?} to us", code.name()));
            }
        }
        assert!(count > 50, "the header's error codes were not found");
    });
}

/// Whose typedef names another version than the first header that declares it.
///
/// `cuGreenCtxGetId`: the type is `PFN_cuGreenCtxGetId_v12090`, but no 12.9 header has the function.
const DECLARED_LATER: &[(&str, CudaVersion)] = &[("cuGreenCtxGetId", CudaVersion::new(12, 9))];

#[test]
fn each_entry_point_is_asked_in_the_version_that_introduced_its_abi() {
    let Some(newest) = newest("versions") else {
        return;
    };
    let mut complaints = Vec::new();
    for entry in ENTRY_POINTS {
        let name = entry.proc_name.to_str().unwrap();
        let exception = DECLARED_LATER
            .iter()
            .find(|(symbol, _)| *symbol == entry.name());
        let typed = exception.map_or(entry.since, |(_, version)| *version);
        // The symbol's suffix counts the ABIs: none is the first, `_v2` the second.
        let nth = entry
            .name()
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix("_v"));
        let nth: usize = nth.map_or(1, |n| n.parse().unwrap());
        let versions = newest.versions.get(name).map_or(&[][..], Vec::as_slice);
        if versions.get(nth - 1) != Some(&typed.to_raw()) {
            complaints.push(format!(
                "{}: the table says {} ({}), cudaTypedefs.h has {versions:?}",
                entry.name(),
                entry.since,
                entry.since.to_raw()
            ));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn each_header_declares_exactly_the_entry_points_of_its_version() {
    each("declarations", |version, header, complaints| {
        for entry in ENTRY_POINTS {
            let expected = entry.since <= headers::version(version);
            if header.functions.contains_key(entry.name()) != expected {
                complaints.push(format!(
                    "{} (since {}) is {}declared",
                    entry.name(),
                    entry.since,
                    if expected { "not " } else { "" }
                ));
            }
        }
    });
}
