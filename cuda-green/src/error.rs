//! The error type of the crate.

use std::fmt;

use cuda_green_sys::{CUresult, CudaVersion, MissingEntryPoint};

use crate::{
    image::{BrokenImage, ImageKind},
    launch::LaunchConfig,
    sharing_error::SharingError,
    size::{Bytes, BytesFree, BytesLeft, BytesWere},
};

/// The result type of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a call failed: what was requested, what is available, and what would help.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No driver could be loaded.
    #[error(transparent)]
    Load(#[from] cuda_green_sys::Error),
    /// The driver lacks an entry point.
    #[error(transparent)]
    MissingEntryPoint(#[from] MissingEntryPoint),
    /// The simulated driver could not be created.
    #[cfg(feature = "test-utils")]
    #[error(transparent)]
    Simulator(#[from] cuda_green_sim::Error),
    /// The driver sees no GPU.
    #[error(
        "the driver ({source_name}, CUDA {driver}) sees no GPU; check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the container has access to the device"
    )]
    NoGpu {
        /// The origin of the driver: see [`Driver::source`](crate::Driver::source).
        source_name: String,
        /// The CUDA version it speaks.
        driver: CudaVersion,
    },
    /// There is no device with that ordinal.
    #[error("there is no device {asked}: the driver sees {count}, numbered from 0")]
    NoSuchDevice {
        /// The ordinal that was asked for.
        asked: u32,
        /// The number of devices.
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
        /// The kind of the image.
        image: ImageKind,
        /// The driver's code.
        code: CUresult,
        /// The log of the driver's compiler, errors first; empty if it wrote none.
        log: String,
    },
    /// A module has no kernel of this name.
    #[error("the module has no kernel {name}{}", other_kernels(kernels.as_deref()))]
    NoSuchKernel {
        /// The name that was asked for.
        name: String,
        /// The names of the module's kernels, if the driver can list them (CUDA 12.4).
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
        /// The configuration of the launch.
        config: Box<LaunchConfig>,
        /// The C function that refused.
        call: &'static str,
        /// The driver's code.
        code: CUresult,
        /// The limit that the launch exceeds, if it is known.
        limit: Option<String>,
    },
    /// A thread that completions need cannot run.
    #[error("the thread that reports the end of GPU work cannot run: {reason}")]
    NoThread {
        /// The reason.
        reason: String,
    },
    /// A capture failed, so there is no graph.
    #[error("the capture failed at {call}: {code}: {reason}")]
    CaptureFailed {
        /// The C function that reported the failure.
        call: &'static str,
        /// The driver's code.
        code: CUresult,
        /// The meaning of the code.
        reason: &'static str,
    },
    /// An earlier fault made the GPU unusable in this process; only a restart of the process helps.
    #[error(
        "the GPU cannot be used any more in this process since {call} failed: {code}; restart the process"
    )]
    Poisoned {
        /// The first call that failed with a fault that does not go away.
        call: &'static str,
        /// The driver's code for that call.
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
    /// The call needs a newer driver.
    #[error("{what} needs a driver of CUDA {needs} or later; this one speaks CUDA {driver}")]
    Unsupported {
        /// The requested feature.
        what: &'static str,
        /// The first version that has it.
        needs: CudaVersion,
        /// The driver's version.
        driver: CudaVersion,
    },
    /// The call needs a partition, but the context is the whole GPU (single-context mode).
    #[error("{what} needs a partition, but this context is the whole GPU; {instead}")]
    NotPartitioned {
        /// The requested feature.
        what: &'static str,
        /// The way to do the same here.
        instead: &'static str,
    },
    /// An argument or a field has a value that is not allowed.
    #[error("{name} = {value}: {reason}")]
    InvalidArgument {
        /// The argument or field.
        name: &'static str,
        /// The value.
        value: String,
        /// The reason why the value is not allowed.
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
    /// The driver split into other sizes than it had announced.
    #[error("the driver split {total} SMs into {given}, after announcing {announced}")]
    UnannouncedSizes {
        /// The sizes that the driver announced, in order.
        announced: String,
        /// The sizes that it gave.
        given: String,
        /// SMs that were to be split.
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
    /// The resources cannot be in one context.
    #[error("these resources cannot be in one context: {reason}")]
    IncompatibleResources {
        /// The reason.
        reason: &'static str,
    },
    /// A stream of the context is in a capture, which recording all work of the context would invalidate.
    #[error(
        "a stream of the context is in a capture, which would be lost if the whole context were recorded or made to wait; end the capture first, or rebalance with a relaxed hand-off"
    )]
    ContextInCapture,
    /// Foreign code made the context current to this thread, so it was not closed. Keep the handle that comes with
    /// this error ([`CloseError::into_parts`](crate::CloseError::into_parts)): when the last handle is dropped, by
    /// `?` too, the context is destroyed, and the thread then has no current context.
    #[error(
        "the context is current to this thread, so it was not closed; make another context current first (if its last handle is dropped before that, it is destroyed, and the thread has no current context)"
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
    /// A context with this id exists already.
    #[error("context {id} exists already; destroy it first, or use another id")]
    ContextExists {
        /// The id.
        id: String,
    },
    /// There is no context with this id.
    #[error("there is no context {id}")]
    NoSuchContext {
        /// The id.
        id: String,
    },
    /// The context is still in use, so it was not changed.
    #[error(
        "context {id} is in use (handles, streams and guards that hold it: {holders}); drop them first"
    )]
    ContextInUse {
        /// The id, or a description of a context without one.
        id: String,
        /// The number of holders besides the handle that was to be closed.
        holders: usize,
    },
    /// The manager has contexts already, so the device cannot be partitioned from scratch.
    #[error("the device is partitioned already ({contexts} contexts); destroy them first")]
    AlreadyPartitioned {
        /// The number of contexts.
        contexts: usize,
    },
    /// Another manager has split the device, or an object of an earlier split still holds its SMs. A further split
    /// would overlap with that one.
    #[error(
        "device {device} is partitioned by another SmPartitionManager of this process, or objects of an earlier partitioning (contexts, streams, SM resources, forgotten guards) still hold its SMs; share one manager, since the SMs of two splits overlap"
    )]
    PartitionedElsewhere {
        /// The device's ordinal.
        device: u32,
    },
    /// The device is shared with other processes by a plan, and that stands in the way.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The change would exceed the manager's limit of green contexts.
    #[error(
        "{missing} more green contexts are needed, but {kept} are in use and the limit is {limit}; raise it, or drop handles, streams and guards of earlier layouts"
    )]
    TooManyContexts {
        /// The limit.
        limit: usize,
        /// The number of existing contexts that cannot be destroyed.
        kept: usize,
        /// The number of further contexts that are needed.
        missing: usize,
    },
    /// Some streams are in no partition of the manager.
    #[error(
        "outside all partitions: {}; create these streams in a context of the manager, or make one current first",
        streams.join(", ")
    )]
    OutsidePartitions {
        /// The names of the streams, each with its location.
        streams: Vec<String>,
    },
    /// The call waits for rebalances and was made inside [`PartitionStream::with`](crate::PartitionStream::with), for
    /// which rebalances wait.
    #[error(
        "rebalances wait for PartitionStream::with to return, so a call that waits for a rebalance cannot be made inside it; make it before or after, and order the streams of names by an Event"
    )]
    InsidePartitionStream,
    /// A guard is active on this thread and determines the current context until it is dropped.
    #[error("a context guard is active on this thread; drop it first, or use `activate`")]
    GuardActive,
    /// A guard was closed while a later guard of its thread exists.
    #[error(
        "a context guard that this thread entered later is still active, or was forgotten, so its context is current: close guards in reverse order, and hold none across an `await` (`with_current` takes a closure)"
    )]
    GuardNotOnTop,
    /// Foreign code left a context current other than the one that the guard had made current.
    #[error(
        "foreign code changed this thread's current context inside a guard; the context that was current before the guard is current again"
    )]
    ForeignContext,
    /// The request would exceed a limit: the pool's own, or a limit above it.
    #[error(
        "{} requested, but only {}; free buffers, or {}",
        BytesWere(*asked), BytesLeft { available: *available, limit: *limit }, if *limit == u64::MAX { "ask for less" } else { "raise the limit" }
    )]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were left under the limit.
        available: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The limits allow the request, but the device does not have that much free memory in one block.
    #[error(
        "{} requested, which the limits allow, but {}; other pools, contexts and processes use the rest",
        BytesWere(*asked), BytesFree { free: *free, total: *total }
    )]
    DeviceOutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were free on the device, if the driver reported them.
        free: Option<u64>,
        /// Size of the device's memory in bytes.
        total: u64,
    },
    /// Memory was freed, but is still in use.
    #[error("{} freed, but something else still holds that memory", BytesWere(*bytes))]
    MemoryNotBack {
        /// The number of bytes.
        bytes: u64,
    },
    /// A model does not fit, even if all models that may be evicted were evicted.
    #[error(
        "{name} needs {} and a slot; {} and {free_slots} slots are free, evicting idle models would give {} more, and {} are pinned or in use; {} evicted for it",
        Bytes(*asked), Bytes(*available), Bytes(*evictable), Bytes(*held),
        match evicted { 0 => "none was".to_owned(), 1 => "one was".to_owned(), count => format!("{count} were") }
    )]
    NoRoomForModel {
        /// The model.
        name: String,
        /// Bytes that the model needs.
        asked: u64,
        /// Bytes that are free.
        available: u64,
        /// Slots that are free.
        free_slots: usize,
        /// Bytes of models that may be evicted.
        evictable: u64,
        /// Bytes of models that may not be evicted.
        held: u64,
        /// Models that were evicted for it before, and whose memory others took meanwhile.
        evicted: usize,
    },
    /// A load would wait for itself, directly or through the loads of other models.
    #[error(
        "loading {} would never end: each of these models is being loaded and waits for the next, and the last for the first; load the models that a model needs before it",
        models.join(", ")
    )]
    ModelWaitsForItself {
        /// The models, in the order in which they wait.
        models: Vec<String>,
    },
    /// No model with this name is loaded.
    #[error("no model {name} is loaded")]
    NoSuchModel {
        /// The name.
        name: String,
    },
    /// The model is pinned, loading or in use, so it was not evicted.
    #[error("model {name} is pinned, loading or in use ({holders} hold it)")]
    ModelInUse {
        /// The name.
        name: String,
        /// Pins and leases.
        holders: usize,
    },
    /// A buffer was returned to a pool other than the one it was allocated from.
    #[error("the buffer belongs to another pool")]
    ForeignBuffer,
    /// Two objects that can be used together only on one device are of different devices: a stream and a buffer, a
    /// kernel, a graph or an event.
    #[error("{what} belongs to device {device}, but was used with an object of device {expected}")]
    ForeignDevice {
        /// The object of the other device.
        what: &'static str,
        /// The ordinal of that device.
        device: u32,
        /// The ordinal of the device that it should belong to.
        expected: u32,
    },
    /// A stream, an event or a kernel was used with an object of another driver.
    #[error(
        "the event, the kernel or the stream belongs to another driver than the object it was used with"
    )]
    ForeignDriver,
    /// The end of a stream's use of memory or of a graph can be neither recorded nor waited for, so the memory or
    /// graph is not freed.
    #[error(
        "it is unknown when a stream will be done with this memory or this graph, so it is neither freed nor used again; the first error of the stream says why"
    )]
    EndUnknown,
    /// Source and destination of a copy differ in length.
    #[error("a copy of {source_len} bytes does not match a buffer of {buffer_len} bytes")]
    LengthMismatch {
        /// Bytes on the host.
        source_len: usize,
        /// Bytes of the buffer.
        buffer_len: usize,
    },
}

