//! The driver matrix: what the tests in `tests/` share.
//!
//! It holds nothing that a user of the published crates needs.

pub mod drivers;
pub mod evidence;
pub mod headers;
pub mod matrix;
pub mod skip;

/// The first program of the workspace's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
