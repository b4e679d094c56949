//! Captured work, before it can be launched.

use std::{fmt, sync::Arc};

use cuda_green_sys::CUgraph;

use super::{exec::GraphExec, resources::GraphResources};
use crate::{device::CudaDevice, driver::log_failure, error::Result};

/// Captured work, from [`Stream::capture`](crate::Stream::capture). To run it, [`instantiate`](Self::instantiate) it.
///
/// It keeps alive the contexts of its streams, the kernels of [`Capture::launch`](crate::Capture::launch), and the
/// values given to [`Capture::keep`](crate::Capture::keep). It does not know of other memory or of other libraries'
/// kernels.
pub struct Graph {
    pub(super) device: CudaDevice,
    pub(super) raw: CUgraph,
    pub(super) resources: Arc<GraphResources>,
}

// SAFETY: the handle is an opaque token that the driver accepts from every thread, one at a time: there is
// no `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// Makes the graph ready to be launched. This takes tens of microseconds or more, depending on the number of its
    /// nodes, and may be done several times: the instantiations are independent of each other and of the graph. It does
    /// not affect captures in other streams.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuGraphInstantiateWithFlags")]
    pub fn instantiate(&self) -> Result<GraphExec> {
        GraphExec::instantiate(&self.device, self.raw, &self.resources)
    }

    /// Returns the raw graph, which belongs to this object and must not be destroyed.
    pub fn raw(&self) -> CUgraph {
        self.raw
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let driver = self.device.driver();
        // SAFETY: the graph is live and destroyed here; instantiations stay.
        log_failure(unsafe { driver.cuGraphDestroy(self.raw) });
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("raw", &self.raw)
            .field("contexts", &self.resources.contexts.len())
            .field("kept", &self.resources.values.len())
            .finish()
    }
}
