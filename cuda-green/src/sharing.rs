//! The plan of a device among processes, and the claims on its names.
//!
//! A plan is a small text file that is only ever replaced whole (`plan_text`, `store`). The claims are one file beside
//! it with a record and a lock for each name (`claims`). A lock belongs to an open file description, so it ends with the
//! process however that ends; the record says who had it, so that the SMs of one that was killed are not given on before
//! the GPU is rid of it (`leftover`).
//!
//! A change of the plan is announced as the next plan beside it; `protocol` has the rules, `shares` who gets which SMs,
//! `change` the side of who changes it, `membership` and `held_name` that of holders, whom `event_count` wakes.
//!
//! The pure part is compiled everywhere; the files and locks on Linux only.

#![cfg_attr(not(target_os = "linux"), allow(dead_code))] // elsewhere nothing can be joined

mod agreed_plan;
mod ending;
mod mps_status;
mod plan_text;
mod protocol;
mod record;
mod separation;
mod shared_device;
mod shares;
mod status;
mod steps;
mod terms;

#[cfg(target_os = "linux")]
mod change;
#[cfg(target_os = "linux")]
mod claims;
#[cfg(target_os = "linux")]
mod descriptor;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod end;
#[cfg(target_os = "linux")]
mod event_count;
#[cfg(target_os = "linux")]
mod folder;
#[cfg(target_os = "linux")]
mod from_outside;
#[cfg(target_os = "linux")]
mod held_name;
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
mod place;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod store;

pub(crate) use agreed_plan::{AgreedPlan, PlanKey};
#[cfg(target_os = "linux")]
pub(crate) use change::become_follower;
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{
    EventCount, HeldName, LONGEST_PAUSE, Membership, NameRecord, Outlook, become_follower,
};
pub use ending::{EndStep, EndedHolder};
pub use mps_status::{ComputeMode, MpsDaemon, MpsStatus};
pub(crate) use mps_status::{Surroundings, variable};
#[cfg(target_os = "linux")]
pub(crate) use partner::{Partner, PartnerProgram};
#[cfg(target_os = "linux")]
pub(crate) use plan_text::read as read_plan;
pub(crate) use record::Hindrance;
pub use separation::Separation;
#[cfg(target_os = "linux")]
pub(crate) use separation::{NO_PARTNER, WITHOUT_MPS, keep, kept_for};
pub use shared_device::{DeviceUuid, PlanMps, SharedDevice};
pub use status::{ChangedName, NameHolder, PlanChange, SharedName, SharedStatus};
pub use steps::SharingStep;
#[cfg(feature = "test-utils")]
pub use steps::on_sharing_step;
pub(crate) use steps::reached;
pub(crate) use terms::Terms;
#[cfg(target_os = "linux")]
pub(crate) use {
    event_count::{EventCount, LONGEST_PAUSE},
    held_name::{HeldName, NameRecord},
    membership::{Membership, Outlook},
};
