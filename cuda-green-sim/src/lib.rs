#![doc = include_str!("../README.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("green contexts exist on 64-bit systems only, and so does their simulation");

mod clusters;
mod driver;
#[allow(non_snake_case)] // the driver's own names
mod entry_points;
mod error;
mod image;
mod injection;
mod kernel;
mod live;
mod memory;
mod not_modelled;
mod profile;
mod ptx;
mod raw;
mod sim;
mod slots;
mod sms;
mod split;
mod threads;
mod timeline;
mod visible;

pub use error::Error;
pub use injection::{FAULTS_VARIABLE, Injection};
pub use kernel::{BlockCost, Launch};
pub use live::{LiveObject, LiveObjects, MadeAt};
pub use memory::Fault;
pub use not_modelled::NOT_MODELLED;
pub use profile::{DeviceProfile, Profile, cuda_versions, profiles};
pub use sim::{LeakGuard, Sim};
pub use slots::MAX_DRIVERS;

const _: () = {
    const fn send_sync<T: Send + Sync>() {}
    send_sync::<Sim>();
    send_sync::<Error>();
};
