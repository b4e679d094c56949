//! Ends of things that a device may still use: tried again where they fail, never given up on.

use super::CudaDevice;
use crate::{
    error::{Error, Result},
    sync::native::Mutex,
};

/// Waits for what still uses a thing, and frees it. Owns the thing, which goes with it once it has succeeded.
type End = Box<dyn FnMut() -> Result<()> + Send>;

/// The ends of the process that failed, each with its device. Not the device's own list: whoever has another handle of
/// the device tries them again, too, and the things hold the device.
static PUT_OFF: Mutex<Vec<(CudaDevice, End)>> = Mutex::new(Vec::new());

impl CudaDevice {
    /// Ends something, beside captures too. Where that fails, it is kept as it is and tried again later: what could
    /// not be waited for may still be in use.
    pub(crate) fn end(&self, what: &str, end: impl FnMut() -> Result<()> + Send + 'static) {
        let mut end: End = Box::new(end);
        // At once again, too: there may be no later occasion.
        let ended = self.try_end(&mut end).or_else(|_| self.try_end(&mut end));
        match ended {
            Ok(()) => {}
            // After a fault that stays nothing runs any more, so nothing is in use.
            Err(error) if self.driver().is_poisoned() => {
                log::error!("{what} was not freed: {error}");
            }
            Err(error) => {
                log::error!("the end of {what} is put off: {error}");
                put_off(self.clone(), end, &error);
            }
        }
    }

    fn try_end(&self, end: &mut End) -> Result<()> {
        let _allowed = self.driver().beside_captures();
        end()
    }
}

/// Tries again what was put off.
pub(crate) fn retry_ends() {
    // What ends may be a client's, and its end may call anything: no lock is held meanwhile.
    let ends = std::mem::take(&mut *PUT_OFF.lock());
    for (device, mut end) in ends {
        if let Err(error) = device.try_end(&mut end)
            && !device.driver().is_poisoned()
        {
            put_off(device, end, &error);
        }
    }
}

fn put_off(device: CudaDevice, end: End, error: &Error) {
    if matches!(error, Error::EndUnknown) {
        // It will not be known later either: the thing stays as it is, and its device with it.
        return std::mem::forget((device, end));
    }
    let mut ends = PUT_OFF.lock();
    ends.push((device, end));
}
