//! The real drivers under `target/cuda/drivers`.
