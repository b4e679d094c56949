//! The tests of the library, on the simulated driver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod batch;
mod cpu;
mod cublaslt;
mod fake_encoder;
#[allow(dead_code)] // until the kernels are tested
mod gpu;
mod model;
mod multi_gpu;
mod precision;
mod streams;
mod support;
mod tokenize;
