//! Advice about an error: a pure function of the error and of the facts about the machine. It says no more than these
//! facts support.
//!
//! Sources: the codes' meanings are those of the CUDA 13.5 header. Real drivers of CUDA 11.4 to 12.5 were seen to
//! answer 100 without their kernel module. `CUDA_VISIBLE_DEVICES`: the CUDA programming guide, environment variables.
//! `NVIDIA_VISIBLE_DEVICES` and `NVIDIA_DRIVER_CAPABILITIES`: the container toolkit's guide. Device files:
//! nvidia-modprobe(1) and the driver's README. MPS: its guide.

mod codes;
mod gpu;
mod library;
mod sentences;

use cuda_green::{Error, sim, sys};
use sentences::SIMULATE;

use crate::{
    partitions::{FIRST_BRANCH, GREEN_CONTEXTS},
    situation::Situation,
};

/// Returns what to do about an error, the most likely cause first; nothing if the error itself says it.
pub fn advice(error: &Error, situation: &Situation) -> Vec<String> {
    if let Error::Simulator(sim::Error::InvalidInjection { .. }) = error {
        let said = "It comes from CUDA_GREEN_SIM_FAULTS: unset that, or write faults like `cuInit=NO_DEVICE`.";
        return vec![said.into()];
    }
    let mut advice = of_error(error, situation);
    let faults = situation.variable("CUDA_GREEN_SIM_FAULTS");
    if let (true, Some(faults)) = (situation.simulated && !advice.is_empty(), faults) {
        let told = format!(
            "The driver is simulated, and CUDA_GREEN_SIM_FAULTS tells it to fail: `{faults}`. With a real driver:"
        );
        advice.insert(0, told);
    }
    advice
}

fn of_error(error: &Error, situation: &Situation) -> Vec<String> {
    match error {
        Error::Load(sys::Error::DriverNotFound { .. }) => library::no_library(situation),
        Error::Load(sys::Error::DriverUnloadable { path, .. }) => {
            library::unloadable(path, situation)
        }
        Error::Load(
            sys::Error::NotACudaDriver { path, .. }
            | sys::Error::VersionUnknown { path, .. }
            | sys::Error::VersionImpossible { path, .. },
        ) => library::refused(path, situation),
        Error::NoGpu { driver, .. } => {
            let mut advice = gpu::no_gpu(situation);
            if *driver < GREEN_CONTEXTS {
                advice.push(format!(
                    "This driver speaks CUDA {driver}; with a GPU it would run in single-context mode, \
                     where nothing is isolated. {FIRST_BRANCH}."
                ));
            }
            advice.push(SIMULATE.into());
            advice
        }
        Error::NoSuchDevice { .. } => gpu::no_such_device(situation),
        Error::Driver { code, .. } => codes::of_code(*code, situation),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
