#![doc = include_str!("../README.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("green contexts exist on 64-bit systems only, and so does their simulation");

mod c_args;
mod c_slots;
mod clusters;
mod driver;
#[allow(non_snake_case)] // the driver's own names
mod entry_points;
mod error;
mod fork;
mod image;
mod injection;
mod kernel;
mod leaks;
mod memory;
mod not_modelled;
mod profile;
mod ptx;
mod shared_sms;
mod sim;
mod sms;
mod split;
mod sync;
mod thread_number;
mod timeline;
mod visible_devices;

pub use c_slots::MAX_DRIVERS;
pub use error::Error;
pub use injection::{FAULTS_VARIABLE, Injection};
pub use kernel::{BlockCost, Launch};
pub use leaks::{LiveObject, LiveObjects, MadeAt};
pub use memory::{Fault, FaultKind};
pub use not_modelled::NOT_MODELLED;
pub use profile::{DeviceProfile, Profile, cuda_versions, profiles};
pub use sim::{LeakGuard, Sim};

const _: () = {
    const fn send_sync<T: Send + Sync>() {}
    send_sync::<Sim>();
    send_sync::<Launch<'_>>();
    send_sync::<Error>();
};
