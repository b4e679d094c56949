//! Destruction of a context's driver objects after its last handle is dropped.

use super::green_context::ContextInner;
use crate::{
    driver::log_failure,
    error::Result,
    events::{PartitionEvent, emit},
};

impl ContextInner {
    /// Waits for the context's work and destroys the driver's objects. If the wait fails, its SMs may still be in
    /// use, so nothing is destroyed.
    pub(crate) fn destroy(&mut self) -> Result<()> {
        let Some(partition) = &self.partition else {
            return Ok(());
        };
        if partition.contexts.use_count() > 0 {
            log::warn!("a context guard was forgotten: its green context is never destroyed");
            self.leak("a guard was forgotten");
            return Ok(());
        }
        // The SMs must be idle before other contexts get them.
        let idle = partition.synchronize(&self.driver);
        // After a fault that makes the driver unusable nothing runs, and nothing can be waited for.
        if idle.is_err() && !self.driver.is_poisoned() {
            return idle;
        }
        let partition = self.partition.take();
        let destroyed = partition.map_or(Ok(()), |partition| {
            let green_contexts = partition.contexts.count();
            partition.destroy(&self.driver)?;
            emit(|| PartitionEvent::ContextDestroyed {
                device: self.device.ordinal(),
                sms: self.sms.sm_count,
                green_contexts,
            });
            Ok(())
        });
        idle.and(destroyed)
    }

    /// Leaks the driver's objects, with their SMs, until the process ends.
    fn leak(&mut self, reason: &'static str) {
        if let Some(partition) = self.partition.take() {
            emit(|| PartitionEvent::ContextKept {
                device: self.device.ordinal(),
                sms: self.sms.sm_count,
                reason,
            });
            partition.leak();
        }
    }

    /// Returns whether the context is current to this thread.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let Some(partition) = &self.partition else {
            return Ok(false); // this crate never destroys the primary context
        };
        let mut current = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the one handle that is written.
        unsafe { self.driver.cuCtxGetCurrent(&mut current) }?;
        Ok(partition.has_context(current))
    }
}

impl Drop for ContextInner {
    fn drop(&mut self) {
        if self.use_count() == 0 && matches!(self.is_current(), Ok(true)) {
            // Foreign code made it current. Destroying it would leave a dangling handle current (measured), so no
            // context is made current instead. A context whose guard was forgotten is not destroyed at all.
            // SAFETY: null is allowed.
            log_failure(unsafe { self.driver.cuCtxSetCurrent(std::ptr::null_mut()) });
        }
        if let Err(error) = self.destroy() {
            log::error!("destroying a green context: {error}");
            // One retry, in case the failure was temporary: there is no later occasion.
            if self.partition.is_some() && self.destroy().is_err() {
                self.leak("its work cannot be waited for");
            }
        }
    }
}
