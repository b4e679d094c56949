//! The public methods of the partition manager. Each calls the file that does the work.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use cuda_green_sys::CUstream;
#[cfg(feature = "test-utils")]
use cuda_green_sys::CudaVersion;

use super::{
    context_key::{ContextKey, no_such_context},
    probe::Probe,
    quad::{ContextId, RebalanceHint},
    rebalance::Shift,
    state::ManagerState,
    status::AllocationStatus,
    stream_home::StreamHome,
    verify::{Verification, VerificationMethod},
    watcher::Watcher,
};
use crate::{
    device::CudaDevice,
    error::Result,
    guard::{self, ContextGuard},
    memory::MemoryBudget,
    names::{HandOff, PartitionStream},
    partition::{ContextPolicy, GreenContext, GreenContextConfig},
    planner::{PartitionRequest, Plan},
    report::MemoryReport,
};

/// Partitions one device and hands the partitions out by name.
///
/// Every method may be called from any thread. No sequence of calls gives an SM to two contexts. Contexts that are
/// in use are never destroyed.
///
/// One manager at a time splits a device. While contexts of one are in use, even after the manager is gone, another
/// is refused ([`Error::PartitionedElsewhere`](crate::Error::PartitionedElsewhere)), since the SMs of two splits
/// overlap. So share one, in an `Arc`. A manager does not know what other processes do, nor splits made by hand
/// ([`SmResource::split`](crate::SmResource::split)).
///
/// Where the driver or the GPU has no green contexts, it works in single-context mode: every id stands for the
/// whole GPU, [`AllocationStatus::mode`] says so and why, and a warning is logged.
///
/// ```
/// use cuda_green::{ContextId, Driver, SmPartitionManager};
///
/// # fn main() -> cuda_green::Result<()> {
/// // SmPartitionManager::new(0) takes the first GPU of the system's driver.
/// let device = Driver::open(&"sim:rtx5090@13.1".parse()?)?.device(0)?;
/// let manager = SmPartitionManager::on(&device)?;
/// manager.init_quad_partition()?;
///
/// let sizes: Vec<u32> = manager.allocation_status().contexts.iter().map(|c| c.sm_count).collect();
/// assert_eq!(sizes, [42, 42, 42, 44]);
///
/// let stream = manager.get_context(ContextId::Embedding)?.create_stream()?;
/// // kernels launched in `stream` run on the SMs of Embedding only
/// # Ok(())
/// # }
/// ```
pub struct SmPartitionManager<Id = ContextId> {
    /// Dropped first: it ends the thread that follows changes of a plan among processes.
    pub(super) _watcher: Option<Watcher>,
    pub(super) state: Arc<ManagerState<Id>>,
}

impl<Id> SmPartitionManager<Id> {
    fn new_with(state: ManagerState<Id>) -> Self {
        Self {
            _watcher: None,
            state: Arc::new(state),
        }
    }
}

impl SmPartitionManager {
    /// Returns a manager of a device of the process's driver.
    ///
    /// # Errors
    /// Those of [`CudaDevice::init`]. Missing green contexts are no error; see the type's documentation.
    pub fn new(device_id: u32) -> Result<Self> {
        Self::on(&CudaDevice::init(device_id)?)
    }

    /// Returns a manager of a device.
    ///
    /// # Errors
    /// As [`with_ids`](Self::with_ids).
    pub fn on(device: &CudaDevice) -> Result<Self> {
        let (capabilities, missing) = (*device.capabilities(), device.missing_features());
        let state = ManagerState::new(device, capabilities, missing, true);
        Ok(Self::new_with(state))
    }
}

impl<Id: Clone + Eq + Debug> SmPartitionManager<Id> {
    /// Returns a manager whose contexts have the caller's kind of names: numbers, strings of a configuration file, an
    /// enum of the program. The first context that is created decides the kind, or the type does:
    /// `SmPartitionManager::<String>::with_ids(&device)`.
    ///
    /// Ids are only compared, copied, shown and dropped; never while the manager holds a lock.
    ///
    /// # Errors
    /// Never fails today. It returns a `Result` because a later driver may have to be asked.
    pub fn with_ids(device: &CudaDevice) -> Result<Self> {
        let (capabilities, missing) = (*device.capabilities(), device.missing_features());
        let state = ManagerState::new(device, capabilities, missing, false);
        Ok(Self::new_with(state))
    }

