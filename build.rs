//! Generates bindings from `wrapper.h` for every CUDA header set that is present.
//!
//! The header sets lie under `target/cuda/headers/<major>.<minor>/`, put there by `cargo xtask fetch`.
//! Nothing here reaches a user of the published crates: their bindings are committed, and
//! `tests/bindings.rs` compares them with what this makes.

fn main() {}
