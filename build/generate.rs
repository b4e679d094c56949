//! bindgen's part: the settings from which the committed bindings come.

use std::{error::Error, path::Path, process::Command};

use bindgen::Builder;

/// The beginning of the generated file, in whose place of `{version}` the header's version comes.
const COMMENT: &str =
    "//! Types and constants of the CUDA driver API, generated from `wrapper.h` with the {version} header.
//!
//! Never edited: `cargo xtask bindings` in the workspace writes this file, and `tests/bindings.rs`
//! fails when it differs from what the header gives.

";

/// Types that no signature names, because C passes them as plain integers.
const EXTRA_TYPES: &str = "CUdevSmResourceSplitByCount_flags|CUdevSmResourceSplit_flags|CUdevSmResourceGroup_flags|CUgreenCtxCreate_flags|\
     CUstream_flags|CUevent_flags|CUevent_record_flags|CUctx_flags|CUfunction_attribute|\
     CUgraphInstantiate_flags";
/// The enum that had another name up to 13.0, with the same constants.
const RENAMED: (&str, &str) = (
    "CUdevSmResourceSplit_flags",
    "CUdevSmResourceSplitByCount_flags",
);
/// Constants that are macros.
const EXTRA_CONSTANTS: &str = "CUDA_VERSION|CU_DEV_SM_RESOURCE_GROUP_LOCALITY_DOMAIN_ID_ANY|CU_MEMHOSTALLOC_.*|CU_MEMHOSTREGISTER_.*";

/// Makes libclang ready, or says why there is none.
pub fn prepare(fetched: &Path) -> Result<(), String> {
    if fetched.join("libclang.so").exists() {
        // SAFETY: a build script's `main` runs on its only thread, and nothing was started yet.
        unsafe { std::env::set_var("LIBCLANG_PATH", fetched) };
    }
    // bindgen panics where there is no libclang. That is no failure of this build.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let version = std::panic::catch_unwind(bindgen::clang_version);
    std::panic::set_hook(hook);
    version
        .map(|_| ())
        .map_err(|_| "no libclang: run `cargo xtask fetch`, or install libclang-dev".to_owned())
}

/// The types and constants that the crate uses, as this header set has them.
pub fn bindings(
    wrapper: &Path,
    headers: &Path,
    symbols: &[String],
) -> Result<syn::File, Box<dyn Error>> {
    let mut builder = builder(wrapper, headers)
        .allowlist_type(EXTRA_TYPES)
        .allowlist_var(EXTRA_CONSTANTS);
    for symbol in symbols {
        builder = builder.allowlist_function(symbol);
    }
    let text = builder.generate()?.to_string();
    let mut file = syn::parse_file(&text.replace(RENAMED.0, RENAMED.1))?;
    // The functions are loaded at run time, never linked.
    file.items
        .retain(|item| !matches!(item, syn::Item::ForeignMod(_)));
    Ok(file)
}

/// The functions' declarations alone.
///
/// The header renames a function to its newest ABI by macro, which hides the older symbols. Its own
/// switch for building the driver declares every symbol under its true name.
pub fn declarations(
    wrapper: &Path,
    headers: &Path,
    symbols: &[String],
) -> Result<syn::File, Box<dyn Error>> {
    let mut builder = builder(wrapper, headers).clang_arg("-D__CUDA_API_VERSION_INTERNAL");
    for symbol in symbols {
        builder = builder.allowlist_function(symbol);
    }
    Ok(syn::parse_file(&builder.generate()?.to_string())?)
}

/// The same with the comment that the committed file begins with.
pub fn with_comment(mut file: syn::File, version: &str) -> syn::Result<syn::File> {
    file.attrs = syn::parse_file(&COMMENT.replace("{version}", version))?.attrs;
    Ok(file)
}

fn builder(wrapper: &Path, headers: &Path) -> Builder {
    let mut builder = Builder::default()
        .header(wrapper.to_string_lossy())
        .clang_arg(format!("-I{}", headers.display()))
        // NVIDIA's comments are NVIDIA's text.
        .generate_comments(false)
        // A value that the driver sends may be newer than this binding, so it must not be a Rust enum.
        .newtype_enum(".*")
        .must_use_type("cudaError_enum")
        // Its `Debug` reads as its name: see `result_text.rs` of the crate.
        .no_debug("cudaError_enum")
        .derive_default(true)
        .allowlist_recursively(true)
        .size_t_is_usize(true)
        .sort_semantically(true)
        .formatter(bindgen::Formatter::None);
    if let Some(folder) = compiler_headers() {
        builder = builder.clang_arg(format!("-I{folder}"));
    }
    builder
}

/// The folder of `stddef.h`, which libclang alone does not bring.
fn compiler_headers() -> Option<String> {
    let output = Command::new("cc")
        .arg("-print-file-name=include")
        .output()
        .ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
