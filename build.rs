//! Generates bindings from `wrapper.h` for every CUDA header set that is present, and has C's own
//! account of every struct from a probe.
//!
//! The header sets lie under `target/cuda/headers/<major>.<minor>/`, put there by `cargo xtask fetch`.
//! Nothing here reaches a user of the published crates: their bindings are committed, and `tests/`
//! compares them with what this makes. Where a header, libclang or a C compiler is missing, the build
//! still succeeds: the reason is written down, and the tests say what they skip.
//!
//! It writes into `OUT_DIR`:
//! - `<major>.<minor>.rs`: the types and constants that the header gives;
//! - `committed.rs`: the committed bindings in the same formatting;
//! - `facts.json`: what the tests compare, as numbers and names;
//! - `layouts.rs`: the layouts that rustc gives the committed bindings.

#[path = "build/facts.rs"]
mod facts;
#[path = "build/generate.rs"]
mod generate;
#[path = "build/probe.rs"]
mod probe;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// The table of entry points: read as text, so that the bindings can be made anew for a table whose
/// types are not in them yet.
const TABLE: &str = "cuda-green-sys/src/entry_points.rs";
const COMMITTED: &str = "cuda-green-sys/src/bindings.rs";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let cuda = root.join("target/cuda");
    watch(&cuda);

    let symbols = symbols(&fs::read_to_string(root.join(TABLE))?);
    let committed = syn::parse_file(&fs::read_to_string(root.join(COMMITTED))?)?;
    fs::write(
        out.join("layouts.rs"),
        facts::rust_layouts(&facts::layouts(&committed)?),
    )?;
    fs::write(out.join("committed.rs"), facts::normalised(committed))?;

    let mut headers = Map::new();
    let mut problems = Vec::new();
    match generate::prepare(&cuda.join("libclang")) {
        Err(problem) => problems.push(problem),
        Ok(()) => {
            for (version, folder) in header_sets(&cuda.join("headers"))? {
                match one(&root, &out, &version, &folder, &symbols, &mut problems) {
                    Ok(facts) => _ = headers.insert(version, facts),
                    Err(error) => problems.push(format!("header {version}: {error}")),
                }
            }
        }
    }
    let facts = json!({ "symbols": symbols, "headers": headers, "problems": problems });
    fs::write(out.join("facts.json"), serde_json::to_string(&facts)?)?;
    Ok(())
}

/// All that one header set tells.
fn one(
    root: &Path,
    out: &Path,
    version: &str,
    folder: &Path,
    symbols: &[String],
    problems: &mut Vec<String>,
) -> Result<Value, Box<dyn Error>> {
    let wrapper = root.join("wrapper.h");
    let bindings = generate::bindings(&wrapper, folder, symbols)?;
    let layouts = facts::layouts(&bindings)?;
    let header = fs::read_to_string(folder.join("cuda.h"))?;
    let probe = probe::run(out, version, folder, &header, &layouts).unwrap_or_else(|error| {
        problems.push(format!("C probe of header {version}: {error}"));
        Value::Null
    });
    let facts = json!({
        "layouts": facts::layouts_json(&layouts),
        "probe": probe,
        "constants": facts::constants(&bindings),
        "aliases": facts::aliases(&bindings),
        "functions": facts::functions(&generate::declarations(&wrapper, folder, symbols)?),
        "versions": facts::versions(&fs::read_to_string(folder.join("cudaTypedefs.h"))?),
    });
    fs::write(
        out.join(format!("{version}.rs")),
        facts::normalised(generate::with_comment(bindings)?),
    )?;
    Ok(facts)
}

/// Tells cargo what this depends on. A path that does not exist would make it run every time, so the
/// folders are made where they are missing; failing to make them costs nothing but that.
fn watch(cuda: &Path) {
    for path in ["build.rs", "build", "wrapper.h", TABLE, COMMITTED] {
        println!("cargo::rerun-if-changed={path}");
    }
    for folder in ["headers", "libclang"].map(|name| cuda.join(name)) {
        let _ = fs::create_dir_all(&folder);
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
}

/// The names in the table of entry points. `tests/bindings.rs` holds them against the compiled table.
fn symbols(table: &str) -> Vec<String> {
    table
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("cu") && line.ends_with(';') && line.contains("), since ("))
        .filter_map(|line| Some(line.split_once('(')?.0.to_owned()))
        .collect()
}

/// The header sets that are there, by version.
fn header_sets(folder: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let mut sets = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(sets);
    };
    for entry in entries {
        let path = entry?.path();
        if let (true, Some(name)) = (path.join("cuda.h").exists(), path.file_name()) {
            sets.push((name.to_string_lossy().into_owned(), path));
        }
    }
    sets.sort();
    Ok(sets)
}
