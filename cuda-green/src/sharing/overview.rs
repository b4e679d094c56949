//! Reading the plans of all devices without joining one: what `cuda-green partitions` shows.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use cuda_green_sys::CudaVersion;

use super::{
    agreed_plan::{AgreedPlan, PlanKey},
    claims::Claims,
    folder::{Folder, existing_paths},
    holder::holder,
    leftover::{self, Leftover},
    mps::{self, Clients, Server},
    process::{boot, life},
    protocol,
    record::Record,
    separation::{self, Separation},
    shared_device::{DeviceUuid, PlanMps, SharedDevice},
    status::{NameHolder, SharedName, SharedStatus},
    store,
};
use crate::{error::Result, sharing_error::SharingError};

/// A plan in its folder, as one sees it who has not joined it.
pub(super) struct Found {
    pub(super) uuid: DeviceUuid,
    pub(super) plan: AgreedPlan,
    folder: PathBuf,
    announced: Option<AgreedPlan>,
    /// None where no process ever claimed a name.
    pub(super) claims: Option<Claims>,
    pub(super) mps: SeenMps,
    separation: Separation,
}

/// The MPS servers of a plan, as one sees them who may be no client.
pub(super) enum SeenMps {
    None,
    Servers {
        pipes: PathBuf,
        servers: Vec<Server>,
    },
    Unknown(String),
}

impl SharedDevice {
    /// Returns the plans in force, device by device: those in this folder, or else in the folder that
    /// `CUDA_GREEN_SHARED_DIR` names, or else in both that [`SharedPlan::in_folder`](crate::SharedPlan::in_folder)
    /// describes, with MPS and without. A folder that is missing has none, and nothing is made.
    ///
    /// The caller needs no GPU and need not be a client of the MPS server; where the plan is under MPS, it asks
    /// `nvidia-cuda-mps-control`.
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing): a folder or a file that cannot be trusted or read; outside of Linux.
    pub fn list(folder: Option<&Path>) -> Result<Vec<Self>> {
        Ok(found(folder)?.iter().map(Found::shown).collect())
    }
}

