//! Attributes of functions that launches need raised: dynamic shared memory, and clusters of more than 8 blocks.
//!
//! The driver keeps them with the function, so they are only ever raised: one launch must not take from another
//! what that one needs.

use std::{collections::HashMap, ffi::c_int, sync::Arc};

use cuda_green_sys::{CUfunction, CUfunction_attribute};

use super::Kernel;
use crate::{error::Result, launch::LaunchConfig, sync::Mutex};

/// Dynamic shared memory that every function may be launched with, in bytes (NVIDIA's programming guide).
const SHARED: u32 = 48 << 10;
/// Blocks of a cluster that every function may be launched with (the same).
const CLUSTER: u32 = 8;

/// What a function's attributes are known to be.
#[derive(Default)]
pub(super) struct Attributes(Mutex<Known>);

#[derive(Default)]
struct Known {
    shared: u32,
    large_clusters: bool,
}

/// One entry for each function of a module that was asked for, as the driver has one handle for each name.
#[derive(Default)]
pub(super) struct AttributesByFunction(Mutex<HashMap<usize, Arc<Attributes>>>);

impl AttributesByFunction {
    pub(super) fn of(&self, function: CUfunction) -> Arc<Attributes> {
        let mut all = self.0.lock();
        Arc::clone(all.entry(function as usize).or_default())
    }
}

impl Kernel {
    /// Raises what a launch like this needs raised. Most need nothing.
    #[inline]
    pub(crate) fn prepare(&self, config: &LaunchConfig) -> Result<()> {
        if config.shared_bytes > SHARED || config.cluster_size() > u64::from(CLUSTER) {
            self.raise(config)
        } else {
            Ok(())
        }
    }

    fn raise(&self, config: &LaunchConfig) -> Result<()> {
        use CUfunction_attribute as A;
        let known = &self.attributes.0;
        let mut known = known.lock();
        if config.shared_bytes > SHARED.max(known.shared) {
            let attribute = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // Foreign code may have raised it further by the raw handle.
            let now = u32::try_from(self.attribute(attribute)?).unwrap_or(0);
            if now < config.shared_bytes {
                let bytes = c_int::try_from(config.shared_bytes).unwrap_or(c_int::MAX);
                self.set_attribute(attribute, bytes)?;
            }
            known.shared = now.max(config.shared_bytes);
        }
        if config.cluster_size() > u64::from(CLUSTER) && !known.large_clusters {
            let attribute = A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            self.set_attribute(attribute, 1)?;
            known.large_clusters = true;
        }
        Ok(())
    }

    /// One attribute of the function, such as its registers or its static shared memory.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuFuncGetAttribute")]
    pub fn attribute(&self, attribute: CUfunction_attribute) -> Result<c_int> {
        let device = self.module.device();
        let mut value = 0;
        device.with_primary(|| {
            // SAFETY: the function is live, the output valid.
            unsafe {
                device
                    .driver()
                    .cuFuncGetAttribute(&mut value, attribute, self.raw)
            }
        })?;
        Ok(value)
    }

    fn set_attribute(&self, attribute: CUfunction_attribute, value: c_int) -> Result<()> {
        let device = self.module.device();
        device.with_primary(|| {
            // SAFETY: the function is live.
            unsafe {
                device
                    .driver()
                    .cuFuncSetAttribute(self.raw, attribute, value)
            }
        })
    }
}
