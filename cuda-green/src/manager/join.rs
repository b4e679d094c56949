//! Joining a plan among processes: the same split as in every other process, and contexts for the claimed names only.
//!
//! The pieces of all other names are withheld: taken, under leases of their own. The context of a
//! claimed name has leases that hold the name, so it is given back when the last thing that could run on its SMs is gone.

use std::{
    fmt::Debug,
    path::Path,
    sync::{Arc, Weak, atomic::AtomicBool},
    time::Duration,
};

use super::{
    context_key::refuse_existing, layout::Layout, mode::PartitionMode, observe::Operation,
    partition_manager::SmPartitionManager, separation::keep_tested, shared_plan::SharedPlan,
    state::ManagerState, watcher::Watcher,
};
use crate::{
    device::{Claim, CudaDevice},
    error::{Error, Result},
    names::NamedPartition,
    partition::{ContextPolicy, GreenContext},
    planner::{PartitionRequest, Plan},
    resource::{SmResource, describe},
    sharing::{
        AgreedPlan, HeldName, Membership, NameRecord, PlanKey, SharedStatus, SharingStep, Terms,
        reached,
    },
    sharing_error::SharingError,
    sync::Mutex,
};

/// What to do instead of creating partitions.
pub(super) const CLAIM_INSTEAD: &str = "`claim` takes further names of the plan";

/// The plan among processes that a manager keeps to.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) membership: Membership,
    pub(super) patience: Duration,
    /// Whether it was told that the files of the plan are not in their place any more.
    pub(super) was_lost: AtomicBool,
    /// The names that it holds, with their contexts, whose SMs follow the plan. Their leases hold them.
    names: Mutex<Vec<FollowedName>>,
}

/// A name whose SMs follow the plan. It does not hold the name: that is given back with its context, at once.
#[derive(Clone, Debug)]
pub(super) struct FollowedName {
    pub(super) id: Arc<String>,
    pub(super) record: Arc<NameRecord>,
    pub(super) name: Weak<HeldName>,
}

impl Shared {
    pub(super) fn status(&self) -> SharedStatus {
        self.membership.status()
    }

    /// Returns the names that are held.
    pub(super) fn names(&self) -> Vec<FollowedName> {
        let mut names = self.names.lock();
        names.retain(|one| one.name.strong_count() > 0);
        names.clone()
    }

    fn add(&self, id: &Arc<String>, name: &Arc<HeldName>) {
        let mut names = self.names.lock();
        names.push(FollowedName {
            id: Arc::clone(id),
            record: name.record(),
            name: Arc::downgrade(name),
        });
    }
}

impl<Id> ManagerState<Id> {
    /// Refuses what would leave the plan that the manager shares with other processes.
    pub(super) fn refuse_where_joined(
        &self,
        what: &'static str,
        instead: &'static str,
    ) -> Result<()> {
        match self.shared {
            Some(_) => Err(SharingError::Joined { what, instead }.into()),
            None => Ok(()),
        }
    }
}

