#![doc = include_str!("../README.md")]

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    rustdoc::all
)]
mod bindings;
mod driver_spec;
#[allow(non_snake_case)] // the driver's own names
mod entry_points;
mod error;
mod library_path;
mod loader;
mod privileges;
mod result_text;
mod sync;
mod version;
mod version_text;

#[doc = include_str!("../MATRIX.md")]
pub mod matrix {}

pub use bindings::*;
pub use driver_spec::{DRIVER_VARIABLE, DriverSpec, Platform};
pub use entry_points::{Absence, Api, ENTRY_POINTS, EntryPoint, MissingEntryPoint, SIGNATURES};
pub use error::Error;
pub use privileges::are_raised as privileges_are_raised;
pub use version::CudaVersion;

const _: () = {
    const fn send_sync<T: Send + Sync>() {}
    send_sync::<Api>();
    send_sync::<Error>();
};
