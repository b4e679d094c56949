//! The driver's rules, through its own functions. Figures for `h200@13.0` were measured on an H200 with
//! driver 580; those of other profiles follow from the headers.

#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // see `client::Client`

#[path = "../client/mod.rs"]
mod client;
mod contexts;
mod driver;
mod images;
mod kernels;
mod memory;
mod partitions;
mod structured;
