//! Checks of the published crates as their users get them: each from its archive, with the
//! oldest Rust, with the oldest dependencies, on Windows, on docs.rs, under their licences.

mod archives;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::skipped::{is_there, matrix_is_required};

/// The crates that are published.
pub const PUBLISHED: [&str; 6] = [
    "cuda-green-sys",
    "cuda-green-sim",
    "cuda-green",
    "cuda-green-queue",
    "cuda-green-embed",
    "cuda-green-cli",
];

/// Those that need a newer Rust than the workspace's, and which: all of the first, and the feature `embed` of the second.
const NEWER: ([&str; 2], &str) = (["cuda-green-embed", "cuda-green-cli"], "1.89");

/// `--package=` for each of them.
fn packages() -> [String; 6] {
    PUBLISHED.map(|package| format!("--package={package}"))
}

/// Makes every check; returns a line for each that could not be made.
pub fn check(shell: &Shell) -> Result<Vec<String>> {
    let packages = &packages();
    // A user may want none of the features, and must not need what the workspace's tests need.
    for package in packages {
        cmd!(
            shell,
            "cargo clippy {package} --no-default-features -- -D warnings"
        )
        .run()?;
    }
    contents(shell)?;
    archives::check(shell)?;
    {
        // As docs.rs does, where no one sees a warning; its nightly marks what needs a feature.
        let _flags = shell.push_env("RUSTDOCFLAGS", "-D warnings --cfg docsrs");
        let _nightly = shell.push_env(
            "RUSTC_BOOTSTRAP",
            "cuda_green,cuda_green_embed,cuda_green_queue",
        );
        cmd!(shell, "cargo doc --no-deps --all-features {packages...}").run()?;
    }
    // Not the program: cargo ignores a dependency on a package without a library, so that it would not be
    // compiled, and what its dependencies ask of others would only raise versions for the libraries.
    let [libraries @ .., embed, _program] = PUBLISHED;
    minimal_versions(shell, &libraries)?;
    // Alone for the same reason: its tokeniser asks for newer versions of what the others have.
    minimal_versions(shell, &[embed])?;
    let mut skipped = Vec::new();
    skipped.extend(msrv(shell)?);
    skipped.extend(windows(shell)?);
    skipped.extend(deny(shell)?);
    skipped.extend(semver(shell)?);
    Ok(skipped)
}

/// Checks that each archive has the licences and a README, and each manifest what the registry asks for.
fn contents(shell: &Shell) -> Result<()> {
    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version=1").quiet();
    let metadata: Value = serde_json::from_str(&metadata.read()?)?;
    for name in PUBLISHED {
        let files = cmd!(shell, "cargo package --list --allow-dirty --package={name}").quiet();
        let files = files.read()?;
        for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
            let there = files.lines().any(|line| line == file);
            ensure!(there, "{name}'s archive has no {file}");
        }
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let manifest = packages.into_iter().find(|package| package["name"] == name);
        let complaint = manifest.map_or(Some("no manifest"), refused);
        ensure!(complaint.is_none(), "{name}: {complaint:?}");
    }
    Ok(())
}