    /// Returns a manager that uses nothing newer than this CUDA version, whatever the driver can do: for tests of older
    /// drivers' ways on a newer driver.
    ///
    /// # Errors
    /// As [`with_ids`](Self::with_ids).
    #[cfg(feature = "test-utils")]
    pub fn as_of(device: &CudaDevice, version: CudaVersion) -> Result<Self> {
        let own = device.capabilities();
        let capabilities = own.with_driver(version.min(own.driver));
        let missing = (!capabilities.green_contexts).then_some("the version asked for has none");
        let missing = device.missing_features().or(missing);
        let state = ManagerState::new(device, capabilities, missing, false);
        Ok(Self::new_with(state))
    }

    /// Puts the memory limits of all contexts within one budget, the device's: together they never use more than that,
    /// whatever their own limits add up to. Limits of models stand within a context's limit in turn:
    /// [`GpuMemoryPool::child`](crate::GpuMemoryPool::child), [`ModelSlots`](crate::ModelSlots).
    ///
    /// ```
    /// use cuda_green::{ContextId, Driver, MemoryBudget, SmPartitionManager};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let budget = MemoryBudget::new(20 << 30)?;
    /// let manager = SmPartitionManager::on(&device)?.with_memory_budget(&budget)?;
    /// manager.init_quad_partition()?; // 8 GiB each, and 20 GiB together
    ///
    /// let dream = manager.get_context(ContextId::Dream)?;
    /// let buffer = dream.memory()?.allocate(7 << 30)?;
    /// assert_eq!((budget.used(), budget.available()), (7 << 30, 13 << 30));
    /// println!("{}", manager.memory_report());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::AlreadyPartitioned`](crate::Error::AlreadyPartitioned) where there are contexts;
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) where the manager has a budget.
    pub fn with_memory_budget(self, budget: &MemoryBudget) -> Result<Self> {
        self.state.set_memory_budget(budget)?;
        Ok(self)
    }

    /// Creates several contexts at once by requests of any kinds, mixed as you like: all or none.
    ///
    /// The status reports the size that each got, and which plan is in force and why; [`plan`](Self::plan) returns it
    /// beforehand.
    ///
    /// ```
    /// use cuda_green::{ContextPolicy, Driver, SmPartitionManager, planner::PartitionRequest};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager = SmPartitionManager::with_ids(&device)?;
    /// let policy = ContextPolicy::default();
    /// manager.create_partitions(&[
    ///     ("serving", PartitionRequest::at_least(60).cluster(8), policy),
    ///     ("indexing", PartitionRequest::percent(25), policy),
    ///     ("everything else", PartitionRequest::rest(), policy),
    /// ])?;
    /// let status = manager.allocation_status();
    /// let sizes: Vec<u32> = status.contexts.iter().map(|context| context.sm_count).collect();
    /// assert_eq!(sizes, [64, 32, 36]); // whole units of 8 SMs, and what they leave of the 132
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) and
    /// [`Error::ContextExists`](crate::Error::ContextExists) for a list that contradicts itself,
    /// [`Error::AlreadyPartitioned`](crate::Error::AlreadyPartitioned) where there are contexts;
    /// [`Error::ClusterUnavailable`](crate::Error::ClusterUnavailable),
    /// [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) and
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms) for sizes that are impossible;
    /// [`Error::Driver`](crate::Error::Driver). Nothing is left behind then.
    pub fn create_partitions(
        &self,
        partitions: &[(Id, PartitionRequest, ContextPolicy)],
    ) -> Result<()> {
        self.state.create_partitions(partitions)
    }

    /// Creates several contexts at once, from one split made for their sizes: all or none.
    ///
    /// Each has at least the SMs asked for, and from 13.1 on exactly those, to a multiple of 2. Prefer this to calls of
    /// [`create_context`](Self::create_context): knowing all sizes at once, the planner can fit more of them. It is the
    /// simple form of [`create_partitions`](Self::create_partitions).
    ///
    /// # Errors
    /// As [`create_partitions`](Self::create_partitions).
    pub fn create_contexts(&self, contexts: &[(Id, GreenContextConfig)]) -> Result<()> {
        self.state.create_contexts(contexts)
    }

    /// Creates one context by a request, out of what is left: a share or the rest is all that one context can still
    /// have.
    ///
    /// Contexts created one by one are as disjoint as those of one call. On CUDA 12.4, which cannot merge, a free part
    /// of the device that is too large is split, within a scaffold context if necessary, and parts become whole again
    /// when all of them are free. From 12.5 on, a context is merged from units of one split; on compute capability 9.0
    /// and later from whole units. From 13.1 on, if no whole units add up to the size, units are cut through a scaffold
    /// context over them. Such a context takes part in no rebalance, and what is cut off serves small contexts. (By the
    /// 13.1 header, and on the simulated driver; no such driver was available.)
    ///
    /// Some of the SMs may have belonged to another name in an earlier rebalance. Work that its old handles submitted is
    /// done when this returns, since the driver waits for all work on the device when it creates a green context (seen
    /// on an H200, driver 580; not promised). Later work of those handles shares the SMs: drop them, and call
    /// [`release_retired`](Self::release_retired), before you create names over such SMs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument),
    /// [`Error::ContextExists`](crate::Error::ContextExists),
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms);
    /// [`Error::ClusterUnavailable`](crate::Error::ClusterUnavailable) where the SMs that are left do not run the
    /// requested cluster, and [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) where they do not come in the
    /// target's or the exact size; [`Error::Driver`](crate::Error::Driver). Nothing is left behind then.
    pub fn create_partition(
        &self,
        id: Id,
        request: PartitionRequest,
        policy: ContextPolicy,
    ) -> Result<GreenContext> {
        self.state.create_partition(id, request, policy)
    }

    /// Creates one context with at least the SMs asked for, out of what is left. It is the simple form of
    /// [`create_partition`](Self::create_partition).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument),
    /// [`Error::ContextExists`](crate::Error::ContextExists),
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms), [`Error::Driver`](crate::Error::Driver). Nothing is
    /// left behind then.
    pub fn create_context(&self, id: Id, config: GreenContextConfig) -> Result<GreenContext> {
        self.state.create_context(id, config)
    }

    /// Returns the plan that [`create_partitions`](Self::create_partitions) would follow for these requests on an
    /// unpartitioned device: exact sizes, clusters, SMs left over and stranded and why, and which better plans the
    /// driver refuses. The driver is asked by dry runs; nothing is created.
    ///
    /// ```
    /// use cuda_green::{Driver, SmPartitionManager, planner::PartitionRequest};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@12.4".parse()?)?.device(0)?;
    /// let plan = SmPartitionManager::on(&device)?
    ///     .plan(&[64, 32, 24, 12].map(PartitionRequest::at_least))?;
    /// let sizes: Vec<u32> = plan.partitions.iter().map(|partition| partition.sm_count).collect();
    /// assert_eq!((sizes, plan.left_over, plan.nested.len()), (vec![64, 32, 24, 12], 0, 2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`planner::plans`](crate::planner::plans); [`Error::NotPartitioned`](crate::Error::NotPartitioned) in
    /// single-context mode; [`Error::Driver`](crate::Error::Driver).
    pub fn plan(&self, requests: &[PartitionRequest]) -> Result<Plan> {
        self.state.plan(requests)
    }

    /// Destroys a context and gives its SMs back, once its work is done.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`](crate::Error::NoSuchContext); [`Error::ContextInUse`](crate::Error::ContextInUse) while
    /// a handle, stream or guard of it is left, and [`Error::ContextIsCurrent`](crate::Error::ContextIsCurrent) where
    /// foreign code made it current to this thread, which both change nothing;
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream); [`Error::Driver`](crate::Error::Driver).
    pub fn destroy_context(&self, id: impl ContextKey<Id>) -> Result<()> {
        self.state.destroy(&id)
    }

    /// Returns the device that is managed.
    pub fn device(&self) -> &CudaDevice {
        &self.state.device
    }

    /// Returns the context in force under this id.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`](crate::Error::NoSuchContext).
    pub fn get_context(&self, id: impl ContextKey<Id>) -> Result<GreenContext> {
        let found = self.state.registry.context(|own| id.is(own));
        found.ok_or_else(|| no_such_context(&id))
    }

    /// Creates a stream that follows the name: after a rebalance, work goes to the name's new SMs. Its priority is that
    /// of the context's policy.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`](crate::Error::NoSuchContext),
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream), [`Error::Driver`](crate::Error::Driver).
    pub fn create_stream(&self, id: impl ContextKey<Id>) -> Result<PartitionStream> {
        let found = self.state.registry.follow(|own| id.is(own));
        PartitionStream::new(found.ok_or_else(|| no_such_context(&id))?)
    }

    /// Makes a context current on this thread until the guard is dropped. [`GreenContext::activate`] is faster, if you
    /// keep the context.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`](crate::Error::NoSuchContext), [`Error::Driver`](crate::Error::Driver).
    pub fn activate(&self, id: impl ContextKey<Id>) -> Result<ContextGuard<'static>> {
        ContextGuard::owned(self.get_context(id)?)
    }

    /// Makes a context current on this thread until the thread sets another, calls
    /// [`unset_current`](Self::unset_current), or ends. The context is not destroyed before.
    ///
    /// A guard is the better way, since it cannot be left behind. Either way, the default stream orders nothing then:
    /// see [`GreenContext::activate`].
    ///
    /// # Errors
    /// [`Error::GuardActive`](crate::Error::GuardActive) inside a guard, which decides what is current;
    /// [`Error::NoSuchContext`](crate::Error::NoSuchContext), [`Error::Driver`](crate::Error::Driver).
    #[doc(alias = "cuCtxSetCurrent")]
    pub fn set_current(&self, id: impl ContextKey<Id>) -> Result<()> {
        guard::set_current(self.get_context(id)?)
    }

    /// Undoes [`set_current`](Self::set_current): this thread has no current context then.
    ///
    /// # Errors
    /// [`Error::GuardActive`](crate::Error::GuardActive) inside a guard; [`Error::Driver`](crate::Error::Driver).
    pub fn unset_current(&self) -> Result<()> {
        guard::unset_current(self.device())
    }

    /// Gives a context half of what the other, preemptible ones were created with, for ids of any kind; with none, each
    /// gets back what it was created with. See [`rebalance`](SmPartitionManager::rebalance).
    ///
    /// ```
    /// use cuda_green::{Driver, GreenContextConfig, HandOff, SmPartitionManager};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager = SmPartitionManager::with_ids(&device)?;
    /// let config = GreenContextConfig { sm_count: 32, ..GreenContextConfig::default() };
    /// manager.create_contexts(&[("serving", config), ("indexing", config)])?;
    /// manager.provision_rebalance_for(Some(&"serving"))?; // ahead, since making contexts takes long
    /// manager.rebalance_for(Some(&"serving"), HandOff::Strict)?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 32 + 16);
    /// manager.rebalance_for(None, HandOff::Strict)?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 32);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`rebalance`](SmPartitionManager::rebalance).
    pub fn rebalance_for(&self, favoured: Option<&Id>, hand_off: HandOff) -> Result<()> {
        self.state.rebalance(favoured.into(), hand_off)
    }

    /// Makes the contexts that [`rebalance_for`](Self::rebalance_for) would need, and changes nothing else.
    ///
    /// Each is made for as many threads as any context of its name can be current to at once: see
    /// [`GreenContext::provision_threads`].
    ///
    /// # Errors
    /// As [`rebalance_for`](Self::rebalance_for).
    pub fn provision_rebalance_for(&self, favoured: Option<&Id>) -> Result<()> {
        self.state.provision_rebalances(&[favoured.into()])
    }

    /// Gives a context what another was created with, but for at least `keep` SMs, or one piece of the split if that has
    /// more; all others have what they were created with. It does not matter whether the lender is preemptible, as the
    /// caller names it. `rebalance_for(None, ..)` gives the SMs back.
    ///
    /// ```
    /// use cuda_green::{Driver, GreenContextConfig, HandOff, SmPartitionManager};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// # let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let manager = SmPartitionManager::with_ids(&device)?;
    /// let config = GreenContextConfig { sm_count: 32, ..GreenContextConfig::default() };
    /// manager.create_contexts(&[("serving", config), ("indexing", config), ("other", config)])?;
    /// manager.provision_lend(&"serving", &"indexing", 8)?; // ahead, since making contexts takes long
    /// manager.lend(&"serving", &"indexing", 8, HandOff::Strict)?; // nobody asks anything
    /// let sizes = ["serving", "indexing", "other"].map(|id| manager.get_context(id).unwrap().sm_count());
    /// assert_eq!(sizes, [8, 32 + 24, 32]);
    /// manager.rebalance_for(None, HandOff::Strict)?;
    /// assert_eq!(manager.get_context("serving")?.sm_count(), 32);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`rebalance`](SmPartitionManager::rebalance), also where the lender is not there.
    pub fn lend(&self, from: &Id, to: &Id, keep: u32, hand_off: HandOff) -> Result<()> {
        let shift = Shift::Lend { from, to, keep };
        self.state.rebalance(shift, hand_off)
    }

    /// Makes the contexts that [`lend`](Self::lend) would need, as
    /// [`provision_rebalance_for`](Self::provision_rebalance_for) does.
    ///
    /// # Errors
    /// As [`lend`](Self::lend).
    pub fn provision_lend(&self, from: &Id, to: &Id, keep: u32) -> Result<()> {
        let shift = Shift::Lend { from, to, keep };
        self.state.provision_rebalances(&[shift])
    }

    /// Bounds the number of green contexts, each with [`GREEN_CONTEXT_BYTES`](crate::GREEN_CONTEXT_BYTES) of device
    /// memory. Without a limit, which is the default, contexts of every rebalance stay for the next time.
    ///
    /// Where a rebalance would need more, retired contexts without users are destroyed first, the oldest first.
    /// Siblings, which threads get as they activate a context, count, but are never refused. A limit below the present
    /// number destroys nothing; [`release_retired`](Self::release_retired) does.
    pub fn set_context_limit(&self, most: Option<usize>) {
        self.state.set_context_limit(most);
    }

    /// Destroys all retired contexts without users, once their work is done; returns the number of green contexts that
    /// they were.
    ///
    /// A stream, guard or handle keeps its context, and so does foreign code that made the context current to this
    /// thread. A [`PartitionStream`] keeps only the one in force.
    ///
    /// # Errors
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream); [`Error::Driver`](crate::Error::Driver).
    pub fn release_retired(&self) -> Result<usize> {
        self.state.release_retired()
    }

    /// Returns the SMs that each context has, and those that are free. It waits while contexts are being created.
    pub fn allocation_status(&self) -> AllocationStatus<Id> {
        self.state.status()
    }

    /// Returns the budget that the contexts' memory limits stand within, if there is one.
    pub fn memory_budget(&self) -> Option<&MemoryBudget> {
        self.state.memory_budget.get()
    }

    /// Returns the memory figures of the budget (`device`) and of each context whose pool was asked for.
    pub fn memory_report(&self) -> MemoryReport {
        self.state.memory_report()
    }

    /// Runs a small kernel in each context and in the primary one, and returns on which SMs each ran, and which
    /// contexts share some.
    ///
    /// It takes a few milliseconds on an idle device, and waits for work that runs there otherwise. In single-context
    /// mode all contexts overlap, and the result says so. It looks at this manager's contexts only:
    /// [`probe`](Self::probe) finds work of others on their SMs, and [`stream_home`](Self::stream_home) reports where
    /// one stream runs.
    ///
    /// Under MPS the ids of SMs mean nothing, and it fills the contexts with blocks instead: see
    /// [`VerificationMethod`]. Other processes that keep the same SMs busy can make contexts look like one there.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn verify(&self) -> Result<Verification<Id>> {
        self.state.verify()
    }

    /// Verifies as [`verify`](Self::verify) does, and distinguishes contexts by this method.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_by(&self, method: VerificationMethod) -> Result<Verification<Id>> {
        self.state.verify_by(method)
    }

    /// Looks for work of others on the SMs of every idle context: see [`GreenContext::probe`], which says what that can
    /// see and what it cannot.
    ///
    /// It finds work that [`verify`](Self::verify) and [`check_streams`](Self::check_streams) cannot know of: streams
    /// that were not listed, in the primary context or in contexts made by hand, and other processes. It takes about 3
    /// ms for each context where there is no such work. In single-context mode, where all contexts are the whole
    /// device, the program's own work counts as that of others.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn probe(&self) -> Result<Probe<Id>> {
        self.state.probe()
    }

    /// Returns where the work of a stream runs, whoever made the stream.
    ///
    /// One stream that is left in the primary context undoes the isolation of all partitions, as its work runs on all
    /// SMs: on an H200 a request took 0.25 ms at the 99th percentile beside a flood in another partition, and 14.3 ms
    /// beside the same flood in the primary context (`evidence/isolation.json`). Default streams belong to the current
    /// context, which is the primary one unless the program changes it. To keep foreign code out of the partitions that
    /// matter:
    ///
    /// - Give it its own partition, such as the quad's `Reserved`, which has what is left of the device.
    /// - Where a library takes a stream, give it [`Stream::raw`](crate::Stream::raw) of a stream there; where it takes
    ///   a context, [`GreenContext::raw_context`].
    /// - Where it uses the current context, call [`set_current`](Self::set_current) at the beginning of each of its
    ///   threads, or [`activate`](Self::activate) around each call. Its default streams are in the partition then, and
    ///   order nothing: see [`GreenContext::activate`]. Code that makes the primary context current, as `cudaSetDevice`
    ///   does, escapes.
    /// - Ask for its streams here, or with [`check_streams`](Self::check_streams), and let [`probe`](Self::probe) look
    ///   for work in streams that you did not list.
    ///
    /// No partition isolates the bandwidth of memory: a memory-bound request beside a memory-bound flood in another
    /// partition took 1.9 times as long (H200).
    ///
    /// In single-context mode the home of every stream is the [`WholeDevice`](StreamHome::WholeDevice).
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver), also for a default stream where no context is current.
    ///
    /// # Safety
    /// The stream is live, and of this manager's driver; null and the other names of default streams are.
    #[doc(alias = "cuStreamGetGreenCtx")]
    pub unsafe fn stream_home(&self, stream: CUstream) -> Result<StreamHome<Id>> {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.state.stream_home(stream) }
    }

    /// Checks that all of these streams, each with a name for messages, are in partitions of this manager.
    ///
    /// It logs a warning for a blocking stream in a partition (`cuStreamCreate` with flags 0): there, it and the
    /// default stream do not wait for each other, and a program may rely on that.
    ///
    /// # Errors
    /// [`Error::OutsidePartitions`](crate::Error::OutsidePartitions), which names those that are not; as
    /// [`stream_home`](Self::stream_home).
    ///
    /// # Safety
    /// As [`stream_home`](Self::stream_home), for each of them.
    pub unsafe fn check_streams(&self, streams: &[(&str, CUstream)]) -> Result<()> {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.state.check_streams(streams) }
    }
}

