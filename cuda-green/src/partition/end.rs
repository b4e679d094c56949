//! The end of a context's driver objects, once nobody holds it.

use super::green_context::ContextInner;
use crate::{
    driver::log_failure,
    error::Result,
    events::{PartitionEvent, emit},
};

impl ContextInner {
    /// Waits for the work in it and destroys the driver's objects. Where it cannot wait, its SMs are not idle for
    /// all that is known, and it is as it was.
    pub(crate) fn destroy(&mut self) -> Result<()> {
        let Some(partition) = &self.partition else {
            return Ok(());
        };
        if partition.seats.taken() > 0 {
            log::warn!("a context guard was forgotten: its green context is never destroyed");
            self.leak("a guard was forgotten");
            return Ok(());
        }
        // Their SMs must be idle when others get them.
        let idle = partition.synchronize(&self.driver);
        // After a fault that stays nothing runs, and nothing can be waited for.
        if idle.is_err() && !self.driver.is_poisoned() {
            return idle;
        }
        let partition = self.partition.take();
        let destroyed = partition.map_or(Ok(()), |partition| {
            let green_contexts = partition.seats.count();
            partition.destroy(&self.driver)?;
            emit(|| PartitionEvent::ContextDestroyed {
                device: self.device.ordinal(),
                sms: self.shape.sm_count,
                green_contexts,
            });
            Ok(())
        });
        idle.and(destroyed)
    }

    fn leak(&mut self, reason: &'static str) {
        if let Some(partition) = self.partition.take() {
            emit(|| PartitionEvent::ContextKept {
                device: self.device.ordinal(),
                sms: self.shape.sm_count,
                reason,
            });
            partition.leak();
        }
    }

    /// Whether it is current to this thread.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let Some(partition) = &self.partition else {
            return Ok(false); // the primary context is not ours to destroy
        };
        let mut current = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe { self.driver.cuCtxGetCurrent(&mut current) }?;
        Ok(partition.has_context(current))
    }
}

impl Drop for ContextInner {
    fn drop(&mut self) {
        if self.taken() == 0 && matches!(self.is_current(), Ok(true)) {
            // Foreign code made it current. Destroyed, it would stay so as a dangling handle (measured): no
            // context is better. One whose guard was forgotten is not destroyed at all.
            // SAFETY: null is allowed.
            log_failure(unsafe { self.driver.cuCtxSetCurrent(std::ptr::null_mut()) });
        }
        if let Err(error) = self.destroy() {
            log::error!("destroying a green context: {error}");
            // Once more, for what passes: nobody else can.
            if self.partition.is_some() && self.destroy().is_err() {
                self.leak("its work cannot be waited for");
            }
        }
    }
}
