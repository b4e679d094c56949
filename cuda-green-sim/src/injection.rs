//! Faults on demand: calls that fail or are slow, memory that runs out, a device that is lost.
//!
//! A fault takes effect before the call does, as if the driver had refused the call.

mod rules;
mod text;

use std::{ffi::CStr, path::PathBuf, time::Duration};

use cuda_green_sys::{CUresult, ENTRY_POINTS};

use crate::error::Error;
pub(crate) use rules::Injections;

/// The environment variable with the faults of every simulated driver that this process makes:
/// [injections](Injection) in their text form, separated by `;`.
pub const FAULTS_VARIABLE: &str = "CUDA_GREEN_SIM_FAULTS";

/// A fault to be injected with [`Sim::inject`](crate::Sim::inject).
///
/// Each has a text form, for the environment variable [`FAULTS_VARIABLE`] and for [`str::parse`]:
///
/// | text | what happens |
/// |---|---|
/// | `cuGreenCtxCreate#3=OUT_OF_MEMORY` | its third call fails with that code, a name or a number |
/// | `cuMemAlloc#3+=2` | its third call and all later ones fail |
/// | `cuStreamSynchronize=700` | all of its calls fail |
/// | `*#250=999` | the 250th call fails, whichever it is |
/// | `cuInit=1500ms` | all of its calls are slow; `s`, `ms` and `us` are known |
/// | `memory=90%`, `memory=4096` | nothing is allocated beyond this fill of each device, in percent or bytes |
/// | `device0#500=lost` | that device disappears at the 500th call |
/// | `green#2=everywhere` | the second green context that is made runs on all SMs, whatever it says |
/// | `mps=100%`, `mps=75%` | the process uses the device through MPS, with that active thread percentage |
/// | `mps=64` | the same, in a static partition of that many SMs (from 13.1 on) |
/// | `sms=/dev/shm/sms` | all processes that name this file have one set of SMs (Linux) |
///
/// Calls are counted from the moment of the injection. A code that persists on a real driver (for example an illegal
/// address) persists here too: every later call returns it.
///
/// ```
/// use cuda_green_sim::{Injection, Sim};
///
/// let sim = Sim::new("2xh200@13.0")?;
/// sim.inject("cuGreenCtxCreate#2=OUT_OF_MEMORY".parse()?);
/// sim.inject(Injection::lose_device(1).at(100));
/// # Ok::<(), cuda_green_sim::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The entry point; `None` for any.
    entry_point: Option<&'static str>,
    /// The first call that it affects, from 1.
    nth: u64,
    /// Whether it affects all later calls, too.
    onwards: bool,
    effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    Fail(CUresult),
    Delay(Duration),
    LoseDevice(u32),
    Everywhere,
    Full(Fill),
    Mps(Mps),
    SharedSms(PathBuf),
}

/// The part of a device that MPS leaves a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mps {
    /// An active thread percentage.
    Percent(u32),
    /// A static partition of this many SMs.
    Partition(u32),
}

/// A limit of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Percent(u32),
    Bytes(u64),
}

