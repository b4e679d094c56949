//! The whole device's memory, other processes counted in, without asking the driver all the time.

use std::time::{Duration, Instant};

use super::pressure::{Due, Gauge, Watcher};
use crate::{
    device::CudaDevice,
    error::Result,
    sync::{Mutex, MutexGuard},
};

/// A device's memory as the driver last told it.
#[derive(Default)]
pub(crate) struct WholeDevice(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// When the driver was asked, and the bytes that were free.
    free: Option<(Instant, u64)>,
    /// There once somebody wants to hear.
    pressure: Option<Gauge>,
}

impl WholeDevice {
    /// Bytes in use, by others too, as they were at most so long ago, and all that there are.
    pub(crate) fn used(&self, device: &CudaDevice, max_age: Duration) -> Result<(u64, u64)> {
        let total = device.total_memory();
        let mut due = Due::default();
        let used = {
            let mut known = self.known();
            match known.free {
                Some((when, free)) if when.elapsed() <= max_age => total.saturating_sub(free),
                _ => {
                    let free = device.free_memory()?;
                    known.free = Some((Instant::now(), free));
                    let used = total.saturating_sub(free);
                    if let Some(pressure) = &mut known.pressure {
                        pressure.follow(used, total, &mut due);
                    }
                    used
                }
            }
        };
        due.call();
        Ok((used, total))
    }

    /// Calls back when the level of pressure is no more what it is now.
    pub(crate) fn watch(&self, device: &CudaDevice, watcher: Watcher) -> Result<()> {
        let (used, total) = self.used(device, Duration::ZERO)?;
        self.known()
            .pressure
            .get_or_insert_with(|| Gauge::new(used, total))
            .watch(watcher);
        Ok(())
    }

    /// The driver has given memory: a moment to ask it how the device is, which costs little beside that.
    pub(crate) fn look(&self, device: &CudaDevice) {
        if self.known().pressure.is_none() {
            return;
        }
        if let Err(error) = self.used(device, Duration::ZERO) {
            log::warn!("asking for the device's free memory: {error}");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock()
    }
}