impl SmPartitionManager<String> {
    /// Returns a manager that shares the device with other processes: joins the plan in force, or makes the one that is
    /// given, and creates a context for each name that it claims of it, all or none.
    ///
    /// Every process makes the same split, so names of one plan are apart in all of them. A name has one holder at a
    /// time. It is given back when its context is gone, with the last that holds its SMs, or when the process ends, however
    /// that comes; of a process that was killed, once the MPS server no longer lists it. A forked child holds nothing.
    ///
    /// The names and the split stay as they are while a process holds a name. Their shares can be changed, by
    /// [`set_shares`](Self::set_shares) in any of the processes or by
    /// [`SharedDevice::set_shares`](crate::SharedDevice::set_shares) in another: a thread of
    /// this manager follows, and lets the work on SMs that it leaves end there. So work by
    /// [`PartitionStream`](crate::PartitionStream)s, which follow the name; handles, streams and resources of a context
    /// keep its SMs, and a change that takes some of them waits, and is refused in the end. The manager refuses to
    /// rebalance for itself, and to create partitions beside the plan.
    ///
    /// Only under MPS do processes run on the GPU at once (measured on an H200, driver 580: a request keeps its latency
    /// beside a flood in another process). NVIDIA promises that parts of a split are apart within one split call only; for
    /// two processes it is tested where the plan names a program for that ([`SharedPlan::tested_by`]). Without MPS they take
    /// turns, which no partition changes; the [status](Self::allocation_status) says both. What keeps to this library is
    /// kept apart; other programs on the GPU are not.
    ///
    /// The plan lies in a folder that only the user can write: see [`SharedPlan::in_folder`]. Linux only.
    ///
    /// ```
    /// # #[cfg(target_os = "linux")]
    /// # fn main() -> cuda_green::Result<()> {
    /// use cuda_green::{ContextPolicy, Driver, SharedPlan, SmPartitionManager, planner::PartitionRequest};
    ///
    /// # let folder = std::env::temp_dir().join(format!("cuda-green-join-{}", std::process::id()));
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let plan = SharedPlan::of([
    ///     ("serving", PartitionRequest::at_least(64)),
    ///     ("indexing", PartitionRequest::rest()),
    /// ])
    /// .in_folder(&folder); // without this, where the environment says
    /// let manager = SmPartitionManager::join(&device, &plan, &[("serving", ContextPolicy::default())])?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 64);
    /// println!("{}", manager.allocation_status()); // indexing: 68 SMs, free
    /// # drop(manager);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok(())
    /// # }
    /// # #[cfg(not(target_os = "linux"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing): [`SharingError`](crate::SharingError) has the reasons;
    /// [`Error::NotPartitioned`](crate::Error::NotPartitioned) where the device has no green contexts;
    /// [`Error::PartitionedElsewhere`](crate::Error::PartitionedElsewhere),
    /// [`Error::LimitedByMps`](crate::Error::LimitedByMps); the errors of
    /// [`create_partitions`](Self::create_partitions) for a plan that is made. Nothing is held then.
    pub fn join(
        device: &CudaDevice,
        plan: &SharedPlan,
        claims: &[(&str, ContextPolicy)],
    ) -> Result<Self> {
        let (capabilities, missing) = (*device.capabilities(), device.missing_features());
        let mut state = ManagerState::new(device, capabilities, missing, false);
        let joined = state.join(plan, claims);
        state.noting(Operation::Create, joined)?;
        state.note_partitions();
        let state = Arc::new(state);
        let watcher = Watcher::start(&state)?;
        Ok(Self {
            _watcher: Some(watcher),
            state,
        })
    }

    /// Claims one more name of the plan that the manager has joined, and creates its context.
    ///
    /// A name that was [destroyed](Self::destroy_context) can be claimed again, by any process.
    ///
    /// # Errors
    /// [`Error::Sharing`](crate::Error::Sharing), also where the manager has joined no plan;
    /// [`Error::ContextExists`](crate::Error::ContextExists),
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream),
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn claim(&self, name: &str, policy: ContextPolicy) -> Result<GreenContext> {
        let state = &self.state;
        let claimed = state.claim_name(name, policy);
        let context = state.noting(Operation::Create, claimed)?;
        state.note_partitions();
        Ok(context)
    }
}

impl ManagerState<String> {
    fn join(&mut self, plan: &SharedPlan, claims: &[(&str, ContextPolicy)]) -> Result<()> {
        let ids: Vec<Arc<String>> = claims
            .iter()
            .map(|(id, _)| Arc::new((*id).into()))
            .collect();
        for (index, (id, (_, policy))) in ids.iter().zip(claims).enumerate() {
            if ids[..index].contains(id) {
                return Err(SharingError::Name {
                    name: String::clone(id),
                    reason: "the claims have it twice",
                }
                .into());
            }
            policy.check()?;
        }
        if self.mode != PartitionMode::Partitioned {
            return Err(Error::NotPartitioned {
                what: "a plan among processes",
                instead: "the device has no green contexts, so processes share all of it",
            });
        }
        // First, as it needs no other process.
        let claim = self.device.claim()?;
        self.device.check_mps_allows_splits()?;
        let all = self.device.sm_resource()?;
        let device = self.device.clone();
        let version = device.driver().version();
        let terms = Terms {
            folder: plan.folder.as_deref(),
            device: device.uuid()?,
            under_mps: device.is_under_mps(),
            sm_count: self.facts.sm_count,
            driver: version.to_raw(),
            requests: &plan.partitions,
            patience: plan.patience,
        };
        let names: Vec<&str> = claims.iter().map(|(name, _)| *name).collect();
        let make = |key: &PlanKey, folder: &Path| {
            let planned = self.plan_for_all(&claim, &plan.partitions, &all)?;
            let agreed = AgreedPlan::of(key, &plan.partitions, planned);
            // Now, as nobody can hold a name meanwhile.
            let tested = self.test_separation(plan, &agreed, &claim, &all);
            keep_tested(folder, &agreed, &tested);
            Ok(agreed)
        };
        let (membership, held) = Membership::join(&terms, &names, &connect(&device), &make)?;
        let agreed = membership.plan();
        let mut split = self.split_as_agreed(&claim, &agreed, &all)?;
        let mut partitions = Vec::with_capacity(held.len());
        let shared = Shared {
            membership,
            patience: plan.patience,
            was_lost: AtomicBool::new(false),
            names: Mutex::default(),
        };
        for ((id, (_, policy)), name) in ids.iter().zip(claims).zip(held) {
            let name = Arc::new(name);
            partitions.push(self.make(&mut split, &agreed, id, *policy, &name)?);
            shared.add(id, &name);
        }
        reached(SharingStep::Made);
        self.shared = Some(shared);
        let change = self.begin_change()?;
        *change.layout() = Some(split);
        change.registry.add(partitions);
        Ok(())
    }

