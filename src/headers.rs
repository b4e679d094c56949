//! The findings of `build.rs` in each set of CUDA headers.

use std::{collections::BTreeMap, sync::LazyLock};

use cuda_green_sys::CudaVersion;
use serde::Deserialize;

use crate::artifacts;

/// Every header set that the matrix covers, oldest first.
pub static VERSIONS: LazyLock<Vec<&'static str>> = LazyLock::new(|| artifacts::headers().collect());

/// The one that the committed bindings come from.
pub fn newest() -> &'static str {
    VERSIONS.last().copied().unwrap_or_default()
}

/// Structs that gain fields at their end. They lie in the union of `CUdevResource`, whose size stays
/// the same, and no function takes one by itself.
pub const GROWING: &[&str] = &["CUdevSmResource_st"];

/// All that the build found.
#[derive(Deserialize)]
pub struct Facts {
    /// The names in the table of entry points, as the build read them.
    pub symbols: Vec<String>,
    /// The header sets by version.
    pub headers: BTreeMap<CudaVersionKey, Header>,
    /// The missing tools and headers, in words.
    pub problems: Vec<String>,
}

/// A version as the folders have it. The text sorts rightly as long as no minor has two digits, which
/// a test holds.
pub type CudaVersionKey = String;

/// The content of one set of headers.
#[derive(Deserialize)]
pub struct Header {
    /// Each struct and union by name, as bindgen sees it.
    pub layouts: BTreeMap<String, Layout>,
    /// The same as C's compiler sees it, with each field's offset and size.
    pub probe: BTreeMap<String, Layout<[u64; 2]>>,
    /// Each constant's value; those of enums as `CUresult::…`.
    pub constants: BTreeMap<String, String>,
    /// The meaning of each type name.
    pub aliases: BTreeMap<String, String>,
    /// Each function's parameters: name and type.
    pub functions: BTreeMap<String, Vec<(String, String)>>,
    /// For each name that `cuGetProcAddress` knows, the versions that brought a new ABI.
    pub versions: BTreeMap<String, Vec<i32>>,
}

/// A struct's or union's layout.
#[derive(Deserialize)]
pub struct Layout<Field = u64> {
    /// In bytes.
    pub size: u64,
    /// In bytes.
    pub align: u64,
    /// Each field's offset by its C path, such as `clusterDim.x`.
    pub fields: BTreeMap<String, Field>,
}

/// rustc's layout of one committed type.
pub struct Rust {
    /// The type's name.
    pub name: &'static str,
    /// In bytes.
    pub size: usize,
    /// In bytes.
    pub align: usize,
    /// Each field: C path, offset, size.
    pub fields: &'static [(&'static str, usize, usize)],
}

/// Returns rustc's layout of every committed struct and union.
pub static RUST: &[Rust] = {
    #[allow(unused_imports)]
    use cuda_green_sys::*;
    #[allow(unused_imports)]
    use std::os::raw::*;
    include!(concat!(env!("OUT_DIR"), "/layouts.rs"))
};

/// The newest header's bindings, in the same formatting as [`COMMITTED`].
pub fn generated_path() -> String {
    format!("{}/{}.rs", env!("OUT_DIR"), newest())
}

/// The committed bindings, with nothing but the formatting changed.
pub const COMMITTED: &str = include_str!(concat!(env!("OUT_DIR"), "/committed.rs"));

/// Returns the findings of the build.
pub static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let facts = include_str!(concat!(env!("OUT_DIR"), "/facts.json"));
    serde_json::from_str(facts).unwrap_or_else(|error| Facts {
        symbols: Vec::new(),
        headers: BTreeMap::new(),
        problems: vec![format!("the build's facts cannot be read: {error}")],
    })
});

/// Each header set of the matrix, oldest first, and `None` for one that is missing.
pub fn all() -> impl Iterator<Item = (&'static str, Option<&'static Header>)> {
    VERSIONS
        .iter()
        .map(|version| (*version, FACTS.headers.get(*version)))
}

/// Why a header set is missing, as far as the build knows.
pub fn why_missing() -> String {
    if FACTS.problems.is_empty() {
        "not fetched: run `cargo xtask fetch`".to_owned()
    } else {
        FACTS.problems.join("; ")
    }
}

/// A header set's version as a value.
pub fn version(text: &str) -> CudaVersion {
    text.parse().unwrap_or(CudaVersion::new(0, 0))
}
