//! The driver's rules, tested through its own functions: one binary for all tests that can share a process. Tests that
//! cannot are beside this folder, with the reason in their first lines.
//!
//! Figures for `h200@13.0` were measured on an H200 with driver 580; those of other profiles follow from the headers.

#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::panic)] // see `client::Client`

#[path = "../client/mod.rs"]
mod client;
mod concurrent;
mod contexts;
mod driver;
mod graphs;
mod hostile;
mod images;
mod injection;
mod kernels;
mod memory;
mod objects;
mod partitions;
mod profile_file;
mod structured;
mod time;
mod workqueues;
