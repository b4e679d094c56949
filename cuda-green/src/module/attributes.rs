//! The known attributes of a module's functions.

use std::{collections::HashMap, sync::Arc};

use cuda_green_sys::CUfunction;

use crate::sync::Mutex;

/// The known values of a function's attributes.
#[derive(Default)]
pub(super) struct FunctionAttributes(pub(super) Mutex<RaisedLimits>);

/// The limits of a function, as far as they were raised.
#[derive(Default)]
pub(super) struct RaisedLimits {
    pub(super) shared_bytes: u32,
    pub(super) large_clusters: bool,
}

/// The attributes of each function of a module that was looked up. The driver has one handle for each name.
#[derive(Default)]
pub(super) struct AttributesByFunction(Mutex<HashMap<usize, Arc<FunctionAttributes>>>);

impl AttributesByFunction {
    /// Returns the attributes of a function, shared by all its kernels.
    pub(super) fn get(&self, function: CUfunction) -> Arc<FunctionAttributes> {
        let mut all = self.0.lock();
        Arc::clone(all.entry(function as usize).or_default())
    }
}
