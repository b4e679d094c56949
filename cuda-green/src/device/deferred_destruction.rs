//! Deferred destruction: objects that the GPU may still use are destroyed once their work is done, and a failed attempt
//! is retried later.

use super::cuda_device::CudaDevice;
use crate::{
    error::{Error, Result},
    sync::native::Mutex,
};

/// Waits for the users of an object and frees it. It owns the object and is dropped once it has succeeded.
type End = Box<dyn FnMut() -> Result<()> + Send>;

/// The failed attempts of the process, each with its device. They are not kept in the device: they hold the device, and
/// they are to be retried through any handle of it.
static DEFERRED: Mutex<Vec<(CudaDevice, End)>> = Mutex::new(Vec::new());

impl CudaDevice {
    /// Destroys an object, also during captures. If that fails, the object is kept as it is and the attempt repeated
    /// later: an object that could not be waited for may still be in use.
    pub(crate) fn end(&self, what: &str, end: impl FnMut() -> Result<()> + Send + 'static) {
        let mut end: End = Box::new(end);
        // One immediate retry: there may be no later occasion.
        let ended = self.try_end(&mut end).or_else(|_| self.try_end(&mut end));
        match ended {
            Ok(()) => {}
            // After a fault that makes the driver unusable nothing runs any more, so nothing is in use.
            Err(error) if self.driver().is_poisoned() => {
                log::error!("{what} was not freed: {error}");
            }
            Err(error) => {
                log::error!("destroying {what} is put off: {error}");
                defer(self.clone(), end, &error);
            }
        }
    }

    /// Makes one attempt, in which waits are allowed during captures.
    fn try_end(&self, end: &mut End) -> Result<()> {
        let _allowed = self.driver().beside_captures();
        end()
    }
}

/// Retries the attempts that failed before.
pub(crate) fn retry_ends() {
    // The object may belong to a client, and its destructor may call anything, so no lock is held meanwhile.
    let ends = std::mem::take(&mut *DEFERRED.lock());
    for (device, mut end) in ends {
        if let Err(error) = device.try_end(&mut end)
            && !device.driver().is_poisoned()
        {
            defer(device, end, &error);
        }
    }
}

/// Keeps a failed attempt for later.
fn defer(device: CudaDevice, end: End, error: &Error) {
    if matches!(error, Error::EndUnknown) {
        // It will not be known later either, so the object is leaked, and its device with it.
        return std::mem::forget((device, end));
    }
    let mut ends = DEFERRED.lock();
    ends.push((device, end));
}
