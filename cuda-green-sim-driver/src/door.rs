//! The one simulated driver of the process, made at the first call.

use std::{io::Write as _, sync::OnceLock};

use cuda_green_sim::Sim;
use cuda_green_sys::{Api, CUresult};

use crate::visible;

/// The environment variable that says which device and CUDA version there is: `h200@13.0`.
pub(crate) const PROFILE_VARIABLE: &str = "CUDA_GREEN_SIM_PROFILE";

/// The driver and its functions. It lives as long as the process, as a driver does.
pub(crate) struct Door {
    pub(crate) sim: Sim,
    pub(crate) api: Api,
    /// Whether no device is there: the driver can be asked for its version and its functions, and `cuInit` answers
    /// that there is none.
    pub(crate) without_device: bool,
}

/// The driver. A simulated device exists only where it was asked for by name, so without the variable there is a driver
/// without a device. An error where not even that can be made.
pub(crate) fn door() -> Result<&'static Door, CUresult> {
    static DOOR: OnceLock<Option<Door>> = OnceLock::new();
    DOOR.get_or_init(|| {
        let sim = open().unwrap_or_else(|reason| {
            // The only way to tell: the caller sees no more than an error's number. Where nobody can be told, it is
            // not: a panic must not reach C.
            let _ = writeln!(
                std::io::stderr(),
                "simulated CUDA driver: {PROFILE_VARIABLE}: {reason}"
            );
            None
        });
        let without_device = sim.is_none();
        let sim = sim.or_else(|| Sim::new("h200@newest").ok())?;
        let api = sim.api().ok()?;
        Some(Door {
            sim,
            api,
            without_device,
        })
    })
    .as_ref()
    .ok_or(CUresult::CUDA_ERROR_NO_DEVICE)
}

/// The driver of the profile, or none where the process may use none of its devices.
fn open() -> Result<Option<Sim>, String> {
    let profile = std::env::var(PROFILE_VARIABLE)
        .map_err(|error| format!("{error}; set it to a profile such as h200@13.0"))?;
    let visible = std::env::var(visible::VARIABLE);
    Sim::limited(&profile, |count| match &visible {
        Ok(list) => visible::count(list, count),
        Err(_) => count,
    })
    .map_err(|error| error.to_string())
}
