//! The driver matrix: see `tests/`.
