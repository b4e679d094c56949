//! The end of a family of pools: what streams still use is waited for, and all of its memory goes back to the driver.

use super::{
    heap::Heap,
    size_class::class_bytes,
    source::{Backing, free_plain},
    thread_cache::{Home, Pending},
};
use crate::{
    device::CudaDevice,
    error::{Error, Result},
};

/// What a family of pools leaves behind. All of it is free, but for what could not be waited for before.
pub(crate) struct Remains {
    pub(crate) device: CudaDevice,
    pub(crate) backing: Backing,
    pub(crate) heap: Heap,
    pub(crate) pending: Vec<Pending>,
}

impl Remains {
    /// Gives all of it back. After an error it is to be called again: then the rest is here, and nothing of that was
    /// given back. [`Error::EndUnknown`] says that no later call will succeed. Called beside captures.
    pub(crate) fn end(&mut self) -> Result<()> {
        let mut answer = Ok(());
        let mut refused = |error| {
            // What can be known later is worth another try.
            if !matches!(answer, Err(ref before) if !matches!(before, Error::EndUnknown)) {
                answer = Err(error);
            }
        };
        // Each by itself: what one is waiting for, the others are not.
        for pending in std::mem::take(&mut self.pending) {
            if let Err(error) = self.take_home(&pending) {
                self.pending.push(pending);
                refused(error);
            }
        }
        for idle in self.heap.idle() {
            let (address, len) = idle.range();
            match self.backing.free(&self.device, address) {
                Ok(()) => self.heap.went_back(len),
                Err(error) => {
                    self.heap.put_back(idle);
                    refused(error);
                }
            }
        }
        answer?;
        let left = self.heap.from_driver;
        if left > 0 {
            log::error!("{left} bytes of a memory pool were lost");
        }
        self.backing.destroy(&self.device)
    }

    fn take_home(&mut self, pending: &Pending) -> Result<()> {
        pending.wait()?;
        match pending.home {
            Home::Block { class } => self.heap.give(pending.address, class_bytes(class)),
            Home::Large { len } => self.heap.give_large(pending.address, len),
            Home::Plain { len } => {
                free_plain(&self.device, pending.address)?;
                self.heap.went_back(len);
            }
        }
        Ok(())
    }
}
