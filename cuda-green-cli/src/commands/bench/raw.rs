//! The driver's raw calls, which this library is held against.

use cuda_green::sys::{CUresult, MissingEntryPoint};

/// Both ways in which a raw call can fail, as one.
pub fn ok(result: Result<CUresult, MissingEntryPoint>) -> anyhow::Result<()> {
    Ok(result?.ok()?)
}
