//! Proves that loading is right on every real driver, and a clear error on everything that is none.
//!
//! Every library is loaded in a process of its own, through this package's `report` command. Nothing
//! here needs a GPU, and all of it holds on a machine that has one.

#![cfg(unix)]
// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod made_drivers;
mod no_drivers;
mod real_drivers;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use cuda_green_sys::{CudaVersion, EntryPoint};
use driver_matrix::drivers::{self, Missing, Report};

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: u32 = 100;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_driver-matrix"))
}

fn ask(driver: impl AsRef<OsStr>) -> Report {
    drivers::ask(program(), Some(driver.as_ref()), &[]).unwrap()
}

/// A file of its own for one test.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drivers");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// What a driver of this version must say of one entry point.
fn expected(driver: CudaVersion, entry: &EntryPoint) -> Option<Missing> {
    if entry.since <= driver {
        None
    } else if entry.name() == "cuStreamGetCtx_v2" {
        // All of these drivers have the function of 9.2, with fewer parameters. 12.2 and 12.4 even
        // give its address when asked for the newer one.
        Some(Missing::OlderAbi)
    } else {
        Some(Missing::NotFound)
    }
}
