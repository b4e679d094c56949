//! Who has which SMs of a device: that one manager at a time splits it, and what keeps a part of the split from
//! being given to somebody else.

use std::sync::{Arc, Weak};

use cuda_green_sys::CUdevice;

use super::CudaDevice;
use crate::{
    error::{Error, Result},
    sync::native::Mutex,
};

/// The right to split a device: the SMs of two splits overlap, and neither would know.
pub(crate) struct Claim;

/// A hold on one part of a split. Whatever runs on its SMs, or can become a context over them, has one: the
/// driver's objects of a context, the resources that were asked of it, and all that is made of those. As long as
/// there is one, the SMs are nobody else's, and what they are within stays.
pub(crate) struct Lease {
    _within: Box<dyn Send + Sync>,
}

impl Lease {
    /// A hold on SMs that are to be had only while something lives: the claim, or a context that holds a split
    /// together.
    pub(crate) fn within(holds: impl Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            _within: Box::new(holds),
        })
    }
}

/// The claims of this process: the driver and the device of each. Few, and looked at only when a device is split.
static CLAIMS: Mutex<Vec<(usize, CUdevice, Weak<Claim>)>> = Mutex::new(Vec::new());

impl CudaDevice {
    /// Claims the device, if nobody has split it.
    ///
    /// # Errors
    /// [`Error::PartitionedElsewhere`].
    pub(crate) fn claim(&self) -> Result<Arc<Claim>> {
        let (driver, device) = (self.driver().address(), self.raw());
        let mut claims = CLAIMS.lock();
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
