//! The tests of the library, on the simulated driver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod batch;
mod bert_encoder;
mod bulk;
mod cpu;
mod cublaslt;
mod fake_encoder;
mod gpu;
mod kernels;
mod model;
mod model_library;
mod multi_gpu;
mod pipeline;
mod precision;
mod service;
mod streams;
mod support;
mod times;
mod tokenize;
