//! The clock and the power of the GPU while something runs, by NVML.
//!
//! A GPU that is full of matrix products lowers its clock to keep to its power: a query beside them is slower for that
//! alone, whatever SMs it has. With the clock of each run, both can be told apart.

use std::{
    sync::mpsc::{self, RecvTimeoutError::Timeout},
    thread,
    time::Duration,
};

use cuda_green::{CudaDevice, sys::CUdevice_attribute};
use nvml_wrapper::{Device, Nvml, enum_wrappers::device::Clock};
use serde::{Deserialize, Serialize};

/// The time between two readings.
const EVERY: Duration = Duration::from_millis(50);

/// The means of a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    pub sm_clock_mhz: f64,
    pub watts: f64,
}

/// A GPU that is watched; none where there is no NVML, as on simulated drivers.
pub struct Watch {
    nvml: Option<Nvml>,
    /// The address on the PCI bus, by which NVML knows the GPU, whatever CUDA numbers it.
    address: String,
}

impl Watch {
    pub fn new(device: &CudaDevice) -> anyhow::Result<Self> {
        let part = |which| device.attribute(which);
        let domain = part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let slot = part(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        let is_real = !device.driver().is_simulated();
        Ok(Self {
            nvml: is_real.then(Nvml::init).and_then(Result::ok),
            address: format!("{domain:08x}:{bus:02x}:{slot:02x}.0"),
        })
    }

    /// Returns the device, if NVML has it.
    fn device(&self) -> Option<Device<'_>> {
        let nvml = self.nvml.as_ref()?;
        nvml.device_by_pci_bus_id(self.address.as_str()).ok()
    }

    /// Calls `action` and returns also what was read meanwhile.
    pub fn during<T>(
        &self,
        action: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Option<Readings>)> {
        let Some(device) = self.device() else {
            return Ok((action()?, None));
        };
        let (running, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let read = move || {
                let mut sum = Sum::default();
                while ended.recv_timeout(EVERY) == Err(Timeout) {
                    sum.add(read(&device));
                }
                sum.mean()
            };
            let reading = thread::Builder::new().spawn_scoped(scope, read)?;
            let done = action();
            drop(running);
            let readings = reading.join();
            let readings = readings.map_err(|_| anyhow::anyhow!("the watch's thread panicked"))?;
            Ok((done?, readings))
        })
    }
}

fn read(device: &Device<'_>) -> Option<Readings> {
    Some(Readings {
        sm_clock_mhz: f64::from(device.clock_info(Clock::SM).ok()?),
        watts: f64::from(device.power_usage().ok()?) / 1e3,
    })
}

/// Readings of which the mean is wanted.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    sum: Readings,
    count: u32,
}

impl Sum {
    pub fn add(&mut self, readings: Option<Readings>) {
        if let Some(readings) = readings {
            self.sum.sm_clock_mhz += readings.sm_clock_mhz;
            self.sum.watts += readings.watts;
            self.count += 1;
        }
    }

    pub fn mean(&self) -> Option<Readings> {
        let count = f64::from(self.count);
        (self.count > 0).then(|| Readings {
            sm_clock_mhz: self.sum.sm_clock_mhz / count,
            watts: self.sum.watts / count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_leaves_out_what_could_not_be_read() {
        let mut sum = Sum::default();
        assert_eq!(sum.mean(), None);
        let readings = |sm_clock_mhz, watts| {
            Some(Readings {
                sm_clock_mhz,
                watts,
            })
        };
        for one in [readings(1_000.0, 300.0), None, readings(2_000.0, 500.0)] {
            sum.add(one);
        }
        assert_eq!(sum.mean(), readings(1_500.0, 400.0));
    }
}
