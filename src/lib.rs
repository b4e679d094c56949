//! The driver matrix: helpers of the tests in `tests/`.
//!
//! It holds nothing that a user of the published crates needs.

/// The table of what is fetched, which `cargo xtask` reads too: one source of the versions that are covered.
#[path = "../xtask/src/artifacts.rs"]
pub mod artifacts;
pub mod drivers;
pub mod evidence;
pub mod headers;
pub mod matrix;
pub mod skip;
pub mod steps;

/// The first program of the workspace's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
