//! Memory in use on the whole device, including that of other processes, without asking the driver each time.

use std::time::{Duration, Instant};

use crate::{
    device::CudaDevice,
    error::Result,
    memory::budget::pressure::{DueCalls, PressureGauge, Watcher},
    sync::{Mutex, MutexGuard},
};

/// A device's memory use as the driver last reported it.
#[derive(Default)]
pub(crate) struct DeviceUsage(Mutex<LastReading>);

#[derive(Default)]
struct LastReading {
    /// The time at which the driver was asked, and the bytes that were free.
    free: Option<(Instant, u64)>,
    /// `None` until there is a watcher.
    pressure: Option<PressureGauge>,
}

impl DeviceUsage {
    /// Returns the bytes in use, including those of other processes, as of at most `max_age` ago, and the size of the
    /// device's memory.
    pub(crate) fn used(&self, device: &CudaDevice, max_age: Duration) -> Result<(u64, u64)> {
        let total = device.total_memory();
        let mut due = DueCalls::default();
        let used = {
            let mut last = self.last();
            match last.free {
                Some((when, free)) if when.elapsed() <= max_age => total.saturating_sub(free),
                _ => {
                    let free = device.free_memory()?;
                    last.free = Some((Instant::now(), free));
                    let used = total.saturating_sub(free);
                    if let Some(pressure) = &mut last.pressure {
                        pressure.follow(used, total, &mut due);
                    }
                    used
                }
            }
        };
        due.call();
        Ok((used, total))
    }

    /// Calls `watcher` when the pressure level changes.
    pub(crate) fn watch(&self, device: &CudaDevice, watcher: Watcher) -> Result<()> {
        let (used, total) = self.used(device, Duration::ZERO)?;
        self.last()
            .pressure
            .get_or_insert_with(|| PressureGauge::new(used, total))
            .watch(watcher);
        Ok(())
    }

    /// Asks the driver if there is a watcher. Called after the driver gave memory, which takes much longer.
    pub(crate) fn refresh_if_watched(&self, device: &CudaDevice) {
        if self.last().pressure.is_none() {
            return;
        }
        if let Err(error) = self.used(device, Duration::ZERO) {
            log::warn!("asking for the device's free memory: {error}");
        }
    }

    fn last(&self) -> MutexGuard<'_, LastReading> {
        self.0.lock()
    }
}