impl SmPartitionManager {
    /// Creates four contexts of a quarter of the device each, all at once or not at all.
    ///
    /// `Embedding` is critical and not preemptible, `Dream` low and preemptible, `Training` and `Reserved` medium and
    /// preemptible; each has a memory limit of 8 GiB. A quarter is rounded down to a size that the driver can give
    /// without breaking thread-block clusters; the SMs left over join `Reserved`.
    ///
    /// # Errors
    /// [`Error::AlreadyPartitioned`](crate::Error::AlreadyPartitioned) where there are contexts;
    /// [`Error::InsufficientSms`](crate::Error::InsufficientSms) or
    /// [`Error::UnitsTooCoarse`](crate::Error::UnitsTooCoarse) on a device with too few SMs;
    /// [`Error::Driver`](crate::Error::Driver). Nothing is left behind then.
    pub fn init_quad_partition(&self) -> Result<()> {
        self.state.init_quad_partition()
    }

    /// Gives SMs to the context that a hint favours, with a strict hand-off.
    ///
    /// Every preemptible context gives up to half of the SMs that it was created with, in whole pieces of the split.
    /// One that is not preemptible never has fewer than that. Contexts that were handed out before, their streams and
    /// guards, stay valid and stay where they are: after a rebalance, get the context again, or use a
    /// [`PartitionStream`], which follows the name. Work that an old handle submits after the rebalance shares SMs with
    /// their new owner, which may be a name that is created later.
    ///
    /// The contexts for a hint are made when it is first used, in about 1 ms and with 5 MiB of device memory each, and
    /// the driver waits for all work on the device meanwhile (seen on an H200, driver 580).
    /// [`provision_rebalance`](Self::provision_rebalance) makes them ahead. After that a rebalance takes a few
    /// microseconds on the host.
    ///
    /// In single-context mode it changes nothing, as every context has all SMs.
    ///
    /// # Errors
    /// [`Error::NoSuchContext`](crate::Error::NoSuchContext) where the hint favours a context that is not there;
    /// [`Error::Unsupported`](crate::Error::Unsupported) before CUDA 12.5, which cannot merge;
    /// [`Error::TooManyContexts`](crate::Error::TooManyContexts) beyond the limit;
    /// [`Error::ContextInCapture`](crate::Error::ContextInCapture) where a stream of a context that gives or gets SMs
    /// is in a capture, which the hand-off would spoil: a [`HandOff::Relaxed`] one does not;
    /// [`Error::InsidePartitionStream`](crate::Error::InsidePartitionStream); [`Error::Driver`](crate::Error::Driver).
    /// Names and their SMs stay as they were then. Contexts made for the rebalance remain, and retired ones may be gone.
    pub fn rebalance(&self, hint: RebalanceHint) -> Result<()> {
        self.rebalance_with(hint, HandOff::default())
    }

    /// Rebalances as [`rebalance`](Self::rebalance) does, with a choice of the hand-off.
    ///
    /// # Errors
    /// As [`rebalance`](Self::rebalance).
    pub fn rebalance_with(&self, hint: RebalanceHint, hand_off: HandOff) -> Result<()> {
        let favoured = hint.favoured();
        self.state.rebalance(favoured.as_ref().into(), hand_off)
    }

    /// Makes the contexts of every hint, so that no rebalance has to, each for as many threads as any context of its
    /// name can be current to at once: call [`GreenContext::provision_threads`] before.
    ///
    /// Returns the number of green contexts that the manager then has; each takes
    /// [`GREEN_CONTEXT_BYTES`](crate::GREEN_CONTEXT_BYTES) of device memory.
    /// [`set_context_limit`](Self::set_context_limit) bounds them: where the contexts of all hints together are more,
    /// nothing is made, since one hint's contexts would only evict another's.
    ///
    /// # Errors
    /// As [`rebalance`](Self::rebalance).
    pub fn provision_rebalance(&self) -> Result<usize> {
        self.state.provision_hints()
    }
}

impl<Id: Debug> Debug for SmPartitionManager<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}
