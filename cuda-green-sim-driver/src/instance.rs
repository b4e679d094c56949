//! The process's only simulated driver, made at the first call.

use std::{io::Write as _, sync::OnceLock};

use cuda_green_sim::Sim;
use cuda_green_sys::{Api, CUresult};

/// The environment variable that chooses the device and the CUDA version: `h200@13.0`.
pub(crate) const PROFILE_VARIABLE: &str = "CUDA_GREEN_SIM_PROFILE";

/// The environment variable that chooses the devices that the process may use, as for a real driver.
const VISIBLE_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// A simulated driver and its functions. It lives as long as the process, as a driver does.
pub(crate) struct Instance {
    pub(crate) sim: Sim,
    pub(crate) api: Api,
}

/// Returns the driver. A simulated device exists only where it was requested by name, so without the variable the
/// driver has no device. Fails if not even such a driver can be made.
pub(crate) fn instance() -> Result<&'static Instance, CUresult> {
    static INSTANCE: OnceLock<Option<Instance>> = OnceLock::new();
    INSTANCE
        .get_or_init(|| {
            let sim = open().or_else(|reason| {
                // This is the only way to report the reason, because the caller sees only an error's number. If
                // stderr cannot be written, the reason is lost: a panic must not reach C.
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

/// Makes the driver of the profile, with the devices that the process may use.
fn open() -> Result<Sim, String> {
    let profile = std::env::var(PROFILE_VARIABLE)
        .map_err(|error| format!("{error}; set it to a profile such as h200@13.0"))?;
    let visible = std::env::var_os(VISIBLE_VARIABLE);
    let visible = visible.as_ref().map(|list| list.to_string_lossy());
    Sim::with_visible(&profile, visible.as_deref()).map_err(|error| error.to_string())
}