/// Finds all plans.
pub(super) fn found(folder: Option<&Path>) -> Result<Vec<Found>, SharingError> {
    if cuda_green_sys::privileges_are_raised() {
        return Err(SharingError::RaisedPrivileges);
    }
    let paths = match folder {
        Some(folder) => vec![folder.to_owned()],
        None => existing_paths(),
    };
    let mut found = Vec::new();
    let mut first_error = None;
    for path in paths {
        match found_at(&path) {
            Ok(plans) => found.extend(plans),
            Err(error) => {
                log::warn!("{error}");
                first_error.get_or_insert(error);
            }
        }
    }
    // What is wrong with one folder is no matter for the plans of the other.
    match first_error {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

fn found_at(path: &Path) -> Result<Vec<Found>, SharingError> {
    let is_there = path.try_exists().map_err(|error| SharingError::Io {
        what: "looking for",
        path: path.to_owned(),
        error,
    })?;
    // A relative one is refused, there or not.
    if is_there || path.is_relative() {
        found_in(&Folder::open(path)?)
    } else {
        Ok(Vec::new())
    }
}

fn found_in(folder: &Folder) -> Result<Vec<Found>, SharingError> {
    let failed = |error| SharingError::Io {
        what: "reading the folder",
        path: folder.path().to_owned(),
        error,
    };
    let mut uuids = Vec::new();
    for entry in fs::read_dir(folder.within(".")).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        uuids.extend(name.to_str().and_then(DeviceUuid::of_file));
    }
    uuids.sort_unstable();
    let mut found = Vec::with_capacity(uuids.len());
    for uuid in uuids {
        let Some(plan) = store::read(folder, &uuid.file("plan"))? else {
            continue; // replaced or removed meanwhile
        };
        let file = uuid.file("claims");
        // One that is missing is not made: this only looks.
        let is_there = folder.within(&file).try_exists().map_err(failed)?;
        let claims = is_there.then(|| Claims::open(folder, &file)).transpose()?;
        found.push(Found {
            uuid,
            announced: announced(folder, uuid, &plan),
            mps: SeenMps::of(&plan.key),
            separation: separation::kept(folder, &plan),
            plan,
            folder: folder.path().to_owned(),
            claims,
        });
    }
    Ok(found)
}

/// Returns the plan that is announced, if one is.
fn announced(folder: &Folder, uuid: DeviceUuid, plan: &AgreedPlan) -> Option<AgreedPlan> {
    let next = store::read(folder, &uuid.file("next")).ok()??;
    protocol::is_announced(plan.generation, next.generation).then_some(next)
}

impl Found {
    fn shown(&self) -> SharedDevice {
        let key = &self.plan.key;
        let next = self.announced.as_ref();
        SharedDevice {
            uuid: self.uuid,
            sm_count: key.sm_count,
            driver: CudaVersion::from_raw(key.driver),
            mps: self.mps.shown(),
            status: SharedStatus {
                folder: self.folder.clone(),
                generation: self.plan.generation,
                announced: next.map(|next| next.generation),
                under_mps: key.server.is_some(),
                separation: self.separation.clone(),
                names: SharedName::of_plan(&self.plan, next, |index| self.holder(index)),
                unassigned_sms: self.plan.unassigned_sms(),
            },
        }
    }

    /// Returns whether the plan is still the one in force, but for the shares.
    pub(super) fn is_in_force(&self) -> Result<bool, SharingError> {
        let folder = Folder::open(&self.folder)?;
        let plan = store::read(&folder, &self.uuid.file("plan"))?;
        Ok(plan.is_some_and(|plan| plan.has_the_split_of(&self.plan)))
    }

    /// Returns the holder of a name.
    pub(super) fn holder(&self, index: usize) -> Result<NameHolder, SharingError> {
        match &self.claims {
            None => Ok(NameHolder::Free),
            Some(claims) => holder(claims, index, |record| self.judge(record)),
        }
    }

    fn judge(&self, record: Record) -> Leftover {
        // No process outlives the system's start.
        if boot().is_ok_and(|boot| boot != self.plan.key.boot) {
            return Leftover::Clear;
        }
        leftover::judge(record, process::id(), life, || self.mps.clients())
    }
}

impl SeenMps {
    pub(super) fn of(key: &PlanKey) -> Self {
        let Some(theirs) = key.server else {
            return Self::None;
        };
        let pipes = mps::pipes();
        let ours = fs::metadata(&pipes).map(|found| (found.dev(), found.ino()));
        if !ours.is_ok_and(|ours| ours == theirs) {
            return Self::Unknown(format!(
                "the plan is of another MPS daemon than that of {}; set CUDA_MPS_PIPE_DIRECTORY as its processes have it, or, where that daemon has ended, remove the files of the plan and of the claims",
                pipes.display()
            ));
        }
        match mps::servers(&pipes) {
            Ok(servers) => Self::Servers { pipes, servers },
            Err(reason) => Self::Unknown(reason),
        }
    }

    fn shown(&self) -> PlanMps {
        match self {
            Self::None => PlanMps::None,
            Self::Servers { pipes, servers } => PlanMps::Servers {
                pipes: pipes.clone(),
                pids: servers.iter().map(|server| server.pid).collect(),
            },
            Self::Unknown(reason) => PlanMps::Unknown {
                reason: reason.clone(),
            },
        }
    }

    /// Returns the clients for a judgement by who may be none. That expects to find itself in the list, which shows that
    /// its numbers are those seen here; here the servers' own numbers show it. It takes one entry of its number for itself,
    /// so a listed one, which may be of a holder that had this number before, counts beside it.
    pub(super) fn clients(&self) -> Clients {
        match self {
            Self::None => Clients::WithoutServer,
            Self::Servers { servers, .. } => {
                let mut listed: Vec<u32> = servers
                    .iter()
                    .flat_map(|server| server.clients.iter().copied())
                    .collect();
                if servers.iter().all(Server::is_seen_here) {
                    listed.push(process::id());
                }
                Clients::Listed(listed)
            }
            Self::Unknown(reason) => Clients::Unknown(reason.clone()),
        }
    }
}
