//! That one manager at a time splits a device: the SMs of two splits overlap, and neither would know.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use cuda_green_sys::CUdevice;

use super::CudaDevice;
use crate::{Error, Result};

/// The right to split a device. The split and every context of it hold it, those too that outlive their manager.
pub(crate) struct Claim;

/// The claims of this process: the driver and the device of each. Few, and looked at only when a device is split.
static CLAIMS: Mutex<Vec<(usize, CUdevice, Weak<Claim>)>> = Mutex::new(Vec::new());

impl CudaDevice {
    /// Claims the device, if nobody has split it.
    ///
    /// # Errors
    /// [`Error::PartitionedElsewhere`].
    pub(crate) fn claim(&self) -> Result<Arc<Claim>> {
        let (driver, device) = (self.driver().address(), self.raw());
        let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|(_, _, claim)| claim.strong_count() > 0);
        // Whatever holds a claim holds the driver, so that no other can have its address.
        if claims
            .iter()
            .any(|(on, of, _)| (*on, *of) == (driver, device))
        {
            return Err(Error::PartitionedElsewhere {
                device: self.ordinal(),
            });
        }
        let claim = Arc::new(Claim);
        claims.push((driver, device, Arc::downgrade(&claim)));
        Ok(claim)
    }
}