/// Returns the registry's objection to a manifest, which a dry run does not show.
fn refused(manifest: &Value) -> Option<&'static str> {
    let words = |key: &str| {
        let list = manifest[key].as_array();
        let words = list.into_iter().flatten().filter_map(Value::as_str);
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let (keywords, categories) = (words("keywords"), words("categories"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_+".contains(c);
    if manifest["description"].is_null() || manifest["license"].is_null() {
        Some("it has no description or no licence")
    } else if keywords.len() > 5 || keywords.iter().any(|word| word.len() > 20) {
        Some("there may be 5 keywords, of 20 characters each")
    } else if !keywords.iter().all(|word| word.chars().all(plain)) {
        Some("a keyword is made of letters, digits, `-`, `_` and `+`")
    } else if categories.len() > 5 || !categories.iter().all(|c| CATEGORIES.contains(&&**c)) {
        Some("there may be 5 categories, of those that the registry has")
    } else {
        None
    }
}

/// Categories of the registry (crates.io/category_slugs) that are used here.
const CATEGORIES: [&str; 9] = [
    "api-bindings",
    "command-line-utilities",
    "concurrency",
    "development-tools::testing",
    "external-ffi-bindings",
    "hardware-support",
    "science",
    "simulation",
    "text-processing",
];

/// Checks the published crates with the oldest Rust that each promises to build with, or says why not.
/// If nothing may be skipped, asks rustup for those toolchains first.
fn msrv(shell: &Shell) -> Result<Vec<String>> {
    let (newer, newer_version) = NEWER;
    let [rest @ .., _, _] = packages();
    let newer = newer.map(|package| format!("--package={package}"));
    let program = &newer[1..];
    let mut skipped = Vec::new();
    for (version, packages, features) in [
        (env!("CARGO_PKG_RUST_VERSION"), &rest[..], "--all-features"),
        (
            env!("CARGO_PKG_RUST_VERSION"),
            program,
            "--no-default-features",
        ),
        (newer_version, &newer[..], "--all-features"),
    ] {
        if !has_toolchain(shell, version) {
            skipped.push(format!(
                "Rust {version}: `rustup toolchain install {version}` would add it"
            ));
            continue;
        }
        // A folder of its own, or each of the compilers would undo what the other has built.
        cmd!(
            shell,
            "rustup run {version} cargo check {packages...} {features} --target-dir target/msrv"
        )
        .run()?;
    }
    skipped.dedup();
    Ok(skipped)
}

/// Returns whether there is a toolchain. If nothing may be skipped, asks rustup for it first.
fn has_toolchain(shell: &Shell, version: &str) -> bool {
    let there = || is_there(cmd!(shell, "rustup run {version} rustc --version"));
    if matrix_is_required() && !there() {
        // That it failed shows in the next line.
        let _ = cmd!(
            shell,
            "rustup toolchain install {version} --profile minimal"
        )
        .run();
    }
    there()
}

/// Checks that the published crates compile for Windows; nothing is linked, so no other tool is needed.
fn windows(shell: &Shell) -> Result<Option<String>> {
    const TARGET: &str = "x86_64-pc-windows-gnu";
    let there = || {
        let installed = cmd!(shell, "rustup target list --installed").quiet();
        let installed = installed.ignore_stderr().read().unwrap_or_default();
        installed.lines().any(|line| line == TARGET)
    };
    if matrix_is_required() && !there() {
        // That it failed shows in the next line.
        let _ = cmd!(shell, "rustup target add {TARGET}").run();
    }
    if !there() {
        return Ok(Some(format!(
            "Windows: `rustup target add {TARGET}` would add it"
        )));
    }
    let packages = &packages();
    cmd!(
        shell,
        "cargo check {packages...} --all-features --target {TARGET} --target-dir target/windows"
    )
    .run()?;
    Ok(None)
}

/// Checks some published crates with the oldest version of each dependency that their manifests allow: in
/// a package of its own that depends on them, whose lock file is set to those versions.
fn minimal_versions(shell: &Shell, packages: &[&str]) -> Result<()> {
    let folder = crate::root().join("target/minimal");
    let mut manifest = String::from(
        "[package]\nname = \"minimal\"\nedition = \"2024\"\n\n[workspace]\n\n[lib]\npath = \"lib.rs\"\n\n[dependencies]\n",
    );
    for package in packages {
        manifest += &format!("{package} = {{ path = \"../../{package}\" }}\n");
    }
    // With its features, which have dependencies of their own.
    manifest = manifest.replace(
        "cuda-green\" }",
        "cuda-green\", features = [\"metrics\", \"serde\", \"test-utils\", \"tracing\"] }",
    );
    manifest = manifest.replace(
        "cuda-green-queue\" }",
        "cuda-green-queue\", features = [\"metrics\", \"serde\", \"test-utils\", \"tracing\"] }",
    );
    manifest = manifest.replace(
        "cuda-green-embed\" }",
        "cuda-green-embed\", features = [\"test-utils\"] }",
    );
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("Cargo.toml"), manifest)?;
    fs::write(folder.join("lib.rs"), "")?;

    let metadata = cmd!(shell, "cargo metadata --no-deps --format-version=1").quiet();
    let oldest = oldest(&serde_json::from_str(&metadata.read()?)?, packages);
    ensure!(
        !oldest.is_empty(),
        "no dependency was found in the manifests"
    );
    let _folder = shell.push_dir(&folder);
    cmd!(shell, "cargo generate-lockfile --quiet").run()?;
    for (name, version) in &oldest {
        let lock = fs::read_to_string(folder.join("Cargo.lock"))?;
        // What only a program needs is in no library's graph.
        let Some(locked) = locked(&lock, name, version) else {
            continue;
        };
        cmd!(
            shell,
            "cargo update --quiet --package {name}@{locked} --precise {version}"
        )
        .run()?;
    }
    cmd!(shell, "cargo check --target-dir ..")
        .run()
        .with_context(|| {
            format!("{packages:?} do not build with {oldest:?}, which their manifests allow")
        })
}

/// Returns the version of a package in a lock file that a requirement of `version` allows. There can be others beside it.
fn locked<'a>(lock: &'a str, name: &str, version: &str) -> Option<&'a str> {
    let compatible = |version: &str| {
        let mut parts = version.split('.').map(str::to_owned);
        let major = parts.next().unwrap_or_default();
        let minor = parts.next().filter(|_| major == "0");
        (major, minor)
    };
    let header = format!("name = \"{name}\"\nversion = \"");
    let versions = lock.split(&header).skip(1);
    versions
        .filter_map(|rest| rest.split('"').next())
        .find(|found| compatible(found) == compatible(version))
}

