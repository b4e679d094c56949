//! Tasks that GPU kernels submit to the CPU.
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod layout;

pub use error::{Error, Result};
pub use layout::{DeviceInbox, DeviceQueue};