impl Error {
    /// Returns the driver's code, if the driver or its absence is the reason.
    ///
    /// ```
    /// use cuda_green::{CUresult, Driver};
    ///
    /// # fn main() -> cuda_green::Result<()> {
    /// let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    /// let newer = cuda_green::sys::CUdevice_attribute(10_000);
    /// let error = device.attribute(newer).unwrap_err();
    /// assert_eq!(error.code(), Some(CUresult::CUDA_ERROR_INVALID_VALUE));
    /// # Ok(())
    /// # }
    /// ```
    pub fn code(&self) -> Option<CUresult> {
        match self {
            Self::Driver { code, .. }
            | Self::Poisoned { code, .. }
            | Self::ImageRefused { code, .. }
            | Self::LaunchRefused { code, .. }
            | Self::CaptureFailed { code, .. }
            | Self::SplitRefused { code, .. } => Some(*code),
            Self::NoGpu { .. } => Some(CUresult::CUDA_ERROR_NO_DEVICE),
            Self::Forked { .. } => Some(CUresult::CUDA_ERROR_NOT_INITIALIZED),
            _ => None,
        }
    }

    /// Returns whether the driver refused this particular call with this code. After a fault that makes the driver
    /// unusable, codes no longer concern a particular call.
    pub(crate) fn is_refusal(&self, code: CUresult) -> bool {
        matches!(self, Self::Driver { code: own, .. } if *own == code)
    }
}