impl Fill {
    /// Returns the limit in bytes for a device with this much memory.
    pub(crate) fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                (u128::from(total) * u128::from(percent) / 100).min(u128::from(total)) as u64
            }
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Injection {
    /// Fails every call of an entry point with a code, or those that [`at`](Self::at) and [`onwards`](Self::onwards)
    /// choose. The entry point may be named with or without `_v2`; `*` means any.
    ///
    /// # Errors
    /// [`Error::InvalidInjection`] where no entry point has that name.
    pub fn fail(entry_point: &str, code: CUresult) -> Result<Self, Error> {
        Self::on_calls(entry_point, Effect::Fail(code))
    }

    /// Delays every call of an entry point by this much, in real time and in virtual time.
    ///
    /// # Errors
    /// As [`fail`](Self::fail).
    pub fn slow(entry_point: &str, delay: Duration) -> Result<Self, Error> {
        Self::on_calls(entry_point, Effect::Delay(delay))
    }

    /// Makes a device disappear at the next call, or at that of [`at`](Self::at): from then on, everything on that
    /// device returns `CUDA_ERROR_DEVICE_UNAVAILABLE`. Other devices stay.
    pub fn lose_device(ordinal: u32) -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: false,
            effect: Effect::LoseDevice(ordinal),
        }
    }

    /// Makes every new green context run on all SMs of its device, while the driver reports what it would have
    /// reported: a driver that breaks its promise. [`at`](Self::at) and [`onwards`](Self::onwards) count the green
    /// contexts and choose some. With it, a test can show that a violation is detected.
    ///
    /// (A real driver does something similar with resources of two splits: it reports 64 SMs and runs on 32; measured
    /// on an H200, driver 580.)
    pub fn run_everywhere() -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: true,
            effect: Effect::Everywhere,
        }
    }

    /// Runs the process under MPS with this active thread percentage, from 1 to 100. Inject it before the driver is
    /// used: a real process is under MPS from its start or never.
    ///
    /// The attribute `MPS_ENABLED` is 1, and kernels see SM ids that are renumbered in each context. Below 100 %, the
    /// device reports that part of its SMs, an even number (of 132, 98 at 75 % and 32 at 25 %), and splits return
    /// `INVALID_RESOURCE_CONFIGURATION`. All of that was measured on an H200, driver 580.
    pub fn under_mps(percent: u32) -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: true,
            effect: Effect::Mps(Mps::Percent(percent.clamp(1, 100))),
        }
    }

    /// Runs the process under MPS in a static partition of this many SMs, rounded down to an even number, at least 2. Inject it
    /// before the driver is used.
    ///
    /// The device reports those SMs, and everything works within them. Static partitions are documented from CUDA 13.1 on and
    /// were not measured; before, the process has all SMs.
    pub fn in_static_partition(sm_count: u32) -> Self {
        Self {
            effect: Effect::Mps(Mps::Partition((sm_count & !1).max(2))),
            ..Self::under_mps(100)
        }
    }

    /// Shares the SMs of the device with all processes that name this file, which is made where it is missing: a kernel that has a
    /// [cost](crate::Sim::register_kernel_cost) has its SMs for as long as that says, in real time, and a kernel that needs one of them
    /// meanwhile, in whichever process, waits for it. Within the launch, so a process fills its SMs one kernel after the other.
    ///
    /// With it, a test can show whether green contexts of two processes are apart. On Linux; elsewhere it has no effect.
    pub fn with_shared_sms(file: impl Into<PathBuf>) -> Self {
        Self {
            effect: Effect::SharedSms(file.into()),
            ..Self::under_mps(100)
        }
    }

    /// Fails allocations that would bring a device's memory in use above this many bytes. `cuMemGetInfo` reports all
    /// of the memory, as if it were available but fragmented.
    pub fn memory_full_at(bytes: u64) -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: true,
            effect: Effect::Full(Fill::Bytes(bytes)),
        }
    }

    /// Affects only the nth call from the injection on, where 1 is the next.
    #[must_use]
    pub fn at(mut self, nth: u64) -> Self {
        self.nth = nth.max(1);
        self.onwards = false;
        self
    }

    /// Affects the nth call from the injection on, and all later ones.
    #[must_use]
    pub fn onwards(mut self, nth: u64) -> Self {
        self.nth = nth.max(1);
        self.onwards = true;
        self
    }

    fn on_calls(name: &str, effect: Effect) -> Result<Self, Error> {
        let entry_point = match name {
            "*" => None,
            name => Some(symbol(name).ok_or_else(|| Error::InvalidInjection {
                text: name.to_owned(),
                reason: "the simulated driver has no entry point of this name".to_owned(),
            })?),
        };
        Ok(Self {
            entry_point,
            nth: 1,
            onwards: true,
            effect,
        })
    }

    /// Counts one more call, and returns whether it is affected.
    fn counts(&self, seen: &mut u64) -> bool {
        *seen += 1;
        *seen == self.nth || (self.onwards && *seen > self.nth)
    }

    /// Returns the limit of memory, if it is one.
    pub(crate) fn fill(&self) -> Option<Fill> {
        match self.effect {
            Effect::Full(fill) => Some(fill),
            _ => None,
        }
    }
}

/// Returns the exported symbol of an entry point by that name or by the one that `cuGetProcAddress` knows.
fn symbol(name: &str) -> Option<&'static str> {
    let text = |symbol: &'static CStr| symbol.to_str().ok();
    ENTRY_POINTS
        .iter()
        .find(|entry| text(entry.symbol) == Some(name))
        .or_else(|| {
            ENTRY_POINTS
                .iter()
                .find(|entry| text(entry.proc_name) == Some(name))
        })
        .and_then(|entry| text(entry.symbol))
}
