//! The files of a device's plan, and what one process does with them: agreeing on a plan, claiming names of it.
//!
//! Two rules keep an SM from being given to two processes while no change is announced (`protocol` has those of one):
//!
//! - A plan is replaced only by who holds the locks of all names (and that of changes, which keeps two such apart).
//! - Who claims a name first locks it and then reads the plan again: if it is another one by now, the claim was made
//!   under a plan that is gone, and is given back. From then on the plan stays, as the name is held.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    agreed_plan::{AgreedPlan, MOST_NAMES, PlanKey},
    claims::Claims,
    event_count::EventCount,
    folder::{self, Folder},
    held_name::HeldName,
    holder::holder,
    leftover::{self, Leftover},
    mps,
    overview::SeenMps,
    process::{Life, boot, life, own},
    protocol,
    record::{Holder, Record},
    shared_device::DeviceUuid,
    status::NameHolder,
    steps::{SharingStep, reached},
    store,
    terms::Terms,
};
use crate::{
    error::{Error, Result},
    planner::PartitionRequest,
    sharing_error::SharingError,
};

/// The time between two attempts at what another process has.
const PAUSE: Duration = Duration::from_millis(2);
/// The same where each attempt asks the MPS server's control program.
pub(super) const LONG_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait, patient or not, for what others do in a moment: to plan, to write a record, to leave SMs.
pub(super) const A_MOMENT: Duration = Duration::from_secs(2);

/// Longer than anybody waits; the end of a longer wait may be no moment of the clock.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The files of a device's plan, and the facts that it must be for.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: Folder,
    pub(super) claims: Arc<Claims>,
    pub(super) events: Arc<EventCount>,
    pub(super) plan_file: String,
    /// The plan that is to come, while a change is announced.
    pub(super) next_file: String,
    claims_file: String,
    /// The pipes of the MPS server, if the processes of the plan are its clients.
    pub(super) pipes: Option<PathBuf>,
    /// Whether this process may be no client of it.
    is_outside: bool,
    key: PlanKey,
}

impl Place {
    pub(super) fn open(terms: &Terms<'_>) -> Result<Self, SharingError> {
        let path = match terms.folder {
            Some(path) => path.to_owned(),
            None => folder::default_path(terms.under_mps)?,
        };
        let pipes = terms.under_mps.then(mps::pipes);
        let key = PlanKey {
            device: terms.device,
            server: pipes.as_deref().map(server).transpose()?,
            sm_count: terms.sm_count,
            driver: terms.driver,
            boot: own_boot()?,
        };
        Self::of(&path, key, pipes)
    }

    /// Returns the place of a device's plan in a folder, for a process that need not see the device.
    pub(super) fn seen_from_outside(path: &Path, device: DeviceUuid) -> Result<Self, SharingError> {
        let plan = store::read(&Folder::open(path)?, &device.file("plan"))?;
        let key = PlanKey {
            boot: own_boot()?,
            ..plan.ok_or(SharingError::NoPlan)?.key
        };
        let pipes = key.server.map(|_| mps::pipes());
        Ok(Self {
            is_outside: true,
            ..Self::of(path, key, pipes)?
        })
    }

    fn of(path: &Path, key: PlanKey, pipes: Option<PathBuf>) -> Result<Self, SharingError> {
        let folder = Folder::open(path)?;
        let device = DeviceUuid(key.device);
        let (plan_file, claims_file) = (device.file("plan"), device.file("claims"));
        // In this order: whoever makes a plan has made the claims before.
        let plan = store::read(&folder, &plan_file);
        if fs::symlink_metadata(folder.within(&claims_file)).is_err()
            && plan?.is_some_and(|plan| plan.key.boot == key.boot)
        {
            return Err(SharingError::File {
                path: folder.shown(&plan_file),
                problem: "the file of its claims is gone, so nobody knows who holds its names"
                    .to_owned(),
            });
        }
        let claims = Arc::new(Claims::open(&folder, &claims_file)?);
        let events = EventCount::open(Arc::clone(&claims), &folder.within(&claims_file))?;
        Ok(Self {
            claims,
            events: Arc::new(events),
            folder,
            plan_file,
            next_file: device.file("next"),
            claims_file,
            pipes,
            is_outside: false,
            key,
        })
    }

