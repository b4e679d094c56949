//! The one error type of the crate.

use cuda_green_sys::{CUresult, CudaVersion, MissingEntryPoint};

use crate::{ImageKind, LaunchConfig};

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done: what was asked, what there is, and what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No driver could be loaded.
    #[error(transparent)]
    Load(#[from] cuda_green_sys::Error),
    /// The driver lacks an entry point.
    #[error(transparent)]
    MissingEntryPoint(#[from] MissingEntryPoint),
    /// The simulated driver could not be made.
    #[cfg(feature = "test-utils")]
    #[error(transparent)]
    Simulator(#[from] cuda_green_sim::Error),
    /// A driver is there, but it sees no GPU.
    #[error(
        "the driver ({source_name}, CUDA {driver}) sees no GPU; check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the container has the device"
    )]
    NoGpu {
        /// Where the driver came from.
        source_name: String,
        /// The CUDA version it speaks.
        driver: CudaVersion,
    },
    /// There is no device of that ordinal.
    #[error("there is no device {asked}: the driver sees {count}, numbered from 0")]
    NoSuchDevice {
        /// The ordinal that was asked for.
        asked: u32,
        /// How many devices there are.
        count: u32,
    },
    /// The driver refused a call.
    #[error("{call} failed: {code}")]
    Driver {
        /// The C function.
        call: &'static str,
        /// The driver's code.
        code: CUresult,
    },
    /// The driver refused to load an image.
    #[error(
        "the driver refused the {image}: {code}{}{log}",
        if log.is_empty() { "" } else { "\n" }
    )]
    ImageRefused {
        /// What the image is.
        image: ImageKind,
        /// The driver's code.
        code: CUresult,
        /// What the driver's compiler said, errors first; empty where it said nothing.
        log: String,
    },
    /// A module has no kernel of this name.
    #[error("the module has no kernel {name}{}", instead(kernels.as_deref()))]
    NoSuchKernel {
        /// The name that was asked for.
        name: String,
        /// The names of those that it has, where the driver tells (CUDA 12.4).
        kernels: Option<Vec<String>>,
    },
    /// The driver refused a launch.
    #[error(
        "{call} refused to launch {kernel} ({config}): {code}{}",
        limit.as_ref().map_or(String::new(), |limit| format!("; {limit}"))
    )]
    LaunchRefused {
        /// The kernel's name.
        kernel: String,
        /// What was asked for.
        config: Box<LaunchConfig>,
        /// The C function that refused.
        call: &'static str,
        /// The driver's code.
        code: CUresult,
        /// The limit that the launch exceeds, where it is known.
        limit: Option<String>,
    },
    /// The thread that completions need cannot run.
    #[error("the thread that tells the end of GPU work cannot run: {reason}")]
    NoThread {
        /// Why.
        reason: String,
    },
    /// A capture came to no graph.
    #[error("the capture failed at {call}: {code}: {reason}")]
    CaptureFailed {
        /// The C function that said so.
        call: &'static str,
        /// The driver's code.
        code: CUresult,
        /// What that means.
        reason: &'static str,
    },
    /// An earlier fault made the process unable to use the GPU; only a restart helps.
    #[error(
        "the GPU cannot be used any more in this process since {call} failed: {code}; restart the process"
    )]
    Poisoned {
        /// The first call that failed with a fault that stays.
        call: &'static str,
        /// Its code.
        code: CUresult,
    },
    /// This needs a newer driver.
    #[error("{what} needs a driver of CUDA {needs} or later; this one speaks CUDA {driver}")]
    Unsupported {
        /// What was asked.
        what: &'static str,
        /// The version that has it.
        needs: CudaVersion,
        /// The version at hand.
        driver: CudaVersion,
    },
    /// Only a partition can do this, and the context is the whole GPU (single-context mode).
    #[error("{what} needs a partition, and this context is the whole GPU; {instead}")]
    NotPartitioned {
        /// What was asked.
        what: &'static str,
        /// What does the same here.
        instead: &'static str,
    },
    /// A value that can never work.
    #[error("{name} = {value}: {reason}")]
    InvalidArgument {
        /// The argument or field.
        name: &'static str,
        /// What it was.
        value: String,
        /// Why that cannot be.
        reason: &'static str,
    },
    /// Not enough SMs are left.
    #[error(
        "{asked} SMs were asked for, but at most {available} of the device's {total} can be given{}{}",
        if *stranded > 0 { format!(" ({stranded} more are free but stranded)") } else { String::new() },
        if asked <= available { "; rounded to whole units, the sizes come to more" } else { "" }
    )]
    InsufficientSms {
        /// SMs asked for.
        asked: u32,
        /// The most that one new context could get now.
        available: u32,
        /// SMs that are free but cannot be combined with those.
        stranded: u32,
        /// SMs of the device.
        total: u32,
    },
    /// A split asks for more SMs than there are, or than can be in such groups.
    #[error(
        "the groups need {asked} SMs, but of the {total} to be split only {available} can be in groups like these"
    )]
    UnmetSplit {
        /// SMs of all groups together.
        asked: u32,
        /// SMs that groups of this kind can have.
        available: u32,
        /// SMs that were to be split.
        total: u32,
    },
    /// The driver refused a split for reasons of the chip's topology.
    #[error(
        "the driver cannot split {total} SMs into {groups} ({code}): not so many are co-scheduled like this on the chip; lower `coscheduled`, or allow `backfill`. CUDA_LOG_FILE makes the driver write its reason"
    )]
    SplitRefused {
        /// The sizes that were asked for, in order.
        groups: String,
        /// SMs that were to be split.
        total: u32,
        /// The driver's code.
        code: CUresult,
    },
    /// Parts of a split cannot be split again.
    #[error(
        "these {sm_count} SMs are part of a split, which cannot be split again; create a context over them and split that one's own resource, or ask for all groups in one split"
    )]
    SplitAgain {
        /// How many SMs.
        sm_count: u32,
    },
    /// Resources that cannot be in one context.
    #[error("these resources cannot be in one context: {reason}")]
    IncompatibleResources {
        /// Why.
        reason: &'static str,
    },
    /// The context is current to this thread, so it was left as it is.
    #[error("the context is current to this thread; make another one current before it is closed")]
    ContextIsCurrent,
    /// No plan keeps the thread-block cluster that a request demands.
    #[error(
        "request {request} demands clusters of {asked} blocks, but the best plan runs clusters of {best} there: {why}"
    )]
    ClusterUnavailable {
        /// The request's place in the list, from 0.
        request: usize,
        /// Blocks of the cluster demanded.
        asked: u32,
        /// Blocks of the largest cluster that the best plan would run in that partition.
        best: u32,
        /// Why no larger one.
        why: String,
    },
    /// The sizes would fit, but not in whole units of the device.
    #[error(
        "{asked} of {total} SMs were asked for, which does not work out in whole units of {unit} SMs; {help}"
    )]
    UnitsTooCoarse {
        /// SMs asked for, in all.
        asked: u32,
        /// SMs of a unit.
        unit: u32,
        /// SMs of the device.
        total: u32,
        /// What would help.
        help: &'static str,
    },
    /// The id is taken.
    #[error("context {id} exists already; destroy it first, or use another id")]
    ContextExists {
        /// The id.
        id: String,
    },
    /// No context has this id.
    #[error("there is no context {id}")]
    NoSuchContext {
        /// The id.
        id: String,
    },
    /// The context is still used, so it was left as it is.
    #[error(
        "context {id} is in use (handles, streams and guards that hold it: {holders}); drop them first"
    )]
    ContextInUse {
        /// The id, or the words of a context without one.
        id: String,
        /// How many hold it beside the one that was to be given up.
        holders: usize,
    },
    /// The manager has contexts already, so it cannot be laid out anew.
    #[error("the device is partitioned already ({contexts} contexts); destroy them first")]
    AlreadyPartitioned {
        /// How many contexts there are.
        contexts: usize,
    },
    /// Another manager has split the device, so that a further split would overlap with that one.
    #[error(
        "device {device} is partitioned by another SmPartitionManager of this process, or contexts of one that is gone are still in use; share one manager, since the SMs of two splits overlap"
    )]
    PartitionedElsewhere {
        /// The device's ordinal.
        device: u32,
    },
    /// More green contexts would be kept than the manager's limit.
    #[error(
        "{missing} green contexts are missing, and with the {kept} that are in use that would be more than the limit of {limit}; raise it, or drop handles, streams and guards of earlier layouts"
    )]
    TooManyContexts {
        /// The limit.
        limit: usize,
        /// How many are kept that cannot be given up.
        kept: usize,
        /// How many more are needed.
        missing: usize,
    },
    /// Streams are in no partition of the manager.
    #[error(
        "outside of all partitions: {}; make them in a context of the manager, or make one current first",
        streams.join(", ")
    )]
    OutsidePartitions {
        /// Their names, and where each is.
        streams: Vec<String>,
    },
    /// A guard is active on this thread, which decides what is current until it is dropped.
    #[error("a context guard is active on this thread; drop it first, or use `activate`")]
    GuardActive,
    /// Foreign code left another context current than the guard had made current.
    #[error(
        "foreign code changed this thread's current context inside a guard; what was current before the guard is current again"
    )]
    ForeignContext,
    /// The request would exceed the pool's limit, or the device has no more memory.
    #[error("{asked} bytes were asked for, but {available} of the pool's {limit} are left")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were left under the limit.
        available: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Memory was freed and is not free.
    #[error("{bytes} bytes were freed, but are still in use; something else holds them")]
    MemoryNotBack {
        /// How many bytes.
        bytes: u64,
    },
    /// A model does not fit, and evicting all that may be evicted would not make it fit.
    #[error(
        "{name} needs {asked} bytes and a slot; {available} bytes and {free_slots} slots are free, evicting idle models would give {evictable} bytes more, and {held} bytes are pinned or in use"
    )]
    NoRoomForModel {
        /// The model.
        name: String,
        /// Bytes that it needs.
        asked: u64,
        /// Bytes that are free.
        available: u64,
        /// Slots that are free.
        free_slots: usize,
        /// Bytes of models that may be evicted.
        evictable: u64,
        /// Bytes of models that may not.
        held: u64,
    },
    /// No model of this name is loaded.
    #[error("no model {name} is loaded")]
    NoSuchModel {
        /// The name.
        name: String,
    },
    /// The model is pinned or in use, so it stays.
    #[error("model {name} is pinned, loading or in use ({holders} hold it)")]
    ModelInUse {
        /// The name.
        name: String,
        /// Pins and leases.
        holders: usize,
    },
    /// A buffer was given back to a pool that it is not of.
    #[error("the buffer belongs to another pool")]
    ForeignBuffer,
    /// A stream of one device was to work on memory, or run a kernel or a graph, of another.
    #[error("the stream is of another device than the memory, the kernel or the graph")]
    ForeignStream,
    /// A stream, an event or a kernel of one driver was to meet one of another.
    #[error("the event, the kernel or the stream is of another driver than what it was to meet")]
    ForeignDriver,
    /// Source and destination of a copy differ in length.
    #[error("a copy of {source_len} bytes does not fit a buffer of {buffer_len}")]
    LengthMismatch {
        /// Bytes on the host.
        source_len: usize,
        /// Bytes of the buffer.
        buffer_len: usize,
    },
}

/// The kernels that a module has in the place of one that it lacks.
fn instead(kernels: Option<&[String]>) -> String {
    /// More of them than this are only counted.
    const TOLD: usize = 10;
    let Some(kernels) = kernels else {
        return String::new();
    };
    if kernels.is_empty() {
        return "; it has none".to_owned();
    }
    let told = kernels[..kernels.len().min(TOLD)].join(", ");
    match kernels.len().saturating_sub(TOLD) {
        0 => format!("; it has {told}"),
        more => format!("; it has {told} and {more} more"),
    }
}
