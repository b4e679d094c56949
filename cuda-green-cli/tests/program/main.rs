//! The tests of the program, which run it as a user does.
//!
//! `cargo test -p cuda-green-cli --test program pictures` runs the tests of one module.

// clippy's own exception for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used)]

mod bench;
mod commands;
mod common;
mod demo;
#[cfg(feature = "embed")]
mod embed;
mod errors;
mod manual;
mod partitions;
mod pictures;
#[cfg(all(feature = "processes", target_os = "linux"))]
mod processes;
#[cfg(feature = "embed")]
mod service;
#[cfg(feature = "embed")]
mod small_model;
mod terminal;