    fn claim_name(&self, name: &str, policy: ContextPolicy) -> Result<GreenContext> {
        policy.check()?;
        let shared = self.shared.as_ref().ok_or(SharingError::NotJoined)?;
        let id = Arc::new(name.to_owned());
        drop(self.begin_change_of(|ids| refuse_existing(ids, &id))?);
        let connect = connect(&self.device);
        // May wait for other processes, so not within a change.
        let (held, plan) = shared.membership.claim(name, shared.patience, &connect)?;
        let held = Arc::new(held);
        let context = {
            let (change, ()) = self.begin_change_of(|ids| refuse_existing(ids, &id))?;
            let mut layout = change.layout();
            self.tidy(&mut layout);
            let split = layout.as_mut().ok_or(SharingError::NotJoined)?;
            let made = self.make(split, &plan, &id, policy, &held);
            if made.is_err() {
                self.tidy(&mut layout);
            }
            let partition = made?;
            reached(SharingStep::Made);
            let context = partition.context().clone();
            change.registry.add([partition]);
            // Within the change: a name without a context would seem to have left all SMs.
            shared.add(&id, &held);
            context
        };
        // The plan may have changed since it was claimed.
        shared.membership.events().notify();
        Ok(context)
    }

    /// Returns the first plan that the driver does not refuse for all names, of which this process makes no contexts.
    fn plan_for_all(
        &self,
        claim: &Arc<Claim>,
        requests: &[(String, PartitionRequest)],
        all: &SmResource,
    ) -> Result<Plan> {
        let requests: Vec<PartitionRequest> =
            requests.iter().map(|(_, request)| *request).collect();
        let attempt = |plan: &Plan| {
            let split = self.split(claim, plan, all)?;
            for partition in &plan.partitions {
                let pieces = split.find(&partition.parts).unwrap_or_default();
                let merged = pieces.iter().map(|index| split.resources[*index].clone());
                // The driver refuses here what it does not merge.
                describe(self.device.driver(), &merged.collect::<Vec<_>>(), None)?;
            }
            Ok(())
        };
        let (plan, ()) = self.first_plan(&requests, all, attempt)?;
        Ok(plan)
    }

    /// Makes the split of the plan in force, all pieces of which are withheld.
    pub(super) fn split_as_agreed(
        &self,
        claim: &Arc<Claim>,
        agreed: &AgreedPlan,
        all: &SmResource,
    ) -> Result<Layout> {
        let planned = agreed.partitions.iter().map(|one| one.planned.clone());
        let plan = Plan::again(
            &self.facts,
            agreed.strategy,
            agreed.call.clone(),
            agreed.nested.clone(),
            planned.collect(),
        );
        let mut split = self.split(claim, &plan, all)?;
        // Also of the names that others hold: a difference there would be an overlap here.
        for partition in &agreed.partitions {
            let sizes = &partition.planned;
            let found = split
                .find(&sizes.parts)
                .map(|pieces| split.sm_count(&pieces));
            if found != Some(sizes.sm_count) {
                let found = found.map_or("none".to_owned(), |found| format!("{found} SMs"));
                return Err(SharingError::AnotherSplit {
                    reason: format!(
                        "{:?} has {} SMs there, and {found} here",
                        partition.name, sizes.sm_count
                    ),
                }
                .into());
            }
        }
        split.withhold_free_pieces();
        Ok(split)
    }

    /// Creates the context of a name that this process holds.
    fn make(
        &self,
        split: &mut Layout,
        agreed: &AgreedPlan,
        id: &Arc<String>,
        policy: ContextPolicy,
        name: &Arc<HeldName>,
    ) -> Result<NamedPartition<String>> {
        let planned = &agreed.partitions[agreed.position(id)?].planned;
        let pieces = split.find(&planned.parts).unwrap_or_default();
        let context = split.create_as(name, &self.device, policy, planned.requested, &pieces)?;
        self.named(Arc::clone(id), context, pieces)
    }
}

/// Returns what makes the process a client of the MPS server, whose list of clients says something only to those.
pub(super) fn connect(device: &CudaDevice) -> impl Fn() -> Result<()> {
    let device = device.clone();
    move || device.with_primary(|| Ok(()))
}
