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
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// The table of entry points: read as text, so that the bindings can be made anew for a table whose
/// types are not in them yet.
const TABLE: &str = "cuda-green-sys/src/entry_points.rs";
const COMMITTED: &str = "cuda-green-sys/src/bindings.rs";

/// What else the result depends on, for the cache's key: how it is made, and with which bindgen.
const SOURCES: [&str; 4] = [
    include_str!("build/facts.rs"),
    include_str!("build/generate.rs"),
    include_str!("build/probe.rs"),
    include_str!("Cargo.lock"),
];

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
            for set in header_sets(&cuda.join("headers"))? {
                match one(&root, &out, &set, &symbols) {
                    Ok(facts) => _ = headers.insert(set.version, facts),
                    Err(error) => problems.push(format!("header {}: {error}", set.version)),
                }
            }
        }
    }
    let facts = json!({ "symbols": symbols, "headers": headers, "problems": problems });
    fs::write(out.join("facts.json"), serde_json::to_string(&facts)?)?;
    Ok(())
}

/// All that one header set tells: from the cache, or made and put there. Making all of them takes some
/// ten seconds, and the table of entry points is edited more often than its names change.
fn one(
    root: &Path,
    out: &Path,
    set: &HeaderSet,
    symbols: &[String],
) -> Result<Value, Box<dyn Error>> {
    let header = fs::read_to_string(set.folder.join("cuda.h"))?;
    let typedefs = fs::read_to_string(set.folder.join("cudaTypedefs.h"))?;
    let wrapper = root.join("wrapper.h");
    let mut hasher = DefaultHasher::new();
    (&header, &typedefs, fs::read(&wrapper)?, symbols, SOURCES).hash(&mut hasher);
    let cache = root.join("target/cuda/made");
    let cached = cache.join(format!("{}-{:016x}.json", set.version, hasher.finish()));

    let made = match fs::read_to_string(&cached).map(|text| serde_json::from_str(&text)) {
        Ok(Ok(made)) => made,
        _ => {
            let made = make(out, set, &wrapper, &header, &typedefs, symbols)?;
            // A cache that cannot be written costs time and nothing else.
            let _ = fs::create_dir_all(&cache);
            let _ = fs::write(&cached, serde_json::to_string(&made)?);
            made
        }
    };
    let bindings = made["bindings"].as_str().unwrap_or_default();
    fs::write(out.join(format!("{}.rs", set.version)), bindings)?;
    Ok(made["facts"].clone())
}

/// `{bindings, facts}` of one header set.
fn make(
    out: &Path,
    set: &HeaderSet,
    wrapper: &Path,
    header: &str,
    typedefs: &str,
    symbols: &[String],
) -> Result<Value, Box<dyn Error>> {
    let bindings = generate::bindings(wrapper, &set.folder, symbols)?;
    let declarations = generate::declarations(wrapper, &set.folder, symbols)?;
    let layouts = facts::layouts(&bindings)?;
    let facts = json!({
        "layouts": facts::layouts_json(&layouts),
        "probe": probe::run(out, set, header, &layouts)?,
        "constants": facts::constants(&bindings),
        "aliases": facts::aliases(&bindings),
        "functions": facts::functions(&declarations),
        "versions": facts::versions(typedefs),
    });
    let bindings = facts::normalised(generate::with_comment(bindings, &set.version)?);
    Ok(json!({ "bindings": bindings, "facts": facts }))
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

/// One header set.
struct HeaderSet {
    version: String,
    folder: PathBuf,
}

/// The header sets that are there.
fn header_sets(headers: &Path) -> Result<Vec<HeaderSet>, Box<dyn Error>> {
    let mut sets = Vec::new();
    let Ok(entries) = fs::read_dir(headers) else {
        return Ok(sets);
    };
    for entry in entries {
        let folder = entry?.path();
        if let (true, Some(name)) = (folder.join("cuda.h").exists(), folder.file_name()) {
            let version = name.to_string_lossy().into_owned();
            sets.push(HeaderSet { version, folder });
        }
    }
    Ok(sets)
}
