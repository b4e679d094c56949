//! The one simulated driver of the process, made at the first call.

use std::sync::OnceLock;

use cuda_green_sim::Sim;
use cuda_green_sys::{Api, CUresult};

/// The environment variable that says which device and CUDA version there is: `h200@13.0`.
pub(crate) const PROFILE_VARIABLE: &str = "CUDA_GREEN_SIM_PROFILE";

/// The driver and its functions. It lives as long as the process, as a driver does.
pub(crate) struct Door {
    pub(crate) sim: Sim,
    pub(crate) api: Api,
}

/// The driver, or what every call answers where there is none: a simulated driver exists only where it
/// was asked for by name, so without the variable there is no device.
pub(crate) fn door() -> Result<&'static Door, CUresult> {
    static DOOR: OnceLock<Option<Door>> = OnceLock::new();
    DOOR.get_or_init(|| match open() {
        Ok(door) => Some(door),
        Err(reason) => {
            // The only way to tell: the caller sees no more than an error's number.
            eprintln!("simulated CUDA driver: {PROFILE_VARIABLE}: {reason}");
            None
        }
    })
    .as_ref()
    .ok_or(CUresult::CUDA_ERROR_NO_DEVICE)
}

fn open() -> Result<Door, String> {
    let profile = std::env::var(PROFILE_VARIABLE)
        .map_err(|error| format!("{error}; set it to a profile such as h200@13.0"))?;
    let sim = Sim::new(&profile).map_err(|error| error.to_string())?;
    let api = sim.api().map_err(|error| error.to_string())?;
    Ok(Door { sim, api })
}