/// Name and oldest version of each dependency from the registry that a user of these crates gets.
fn oldest(metadata: &Value, packages: &[&str]) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        if !packages.iter().any(|name| package["name"] == *name) {
            continue;
        }
        for dependency in list(&package["dependencies"]) {
            let (Some(name), Some(requirement)) =
                (dependency["name"].as_str(), dependency["req"].as_str())
            else {
                continue;
            };
            // `kind` is null for what is neither for tests nor for the build, `source` for paths.
            if dependency["kind"].is_null() && !dependency["source"].is_null() {
                let mut version = requirement.trim_start_matches(['^', '=']).to_owned();
                while version.matches('.').count() < 2 {
                    version += ".0";
                }
                found.push((name.to_owned(), version));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Licences, sources and known vulnerabilities of all that the workspace depends on.
fn deny(shell: &Shell) -> Result<Vec<String>> {
    if !is_there(cmd!(shell, "cargo deny --version")) {
        let line = "licences and advisories: `cargo install cargo-deny` would add it";
        return Ok(vec![line.to_owned()]);
    }
    cmd!(shell, "cargo deny check licenses bans sources").run()?;
    let output = cmd!(shell, "cargo deny check advisories")
        .ignore_status()
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("failed to fetch advisory database") {
        return Ok(vec![
            "advisories: their database cannot be reached".to_owned(),
        ]);
    }
    ensure!(output.status.success(), "{said}");
    Ok(Vec::new())
}

/// Checks that the public API changed no more since the newest release's tag than the version says.
fn semver(shell: &Shell) -> Result<Option<String>> {
    let tags = cmd!(shell, "git tag --list v* --sort=-version:refname").quiet();
    let tags = tags.ignore_stderr().read().unwrap_or_default();
    let Some(release) = tags.lines().next() else {
        return Ok(Some(
            "semver: nothing was released yet that the API could be compared with".to_owned(),
        ));
    };
    if !is_there(cmd!(shell, "cargo semver-checks --version")) {
        return Ok(Some(
            "semver: `cargo install cargo-semver-checks` would add it".to_owned(),
        ));
    }
    let packages = &packages();
    cmd!(
        shell,
        "cargo semver-checks {packages...} --baseline-rev {release}"
    )
    .run()?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{PUBLISHED, oldest, refused};

    #[test]
    fn what_the_registry_refuses_is_told() {
        let good = json!({
            "description": "x", "license": "MIT", "keywords": ["green-context"], "categories": ["simulation"],
        });
        assert_eq!(refused(&good), None);
        for (key, value) in [
            ("description", json!(null)),
            ("keywords", json!(["a", "b", "c", "d", "e", "f"])),
            ("keywords", json!(["longer-than-twenty-characters"])),
            ("keywords", json!(["green context"])),
            ("categories", json!(["gpu"])),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(refused(&bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_oldest_version_is_the_requirement_itself() {
        let dependency = |name: &str, req: &str, kind: Option<&str>, source: Option<&str>| json!({ "name": name, "req": req, "kind": kind, "source": source });
        let metadata = json!({ "packages": [
            { "name": "cuda-green", "dependencies": [
                dependency("log", "^0.4.20", None, Some("registry")),
                dependency("cuda-green-sys", "^0.1.0", None, None),
                dependency("proptest", "^1.8", Some("dev"), Some("registry")),
            ] },
            { "name": "cuda-green-sys", "dependencies": [
                dependency("libloading", "^0.9", None, Some("registry")),
                dependency("log", "^0.4.20", None, Some("registry")),
            ] },
            { "name": "xtask", "dependencies": [dependency("anyhow", "^1", None, Some("registry"))] },
        ] });
        let found = oldest(&metadata, &PUBLISHED);
        let pairs: Vec<_> = found
            .iter()
            .map(|(name, version)| (&**name, &**version))
            .collect();
        assert_eq!(pairs, [("libloading", "0.9.0"), ("log", "0.4.20")]);
    }
}
