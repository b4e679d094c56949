//! Guides, apart from the reference.

#[doc = include_str!("../guide/serving.md")]
pub mod serving {}
