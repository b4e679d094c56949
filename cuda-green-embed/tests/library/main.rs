//! The tests of the library, on the simulated driver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod batch;
mod bert_encoder;
mod cpu;
mod cublaslt;
mod fake_encoder;
mod golden;
#[allow(dead_code)] // until the kernels are tested
mod gpu;
mod model;
mod multi_gpu;
mod precision;
mod service;
mod streams;
mod support;
mod tokenize;