    /// Returns whether the process must be made a client of the MPS server before the holders of a plan are judged.
    pub(super) fn needs_connection(&self, plan: &PlanKey) -> bool {
        self.own_server(plan).is_some()
    }

    /// Returns the pipes of a plan's MPS server where this process can be its client. Those who join may be clients of
    /// another one than the plan in their folder is of, or of none.
    fn own_server(&self, plan: &PlanKey) -> Option<&Path> {
        let pipes = self.pipes.as_deref()?;
        (!self.is_outside && plan.server == self.key.server).then_some(pipes)
    }

    /// Returns the plan in force; where there is none, or one for other facts or requests whose names nobody holds, makes
    /// one.
    pub(super) fn agree(
        &self,
        requests: &[(String, PartitionRequest)],
        connect: &dyn Fn() -> Result<()>,
        plan: &dyn Fn(&PlanKey, &Path) -> Result<AgreedPlan>,
    ) -> Result<AgreedPlan> {
        self.refuse_announced()?;
        let difference = |found: &AgreedPlan| found.difference(&self.key, requests);
        let fits = |found: &AgreedPlan| difference(found).is_none();
        if let Some(found) = self.read()?.filter(fits) {
            return Ok(found);
        }
        let _changes = self.claims.try_lock_changes()?.ok_or(SharingError::Busy)?;
        let other = self.read()?;
        let difference = other.as_ref().and_then(difference);
        if let (Some(found), None) = (&other, &difference) {
            return Ok(found.clone());
        }
        let Some(_all) = self.claims.try_lock_all()? else {
            return Err(match difference {
                Some(difference) => difference.into(),
                None => SharingError::File {
                    path: self.folder.shown(&self.plan_file),
                    problem: "it is gone while processes hold names of it".to_owned(),
                },
            }
            .into());
        };
        if requests.is_empty() {
            return Err(SharingError::NoPlan.into());
        }
        let is_of_now = other
            .as_ref()
            .is_none_or(|other| self.is_of_this_start(other));
        let key = other.as_ref().map_or(&self.key, |other| &other.key);
        for index in 0..MOST_NAMES {
            if is_of_now {
                let name = other.as_ref().and_then(|other| other.partitions.get(index));
                let name = name.map_or("a name of an earlier plan", |name| &name.name);
                self.check_leftover(key, index, name, connect)?;
            }
            self.claims.write(index, Record::Clear)?;
        }
        reached(SharingStep::Planning);
        let before = other.map_or(0, |other| other.generation);
        let made = AgreedPlan {
            generation: protocol::next_number(before, self.claims.read_announced()?),
            ..plan(&self.key, self.folder.path())?
        };
        // What a change that nobody finished announced was for the plan that goes.
        store::withdraw(&self.folder, &self.next_file)?;
        store::replace(&self.folder, &self.plan_file, &made)?;
        Ok(made)
    }

