//! Raising of a function's limits for launches that need it: dynamic shared memory, and clusters of more than 8 blocks.
//!
//! The driver keeps them per function, so they are only ever raised: a launch must not lower a limit that another
//! launch needs.

use std::ffi::c_int;

use cuda_green_sys::CUfunction_attribute;

use super::loaded::Kernel;
use crate::{error::Result, launch::LaunchConfig};

/// Dynamic shared memory, in bytes, that every function may be launched with (NVIDIA's programming guide).
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;
/// Largest cluster, in blocks, that every function may be launched with (NVIDIA's programming guide).
const PORTABLE_CLUSTER: u32 = 8;

impl Kernel {
    /// Raises the limits that a launch of this configuration needs. Most launches need none raised.
    #[inline]
    pub(crate) fn prepare(&self, config: &LaunchConfig) -> Result<()> {
        if config.shared_bytes > DEFAULT_SHARED_BYTES
            || config.cluster_size() > u64::from(PORTABLE_CLUSTER)
        {
            self.raise(config)
        } else {
            Ok(())
        }
    }

    fn raise(&self, config: &LaunchConfig) -> Result<()> {
        use CUfunction_attribute as A;
        let known = &self.attributes.0;
        let mut known = known.lock();
        if config.shared_bytes > DEFAULT_SHARED_BYTES.max(known.shared_bytes) {
            let attribute = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // Foreign code may have raised it further through the raw handle.
            let now = u32::try_from(self.attribute(attribute)?).unwrap_or(0);
            if now < config.shared_bytes {
                let bytes = c_int::try_from(config.shared_bytes).unwrap_or(c_int::MAX);
                self.set_attribute(attribute, bytes)?;
            }
            known.shared_bytes = now.max(config.shared_bytes);
        }
        if config.cluster_size() > u64::from(PORTABLE_CLUSTER) && !known.large_clusters {
            let attribute = A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            self.set_attribute(attribute, 1)?;
            known.large_clusters = true;
        }
        Ok(())
    }

    /// Returns an attribute of the function, such as its number of registers or its static shared memory.
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
