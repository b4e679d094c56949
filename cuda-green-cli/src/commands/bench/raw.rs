//! The driver's raw calls, with which this library is compared.

use cuda_green::sys::{CUresult, MissingEntryPoint};

/// Merges the two ways in which a raw call can fail.
pub fn ok(result: Result<CUresult, MissingEntryPoint>) -> anyhow::Result<()> {
    Ok(result?.ok()?)
}