/// Formats like `Display`, so that `unwrap` prints the message.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Turns the code `NOT_READY`, which is an answer and no failure, into `false`.
pub(crate) fn not_ready_is_false(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_refusal(CUresult::CUDA_ERROR_NOT_READY) => Ok(false),
        Err(error) => Err(error),
    }
}

impl From<BrokenImage> for Error {
    fn from(image: BrokenImage) -> Self {
        match image {
            BrokenImage::Truncated { kind, len } => Self::InvalidArgument {
                name: "image",
                value: format!("a {kind} of {len} bytes"),
                reason: "its headers describe more bytes than that: it is truncated or damaged",
            },
            BrokenImage::Nul { at } => Self::InvalidArgument {
                name: "ptx",
                value: format!("text with a NUL at {at}"),
                reason: "the driver takes C strings; a binary would begin with the ELF magic or the number \
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

/// Lists the kernels that a module has, as the end of a message about a missing kernel.
fn other_kernels(kernels: Option<&[String]>) -> String {
    /// Number of kernels that are named; further ones are only counted.
    const NAMED: usize = 10;
    let Some(kernels) = kernels else {
        return String::new();
    };
    if kernels.is_empty() {
        return "; it has none".to_owned();
    }
    let named = kernels[..kernels.len().min(NAMED)].join(", ");
    match kernels.len().saturating_sub(NAMED) {
        0 => format!("; it has {named}"),
        more => format!("; it has {named} and {more} more"),
    }
}
