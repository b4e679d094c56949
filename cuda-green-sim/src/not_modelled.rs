//! The entry points that this driver does not model. They exist, because a client may look for them, and return
//! `CUDA_ERROR_NOT_SUPPORTED`.
//!
//! To model one, give [`Driver`] the method of its name elsewhere, and remove it here.

#![allow(non_snake_case)] // the driver's own names

use std::ffi::c_char;

use cuda_green_sys::{CUmod_st, CUresult};

use crate::{
    c_args::{Answer, Raw},
    driver::Driver,
};

/// The exported symbols that a simulated driver answers with `CUDA_ERROR_NOT_SUPPORTED`, whatever the arguments: it
/// has them only so that clients find them.
pub static NOT_MODELLED: &[&str] = &["cuModuleGetGlobal_v2"];

impl Driver {
    /// Refuses: PTX is not executed, so nothing would ever read or write a module's variables.
    pub(crate) fn cuModuleGetGlobal_v2(
        &self,
        _address: Raw<u64>,
        _bytes: Raw<usize>,
        _module: Raw<CUmod_st>,
        _name: Raw<c_char>,
    ) -> Answer {
        Err(CUresult::CUDA_ERROR_NOT_SUPPORTED)
    }
}
