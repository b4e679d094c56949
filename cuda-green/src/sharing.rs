//! The plan of a device among processes, and the claims on its names.
//!
//! A plan is a small text file that is only ever replaced whole (`plan_text`, `store`). The claims are one file beside
//! it with a record and a lock for each name (`claims`). A lock belongs to an open file description, so it ends with the
//! process however that ends; the record says who had it, so that the SMs of one that was killed are not given on before
//! the GPU is rid of it (`leftover`).
//!
//! The pure part is compiled everywhere; the files and locks on Linux only.

#![cfg_attr(not(target_os = "linux"), allow(dead_code))] // elsewhere nothing can be joined

mod agreed_plan;
mod ending;
mod mps_status;
mod plan_text;
mod record;
mod separation;
mod shared_device;
mod status;
mod steps;
mod terms;

#[cfg(target_os = "linux")]
mod claims;
#[cfg(target_os = "linux")]
mod descriptor;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod end;
#[cfg(target_os = "linux")]
mod folder;
#[cfg(target_os = "linux")]
mod holder;
#[cfg(target_os = "linux")]
mod leftover;
#[cfg(target_os = "linux")]
mod membership;
#[cfg(target_os = "linux")]
mod mps;
#[cfg(target_os = "linux")]
mod overview;
#[cfg(target_os = "linux")]
mod partner;
#[cfg(target_os = "linux")]
mod pidfd;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod store;

pub(crate) use agreed_plan::AgreedPlan;
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{HeldName, Membership};
pub use ending::{EndStep, EndedHolder};
#[cfg(target_os = "linux")]
pub(crate) use membership::{HeldName, Membership};
pub use mps_status::{ComputeMode, MpsDaemon, MpsStatus};
pub(crate) use mps_status::{Surroundings, variable};
#[cfg(target_os = "linux")]
pub(crate) use partner::{Partner, PartnerProgram};
#[cfg(target_os = "linux")]
pub(crate) use plan_text::read as read_plan;
pub use separation::Separation;
#[cfg(target_os = "linux")]
pub(crate) use separation::{NO_PARTNER, WITHOUT_MPS, keep, kept_for};
pub use shared_device::{DeviceUuid, PlanMps, SharedDevice};
pub use status::{NameHolder, SharedName, SharedStatus};
pub use steps::SharingStep;
#[cfg(feature = "test-utils")]
pub use steps::on_sharing_step;
pub(crate) use steps::reached;
pub(crate) use terms::Terms;