    /// Claims names of a plan: all or none.
    pub(super) fn claim(
        &self,
        plan: &AgreedPlan,
        names: &[&str],
        connect: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<HeldName>> {
        let mut held = Vec::with_capacity(names.len());
        for name in names {
            let index = plan.position(name)?;
            let Some(lock) = self.claims.try_lock_name(index)? else {
                return Err(self.held(index, name)?.into());
            };
            reached(SharingStep::NameLocked);
            self.check_leftover(&plan.key, index, name, connect)?;
            let own =
                own(plan.generation).map_err(|error| failed("reading", "/proc/self", error))?;
            self.claims.write(index, Record::Of(own))?;
            lock.keep(index);
            held.push(HeldName::of(self, index, own));
            reached(SharingStep::NameRecorded);
        }
        self.check_claims()?;
        // Whoever announces one looks at the locks after that.
        self.refuse_announced()?;
        self.check_in_force(plan)?;
        reached(SharingStep::Claimed);
        Ok(held)
    }

    /// Refuses while a change is announced, unless nobody goes on with it: then it ends here.
    fn refuse_announced(&self) -> Result<(), SharingError> {
        match fs::symlink_metadata(self.folder.within(&self.next_file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("reading", self.folder.shown(&self.next_file), error)),
            Ok(_) => match self.settle()? {
                true => Ok(()),
                false => Err(SharingError::Busy),
            },
        }
    }

    /// Returns whether a plan was made since the system started: no process outlives that.
    pub(super) fn is_of_this_start(&self, plan: &AgreedPlan) -> bool {
        plan.key.boot == self.key.boot
    }

    pub(super) fn check_in_force(&self, plan: &AgreedPlan) -> Result<(), SharingError> {
        if self.read()?.as_ref() == Some(plan) {
            Ok(())
        } else {
            Err(SharingError::Replaced)
        }
    }

    pub(super) fn read(&self) -> Result<Option<AgreedPlan>, SharingError> {
        store::read(&self.folder, &self.plan_file)
    }

    pub(super) fn read_next(&self) -> Result<Option<AgreedPlan>, SharingError> {
        store::read(&self.folder, &self.next_file)
    }

    /// Ensures that a plan is for the facts of this process.
    pub(super) fn check_facts(&self, plan: &AgreedPlan) -> Result<(), SharingError> {
        match plan.difference(&self.key, &[]) {
            None => Ok(()),
            Some(difference) => Err(difference.into()),
        }
    }

    /// Ensures that the locks are those of the file that others open.
    pub(super) fn check_claims(&self) -> Result<(), SharingError> {
        self.claims.check_in_place(&self.folder, &self.claims_file)
    }

    /// Ensures that the SMs of a name of a plan, whose lock this process has, are idle.
    fn check_leftover(
        &self,
        key: &PlanKey,
        index: usize,
        name: &str,
        connect: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let record = self.claims.read(index)?;
        if record == Record::Clear {
            return Ok(());
        }
        if self.needs_connection(key) {
            connect()?;
        }
        match self.judge(key, record) {
            Leftover::Clear => Ok(()),
            Leftover::Dirty(reason) => Err(SharingError::Dirty {
                name: name.to_owned(),
                holder: in_words(record),
                reason,
            }
            .into()),
        }
    }

    /// Judges the record of a name of a plan.
    pub(super) fn judge(&self, key: &PlanKey, record: Record) -> Leftover {
        leftover::judge(record, process::id(), life, || match self.own_server(key) {
            Some(pipes) => mps::clients(pipes),
            None => SeenMps::of(key).clients(),
        })
    }

    /// Returns the error for a name that another has locked.
    fn held(&self, index: usize, name: &str) -> Result<SharingError, SharingError> {
        let record = self.claims.read(index)?;
        Ok(match record {
            Record::Of(holder) if matches!(life(&holder), Life::Alive | Life::Unknown) => {
                SharingError::Held {
                    name: name.to_owned(),
                    holder: Some(in_words(record)),
                }
            }
            // It is being claimed or given back, or the plan is being made: soon it is known what it is.
            _ => SharingError::Busy,
        })
    }

    /// Returns the holder of a name of the plan that was joined.
    pub(super) fn holder(&self, index: usize) -> Result<NameHolder, SharingError> {
        holder(&self.claims, index, |record| self.judge(&self.key, record))
    }
}

/// Tries until it works, or until there is nothing more to wait for.
pub(super) fn retry<T>(patience: Duration, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let error = match attempt() {
            Err(error) => error,
            done => return done,
        };
        let (patience, pause) = match &error {
            Error::Sharing(SharingError::Busy) => (patience.max(A_MOMENT), PAUSE),
            Error::Sharing(SharingError::Held { .. } | SharingError::AnotherPlan { .. }) => {
                (patience, PAUSE)
            }
            Error::Sharing(SharingError::Dirty { .. }) => (patience, LONG_PAUSE),
            _ => return Err(error),
        };
        if begun.elapsed() >= patience {
            return Err(error);
        }
        thread::sleep(pause);
    }
}

fn own_boot() -> Result<String, SharingError> {
    boot().map_err(|error| failed("reading", "/proc/sys/kernel/random/boot_id", error))
}

/// Returns what tells one MPS server from another: the folder of its pipes.
fn server(pipes: &Path) -> Result<(u64, u64), SharingError> {
    let found = fs::metadata(pipes);
    let found = found.map_err(|error| failed("finding the MPS server's pipes in", pipes, error))?;
    Ok((found.dev(), found.ino()))
}

fn in_words(record: Record) -> String {
    match record {
        Record::Of(Holder { pid, .. }) => format!("process {pid}"),
        _ => "a process".to_owned(),
    }
}

fn failed(what: &'static str, path: impl Into<PathBuf>, error: io::Error) -> SharingError {
    SharingError::Io {
        what,
        path: path.into(),
        error,
    }
}
