//! The one simulated driver of the process, made at the first call.

use std::{io::Write as _, sync::OnceLock};

use cuda_green_sim::Sim;
use cuda_green_sys::{Api, CUresult};

/// The environment variable that says which device and CUDA version there is: `h200@13.0`.
pub(crate) const PROFILE_VARIABLE: &str = "CUDA_GREEN_SIM_PROFILE";

/// The environment variable that says which devices the process may use, as for a real driver.
const VISIBLE_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// The driver and its functions. It lives as long as the process, as a driver does.
pub(crate) struct Instance {
    pub(crate) sim: Sim,
    pub(crate) api: Api,
}

/// The driver. A simulated device exists only where it was asked for by name, so without the variable there is a driver
/// without a device. An error where not even that can be made.
pub(crate) fn instance() -> Result<&'static Instance, CUresult> {
    static INSTANCE: OnceLock<Option<Instance>> = OnceLock::new();
    INSTANCE
        .get_or_init(|| {
            let sim = open().or_else(|reason| {
                // The only way to tell: the caller sees no more than an error's number. Where nobody can be told, it is
                // not: a panic must not reach C.
                let _ = writeln!(
                    std::io::stderr(),
                    "simulated CUDA driver: {PROFILE_VARIABLE}: {reason}"
                );
                Sim::with_visible("h200@newest", Some(""))
            });
            let sim = sim.ok()?;
            let api = sim.api().ok()?;
            Some(Instance { sim, api })
        })
        .as_ref()
        .ok_or(CUresult::CUDA_ERROR_NO_DEVICE)
}

/// The driver of the profile, with the devices that the process may use.
fn open() -> Result<Sim, String> {
    let profile = std::env::var(PROFILE_VARIABLE)
        .map_err(|error| format!("{error}; set it to a profile such as h200@13.0"))?;
    let visible = std::env::var_os(VISIBLE_VARIABLE);
    let visible = visible.as_ref().map(|list| list.to_string_lossy());
    Sim::with_visible(&profile, visible.as_deref()).map_err(|error| error.to_string())
}
