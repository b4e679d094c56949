//! The end of an arena: freed memory that streams still use is waited for, and everything goes back to the driver.

use super::{
    allocation::{Allocation, AllocationKind},
    heap::Heap,
    source::{Source, free_plain},
};
use crate::{
    device::CudaDevice,
    error::{Error, Result},
};

/// The memory of an arena that has ended. All of it is free except what could not be waited for before.
pub(super) struct EndedArena {
    pub(super) device: CudaDevice,
    pub(super) source: Source,
    pub(super) heap: Heap,
    pub(super) pending: Vec<Allocation>,
}

impl EndedArena {
    /// Returns everything to the driver. After an error, call it again: what could not be returned is still here.
    /// [`Error::EndUnknown`] says that no later call will succeed. Called beside captures.
    pub(super) fn end(&mut self) -> Result<()> {
        let mut answer = Ok(());
        let mut refused = |error| {
            // An error that may pass is worth another try, so it wins over one that will not.
            if !matches!(answer, Err(ref before) if !matches!(before, Error::EndUnknown)) {
                answer = Err(error);
            }
        };
        // Each is waited for separately: what one waits for, the others need not.
        for pending in std::mem::take(&mut self.pending) {
            if let Err(error) = self.free(&pending) {
                self.pending.push(pending);
                refused(error);
            }
        }
        for idle in self.heap.take_idle() {
            let (address, len) = idle.range();
            match self.source.free(&self.device, address) {
                Ok(()) => self.heap.record_return(len),
                Err(error) => {
                    self.heap.restore_idle(idle);
                    refused(error);
                }
            }
        }
        answer?;
        let left = self.heap.from_driver;
        if left > 0 {
            log::error!("{left} bytes of a memory pool were lost");
        }
        self.source.destroy(&self.device)
    }

    fn free(&mut self, pending: &Allocation) -> Result<()> {
        pending.wait()?;
        if let AllocationKind::Plain { .. } = pending.kind {
            free_plain(&self.device, pending.address)?;
        }
        self.heap.free_allocation(pending.address, pending.kind);
        Ok(())
    }
}
