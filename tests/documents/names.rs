//! The files and variables that the documents name, and the variables that they must name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::document::{ROOT, files, prose};

/// Files that are named and not committed.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cuda.h", "NVIDIA's header"),
    ("cudaTypedefs.h", "likewise"),
    ("my-gpu.toml", "a user's own"),
    ("Cargo.toml", "a user's own, too"),
    ("target/", "what cargo builds"),
];

/// Whether a word is the name of a file or folder, rather than a type, a command or a pattern.
fn is_a_path(word: &str) -> bool {
    const ENDS: [&str; 10] = [
        ".h", ".json", ".md", ".py", ".rs", ".sh", ".svg", ".toml", ".yml", "/",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    ENDS.iter().any(|end| word.ends_with(end)) && word.chars().all(plain) && !word.starts_with('/')
}

/// Whether there is such a file or folder: from the root, from the document's folder, or from the sources of
/// any crate.
fn is_there(document: &str, path: &str) -> bool {
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let from_here = format!("{folder}/{path}");
    files().iter().any(|file| {
        let tail = file.split_once("/src/").map_or("", |(_, tail)| tail);
        let name = file.rsplit('/').next().unwrap_or_default();
        let matches = |candidate: &str| match path.ends_with('/') {
            true => candidate.starts_with(path),
            false => candidate == path,
        };
        matches(file)
            || matches(tail)
            || file == &from_here
            || (path.ends_with('/') && file.starts_with(&from_here))
            || (!path.contains('/') && name == path)
    })
}

#[test]
fn files_that_are_named_are_there() {
    let mut wrong = Vec::new();
    for document in prose() {
        for code in &document.codes {
            let path = &*code.text;
            let elsewhere = ELSEWHERE.iter().any(|(known, _)| *known == path);
            if is_a_path(path) && !elsewhere && !is_there(&document.path, path) {
                wrong.push(format!("{}:{}: {path}", document.path, code.line));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_is_not_there_is_told() {
    for (path, there) in [
        ("wrapper.h", true),
        ("tests/conformance/", true),
        ("timeline.rs", true),
        ("manager/", true),
        ("driver/green_contexts.rs", true),
        ("tests/rules/time.rs", true),
        ("timelines.rs", false),
        ("tests/conformity/", false),
        ("src/nothing.rs", false),
    ] {
        assert!(is_a_path(path));
        assert_eq!(is_there("cuda-green-sim/README.md", path), there, "{path}");
    }
}

/// Someone who copies a manifest gets the version that the page is about.
#[test]
fn manifests_name_this_version() {
    let mut seen = 0;
    for document in prose() {
        let manifests = document
            .blocks
            .iter()
            .filter(|block| block.language == "toml");
        for line in manifests.flat_map(|block| block.text.lines()) {
            let Some((name, rest)) = line.split_once(" = ") else {
                continue;
            };
            if name.starts_with("cuda-green") {
                let version = rest.split('"').nth(1).unwrap();
                let place = &document.path;
                assert!(
                    env!("CARGO_PKG_VERSION").starts_with(version),
                    "{place}: {line}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 0);
}

/// Variables that cargo sets for what it builds.
const OF_CARGO: [&str; 2] = ["HOST", "OUT_DIR"];

/// The file that looks at the driver's own variables, by way of a function.
const CHECK: &str = "cuda-green-cli/src/commands/check/surroundings.rs";

fn asked_for(check: &str) -> impl Iterator<Item = &str> {
    let quoted = check.split("(\"").skip(1).filter_map(name_at);
    quoted.filter(|name| name.starts_with("CUDA_"))
}

/// The variables that the workspace's sources name, each with a file that does: all that begin with
/// `CUDA_GREEN_`, and those that are read by another name.
fn in_sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in files() {
        let code = [".rs", ".sh", ".py", ".yml", ".ci/run"]
            .iter()
            .any(|end| file.ends_with(end));
        // What this file says is no use of a variable.
        if !code || file == "tests/documents/names.rs" {
            continue;
        }
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        let mut names: BTreeSet<&str> = own_names(&text).collect();
        for read in ["var(\"", "var_os(\"", "environ[\"", "environ.get(\"", "${"] {
            names.extend(text.split(read).skip(1).filter_map(name_at));
        }
        if file == CHECK {
            names.extend(asked_for(&text));
        }
        for name in names {
            if !name.starts_with("CARGO") && !OF_CARGO.contains(&name) {
                found.insert(name.to_owned(), file.clone());
            }
        }
    }
    found
}

/// The name that a text begins with, if one does.
fn name_at(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let name = &text[..end.unwrap_or(text.len())];
    (name.len() > 2).then_some(name)
}

fn own_names(text: &str) -> impl Iterator<Item = &str> {
    let starts = text
        .match_indices("CUDA_GREEN_")
        .map(|(start, _)| &text[start..]);
    starts
        .filter_map(name_at)
        .filter(|name| *name != "CUDA_GREEN_")
}

/// A name, or the beginning of names that the guide gives as `CUDA_GREEN_TEST_…`.
fn is_said(guide: &str, name: &str) -> bool {
    let mut starts = guide.split('`').filter_map(|word| word.strip_suffix('…'));
    guide.contains(&format!("`{name}`")) || starts.any(|start| name.starts_with(start))
}

#[test]
fn the_guide_has_every_variable() {
    let guide = prose().find(|document| document.path == "cuda-green/guide/environment.md");
    let guide = &guide.unwrap().text;
    let found = in_sources();
    for known in [
        "CUDA_GREEN_DRIVER",
        "CUDA_GREEN_SIM_PROFILE",
        "BLESS",
        "CUDA_LAUNCH_BLOCKING",
    ] {
        assert!(
            found.contains_key(known),
            "{known} is not found in the sources"
        );
    }
    let unsaid: Vec<_> = found
        .iter()
        .filter(|(name, _)| !is_said(guide, name))
        .collect();
    assert!(
        unsaid.is_empty(),
        "the guide `environment` does not have {unsaid:?}"
    );
}

/// The guide ticks those that `cuda-green check` looks at.
#[test]
fn the_guide_ticks_what_is_checked() {
    let guide = prose().find(|document| document.path == "cuda-green/guide/environment.md");
    let ticked = guide
        .unwrap()
        .text
        .lines()
        .filter(|line| line.contains("| ✓ |"));
    let ticked: BTreeSet<&str> = ticked
        .filter_map(|line| name_at(line.strip_prefix("| `")?))
        .collect();
    let check = fs::read_to_string(Path::new(ROOT).join(CHECK)).unwrap();
    assert_eq!(
        ticked,
        asked_for(&check).collect(),
        "left: ticked; right: checked"
    );
}

/// A variable that no source names does nothing.
#[test]
fn variables_that_are_named_exist() {
    let found = in_sources();
    for document in prose() {
        for name in own_names(&document.text) {
            let start = name.ends_with('_') && found.keys().any(|known| known.starts_with(name));
            assert!(
                found.contains_key(name) || start,
                "{}: {name}",
                document.path
            );
        }
    }
}
