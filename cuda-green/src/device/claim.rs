//! Ownership of a device's SMs: a claim, which ensures that only one manager at a time splits a device, and leases,
//! which keep the pieces of a split from being given out twice.

use std::sync::{Arc, Weak};

use cuda_green_sys::CUdevice;

use super::cuda_device::CudaDevice;
use crate::{
    error::{Error, Result},
    sync::native::Mutex,
};

/// The exclusive right to split a device. Without it, two splits could overlap unnoticed.
pub(crate) struct Claim;

/// A hold on one piece of a split. Everything that runs on the piece's SMs, or can become a context over them, holds
/// the lease: the driver's objects of a context, the resources queried from it, and all that is made of those. While
/// the lease is held, the SMs are not given to others, and whatever the piece lies within stays alive.
pub(crate) struct Lease {
    _within: Box<dyn Send + Sync>,
}

impl Lease {
    /// Makes a lease that keeps alive what its SMs lie within: the claim on the device, or the scaffold whose split
    /// they are part of.
    pub(crate) fn within(holds: impl Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            _within: Box::new(holds),
        })
    }
}

/// The claims of this process, each with its driver and device. They are few, and this list is read only when a device
/// is split.
static CLAIMS: Mutex<Vec<(usize, CUdevice, Weak<Claim>)>> = Mutex::new(Vec::new());

impl CudaDevice {
    /// Claims the device, unless it is split already.
    ///
    /// # Errors
    /// [`Error::PartitionedElsewhere`].
    pub(crate) fn claim(&self) -> Result<Arc<Claim>> {
        let (driver, device) = (self.driver().address(), self.raw());
        let mut claims = CLAIMS.lock();
        claims.retain(|(_, _, claim)| claim.strong_count() > 0);
        // Every holder of a claim holds the driver too, so no other driver can have this address.
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
