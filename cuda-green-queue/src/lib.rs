//! Tasks that GPU kernels submit to the CPU.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
#[allow(dead_code, reason = "the host side, which uses it, comes next")]
mod layout;
#[allow(
    dead_code,
    unused_imports,
    reason = "the host side, which uses it, comes next"
)]
mod protocol;

pub use error::{Error, Result};
pub use layout::{DeviceInbox, DeviceQueue};
