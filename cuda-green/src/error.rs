//! The one error type of the crate.

use cuda_green_sys::{CUresult, CudaVersion, MissingEntryPoint};

use crate::{
    image::{BrokenImage, ImageKind},
    launch::LaunchConfig,
    size::{Bytes, Free, Left, Were},
};

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
    /// This process is a forked child of one that had initialised CUDA, where the driver does not work.
    #[error(
        "{call} failed: this process was forked after CUDA was initialised, and CUDA does not work in such a child; start the child by `exec` (`std::process::Command`, Python's `spawn`), or initialise CUDA in the child only"
    )]
    Forked {
        /// The C function, which answered `CUDA_ERROR_NOT_INITIALIZED`.
        call: &'static str,
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
        "`{requests}` needs at least {asked} SMs, but at most {available} of the device's {total} are available{}",
        if *stranded > 0 { format!(" ({stranded} more are free but stranded)") } else { String::new() }
    )]
    InsufficientSms {
        /// The requests, as [`PartitionRequest`](crate::planner::PartitionRequest)s are written.
        requests: String,
        /// The fewest SMs that meet them; a rest, or a share without a minimum, counts as one.
        asked: u32,
        /// The most SMs that one new context can get now.
        available: u32,
        /// SMs that are free but cannot be combined with those.
        stranded: u32,
        /// SMs of the device.
        total: u32,
    },
    /// A split asks for more SMs than there are, or than are available for such groups.
    #[error(
        "the groups ({groups}) need {asked} SMs; {}",
        available_to_groups(*asked, *available, *total)
    )]
    UnmetSplit {
        /// The requested sizes, in order; `all` for as many SMs as there are.
        groups: String,
        /// SMs of all groups together.
        asked: u32,
        /// SMs that are available for groups of this kind.
        available: u32,
        /// SMs to be split.
        total: u32,
    },
    /// The driver refused a split for the chip's topology.
    #[error(
        "the driver refused to split {total} SMs into {groups} ({code}): the chip does not have that many SMs co-scheduled in this way; lower `coscheduled`, or allow `backfill`. With CUDA_LOG_FILE set, the driver writes its reason"
    )]
    SplitRefused {
        /// The requested sizes, in order.
        groups: String,
        /// SMs to be split.
        total: u32,
        /// The driver's code.
        code: CUresult,
    },
    /// MPS leaves the process a part of the SMs, which the driver does not split.
    #[error(
        "MPS limits this process to {sm_count} SMs, and the driver makes no partitions within that limit; the limit comes from {limit}, so that partitions divide the SMs instead"
    )]
    LimitedByMps {
        /// SMs that MPS leaves the process.
        sm_count: u32,
        /// The limit's origin, and the way to lift it.
        limit: String,
    },
    /// Parts of a split cannot be split again.
    #[error(
        "these {sm_count} SMs are part of a split, which cannot be split again; create a context over them and split that context's resource, or ask for all groups in one split"
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
    /// A stream of the context is in a capture, which recording all work of the context would spoil.
    #[error(
        "a stream of the context is in a capture, which would be lost if all work of the context were recorded or made to wait; end the capture first, or rebalance with a relaxed hand-off"
    )]
    ContextInCapture,
    /// The context is current to this thread by foreign code's doing, so it was not closed. A handle that comes back
    /// with this ([`CloseError::into_parts`](crate::CloseError::into_parts)) is to be kept: where the last one is
    /// dropped, by `?` too, the context ends, and the thread has no current context then.
    #[error(
        "the context is current to this thread, so it was not closed; make another one current first (if its last handle is dropped before, it ends, and the thread has no current context then)"
    )]
    ContextIsCurrent,
    /// No plan keeps the thread-block cluster that a request demands.
    #[error("`{text}` cannot be met: the best plan runs clusters of up to {best} there: {why}")]
    ClusterUnavailable {
        /// The request, as a [`PartitionRequest`](crate::planner::PartitionRequest) is written.
        text: String,
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
        "`{requests}` needs at least {asked} of the {total} SMs, which does not work out in units of {unit} SMs; {help}"
    )]
    UnitsTooCoarse {
        /// The requests, as [`PartitionRequest`](crate::planner::PartitionRequest)s are written.
        requests: String,
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
    /// Another manager has split the device, or something of an earlier split holds its SMs: a further split would
    /// overlap with that one.
    #[error(
        "device {device} is partitioned by another SmPartitionManager of this process, or its SMs are still held by what is left of an earlier partitioning (contexts, streams, SM resources, forgotten guards); share one manager, since the SMs of two splits overlap"
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
    /// Inside [`PartitionStream::with`](crate::PartitionStream::with), something that waits for rebalances, which wait
    /// for that.
    #[error(
        "inside PartitionStream::with, which holds rebalances off, nothing that waits for one can be done; do it before or after, and order streams of names by an Event"
    )]
    InsidePartitionStream,
    /// A guard is active on this thread, which decides what is current until it is dropped.
    #[error("a context guard is active on this thread; drop it first, or use `activate`")]
    GuardActive,
    /// A guard was closed below another one of its thread.
    #[error(
        "a context guard that this thread entered later is still active, or was forgotten, so its context is current: close guards in reverse order, and hold none across an `await` (`with_current` takes a closure)"
    )]
    GuardNotOnTop,
    /// Foreign code left another context current than the guard had made current.
    #[error(
        "foreign code changed this thread's current context inside a guard; what was current before the guard is current again"
    )]
    ForeignContext,
    /// The request would exceed a limit: the pool's own, or one that it stands within.
    #[error(
        "{} asked for, but only {}; free buffers, or {}",
        Were(*asked), Left { available: *available, limit: *limit }, if *limit == u64::MAX { "ask for less" } else { "raise the limit" }
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were left under the limit.
        available: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The limits allow the request, but the device has not so much free memory in one piece.
    #[error(
        "{} asked for, which the limits allow, but {}; other pools, contexts and processes have the rest",
        Were(*asked), Free { free: *free, total: *total }
    )]
    DeviceOutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were free on the device, as the driver said; none where it did not say.
        free: Option<u64>,
        /// Bytes of the device.
        total: u64,
    },
    /// Memory was freed and is not free.
    #[error("{} freed, but something else still holds that memory", Were(*bytes))]
    MemoryNotBack {
        /// How many bytes.
        bytes: u64,
    },
    /// A model does not fit, and evicting all that may be evicted would not make it fit.
    #[error(
        "{name} needs {} and a slot; {} and {free_slots} slots are free, evicting idle models would give {} more, and {} are pinned or in use; {} evicted for it",
        Bytes(*asked), Bytes(*available), Bytes(*evictable), Bytes(*held),
        match evicted { 0 => "none was".to_owned(), 1 => "one was".to_owned(), count => format!("{count} were") }
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
        /// Models that were evicted for it before, whose room others took meanwhile.
        evicted: usize,
    },
    /// A load would wait for itself: through the loads of other models that wait for it, or at once.
    #[error(
        "loading {} would never end: each of these models is being loaded and waits for the next, and the last for the first; load what a model needs before it",
        models.join(", ")
    )]
    ModelWaitsForItself {
        /// The models, in the order in which they wait.
        models: Vec<String>,
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
    /// Two things of different devices, which only meet within one: a stream and a buffer, a kernel, a graph or an
    /// event.
    #[error("{what} is of device {device}, and what it was to meet is of device {expected}")]
    ForeignDevice {
        /// What is of the other device.
        what: &'static str,
        /// Its device's ordinal.
        device: u32,
        /// The ordinal that it should have.
        expected: u32,
    },
    /// A stream, an event or a kernel of one driver was to meet one of another.
    #[error("the event, the kernel or the stream is of another driver than what it was to meet")]
    ForeignDriver,
    /// The end of a stream's use of memory or a graph can neither be recorded nor waited for, so that is kept.
    #[error(
        "it cannot be known when a stream is done with this memory or this graph, so it is kept and not used again; the first error of the stream says why"
    )]
    EndUnknown,
    /// Source and destination of a copy differ in length.
    #[error("a copy of {source_len} bytes does not fit a buffer of {buffer_len}")]
    LengthMismatch {
        /// Bytes on the host.
        source_len: usize,
        /// Bytes of the buffer.
        buffer_len: usize,
    },
}

/// `NOT_READY` is an answer, not a failure.
pub(crate) fn not_ready_is_false(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::Driver {
            code: CUresult::CUDA_ERROR_NOT_READY,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl From<BrokenImage> for Error {
    fn from(image: BrokenImage) -> Self {
        match image {
            BrokenImage::Truncated { kind, len } => Self::InvalidArgument {
                name: "image",
                value: format!("a {kind} of {len} bytes"),
                reason: "its headers tell of more bytes than these: it is cut off or damaged",
            },
            BrokenImage::Nul { at } => Self::InvalidArgument {
                name: "ptx",
                value: format!("text with a NUL at {at}"),
                reason: "the driver takes C strings; a binary begins with the letters of ELF or the number \
                         0xba55ed50",
            },
        }
    }
}

/// Says how many of the SMs to be split are available for groups.
fn available_to_groups(asked: u32, available: u32, total: u32) -> String {
    if available == total && asked > available {
        return format!("{available} are available");
    }
    let none = if asked <= available {
        ", so one of them gets none"
    } else {
        ""
    };
    format!("{available} of {total} are available for groups of this kind{none}")
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
