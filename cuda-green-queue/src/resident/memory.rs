//! The memory of an inbox, and the launches of the resident kernel that takes its tasks.

use std::{
    mem::{self, ManuallyDrop},
    ptr::NonNull,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cuda_green::{
    CudaDevice, Event, GpuBuffer, GpuMemoryPool, Kernel, KernelArg, LaunchConfig, PinnedBuffer,
    Stream,
};

use super::closing::Ends;
use crate::{
    error::{Error, Result},
    layout::{CLOSE, DeviceInbox, DeviceQueue, KERNEL_TO_KERNEL, LINE, Layout, RUN},
    numa::{self, Placement},
    protocol::{Mapped, Places, Shared, first_futures, first_state},
};

// SAFETY: it is plain data in the layout of C, as `cuda_green::Inbox` in the header is; a probe compares the two.
unsafe impl KernelArg for DeviceInbox {}

/// Whoever submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// CPU code: slots, tails and answers lie in pinned host memory.
    FromCpu,
    /// Kernels: they lie in device memory.
    FromKernels,
}

/// The threads that a block of a resident kernel needs: a warp.
const LEAST_THREADS: u64 = 32;

/// The launch that was made last.
pub(super) enum Launched {
    Never,
    /// A thread is making it.
    Now,
    /// The event is that of the kernel's end.
    Until(Arc<Event>),
    /// The driver refused to record the kernel's end: it is over when all work is that the memory was fenced on.
    Unknown,
}

/// A launch that a thread is making. Dropped, it is over.
struct Launching<'a> {
    inbox: &'a Inbox,
    /// What came of it: nothing yet, since the kernel before had ended.
    launched: Launched,
}

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        *self.inbox.launched() = mem::replace(&mut self.launched, Launched::Never);
        self.inbox.changed.notify_all();
    }
}

/// The memory of an inbox. All of it is allocated when the value is made.
pub(crate) struct Inbox {
    layout: Layout,
    placement: Placement,
    /// By device addresses.
    argument: DeviceInbox,
    /// As kernels that submit take it; only for [`Kind::FromKernels`].
    queue: DeviceQueue,
    /// The segment of [`Kind::FromCpu`], then the controls.
    pub(super) shared: Mapped,
    /// The offset of the first control.
    pub(super) controls: u64,
    /// The offset of the first position in [`Buffers::states`].
    pub(super) positions: u64,
    open: AtomicBool,
    launched: Mutex<Launched>,
    /// A launch is over.
    changed: Condvar,
    device: CudaDevice,
    /// What `shared` accesses. Fenced on every stream whose kernels use the inbox.
    pub(super) pinned: ManuallyDrop<PinnedBuffer<u64>>,
    /// The device memory. Freed after the fences of `pinned`.
    pub(super) buffers: ManuallyDrop<Buffers>,
}

/// The device memory of an inbox.
pub(super) struct Buffers {
    /// The producers' side of [`Kind::FromKernels`], namely the states of the rings and the words of the futures; then the
    /// positions; then the slots of [`Kind::FromKernels`].
    pub(super) states: GpuBuffer,
    /// The tails and answers of [`Kind::FromKernels`].
    pub(super) ends: Option<Ends>,
}

impl Inbox {
    /// Allocates the memory of an inbox on a device, and writes its first contents.
    pub(crate) fn new(device: &CudaDevice, layout: Layout, kind: Kind) -> Result<Self> {
        let in_host = kind == Kind::FromCpu;
        let controls = if in_host {
            layout.end().next_multiple_of(LINE)
        } else {
            0
        };
        let words = to_usize((controls + u64::from(layout.lanes) * LINE) / 8)?;
        let (pinned, placement) = numa::allocate_near(
            device,
            || PinnedBuffer::<u64>::new(device, words),
            |pinned| pinned.as_ptr().cast(),
        )?;
        let base = NonNull::new(pinned.as_ptr().cast_mut().cast())
            .ok_or_else(|| no_room(words as u64 * 8, "the driver returned no memory"))?;
        // SAFETY: the buffer is aligned to its words, as long, and lives until the end of this value, which alone uses
        // `shared`, or lends it to what keeps the value. Nothing calls the buffer's own accessors.
        let shared = unsafe { Mapped::new(base, words as u64 * 8) };

        // The states of the rings, the words of the futures, the positions, the slots: the last two begin as zeros.
        let mut first = Vec::new();
        if !in_host {
            let states = vec![first_state(&layout); layout.rings() as usize];
            first.extend_from_slice(bytemuck::cast_slice(&states));
            first.extend_from_slice(bytemuck::cast_slice(&first_futures(&layout)));
        }
        let positions = (first.len() as u64).next_multiple_of(LINE);
        let slots = positions + DeviceInbox::position_bytes(&layout);
        let slot_bytes = if in_host {
            0
        } else {
            layout.answers() - layout.slots()
        };
        let pool = GpuMemoryPool::on(device, u64::MAX)?;
        let states = zeros(&pool, slots + slot_bytes)?;
        if !first.is_empty() {
            states.copy_from(&first)?;
        }

        let (pinned_at, states_at) = (pinned.device_address()?, states.address());
        let places = Places {
            segment: pinned_at,
            rings: states_at,
            futures: states_at + DeviceQueue::ring_state_bytes(&layout),
        };
        let flags = if in_host { 0 } else { KERNEL_TO_KERNEL };
        let mut queue = DeviceQueue::new(&layout, &places, flags);
        let ends = if in_host {
            None
        } else {
            let ends = Ends {
                tails: zeros(&pool, layout.slots() - layout.tails())?,
                answers: zeros(&pool, layout.end() - layout.answers())?,
            };
            queue.slots = states_at + slots;
            queue.tails = ends.tails.address();
            queue.answers = ends.answers.address();
            Some(ends)
        };
        let (controls_at, positions_at) = (pinned_at + controls, states_at + positions);
        Ok(Self {
            layout,
            placement,
            argument: DeviceInbox::new(&queue, controls_at, positions_at),
            queue,
            shared,
            controls,
            positions,
            open: AtomicBool::new(true),
            launched: Mutex::new(Launched::Never),
            changed: Condvar::new(),
            device: device.clone(),
            pinned: ManuallyDrop::new(pinned),
            buffers: ManuallyDrop::new(Buffers { states, ends }),
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    pub(crate) fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Returns the inbox as the resident kernel takes it.
    pub(crate) fn argument(&self) -> DeviceInbox {
        self.argument
    }

    /// Returns the queue as kernels that submit take it.
    pub(crate) fn queue(&self) -> DeviceQueue {
        self.queue
    }

    /// Returns the memory that the resident kernel and this process share.
    pub(crate) fn shared(&self) -> &Mapped {
        &self.shared
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Launches the resident kernel.
    ///
    /// # Safety
    /// As [`Stream::launch`], but for the memory of the inbox.
    pub(crate) unsafe fn launch(
        &self,
        stream: &Stream,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[&dyn KernelArg],
    ) -> Result<()> {
        let (device, expected) = (stream.device().ordinal(), self.device.ordinal());
        if device != expected {
            let what = "the stream";
            return Err(cuda_green::Error::ForeignDevice {
                what,
                device,
                expected,
            }
            .into());
        }
        let of = |numbers: [u32; 3]| numbers.iter().map(|&number| u64::from(number)).product();
        let (blocks, threads): (u64, u64) = (of(config.grid), of(config.block));
        let lanes = self.layout.lanes;
        if blocks < lanes.into() || threads < LEAST_THREADS {
            return Err(Error::InvalidLaunch {
                lanes,
                blocks,
                threads,
            });
        }
        let end = Arc::new(Event::new(&self.device)?);
        let mut launching = self.begin_launch()?;
        // A stream that cannot be fenced, since it is in a capture, is refused before the launch.
        self.fence_on(stream)?;
        #[cfg(feature = "test-utils")]
        crate::simulated::warn_without_body(stream.device().driver(), kernel);
        // SAFETY: the caller makes the same promise, but for the memory, which the fence below keeps.
        unsafe { stream.launch(kernel, config, args) }?;
        launching.launched = Launched::Unknown;
        let recorded = stream.record(&end);
        if recorded.is_ok() {
            launching.launched = Launched::Until(end);
        }
        let fenced = self.fence_on(stream);
        // Some drivers start work only when they are asked something.
        let _ = stream.is_done();
        recorded?;
        fenced
    }

    /// Lets no other thread launch. The lock is not held meanwhile: where launches wait for the end of their kernels
    /// (`CUDA_LAUNCH_BLOCKING`), another thread has to be able to tell this one to leave.
    fn begin_launch(&self) -> Result<Launching<'_>> {
        let mut launched = self.launched();
        if !self.is_open() {
            return Err(Error::Closed);
        }
        // Two kernels would take the same tasks, and the first would no longer see that it was told to leave.
        match &*launched {
            Launched::Now => return Err(Error::Resident),
            Launched::Until(end) if !end.is_done()? => return Err(Error::Resident),
            Launched::Unknown if !self.pinned.is_done()? => return Err(Error::Resident),
            Launched::Until(_) | Launched::Unknown | Launched::Never => {}
        }
        *launched = Launched::Now;
        self.store_controls(RUN);
        Ok(Launching {
            inbox: self,
            launched: Launched::Never,
        })
    }

    pub(super) fn launched(&self) -> MutexGuard<'_, Launched> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all blocks of the resident kernel what to do.
    pub(crate) fn command(&self, command: u64) {
        // A launch that another thread begins would take it back halfway.
        let _launched = self.launched();
        self.store_controls(command);
    }

    fn store_controls(&self, command: u64) {
        for lane in 0..u64::from(self.layout.lanes) {
            self.shared
                .store_release(self.controls + lane * LINE, command);
        }
    }

    /// Waits for the end of the kernel that was launched last.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut launched = self.launched();
        let end = loop {
            match &*launched {
                Launched::Never => return Ok(()),
                Launched::Until(end) => break end.clone(),
                Launched::Unknown if self.pinned.is_done()? => return Ok(()),
                Launched::Unknown => return Err(Error::Resident),
                Launched::Now => {
                    let waited = self.changed.wait(launched);
                    launched = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(launched);
        Ok(end.synchronize()?)
    }

    /// Fences the memory on a stream.
    pub(crate) fn fence_on(&self, stream: &Stream) -> Result<()> {
        Ok(self.pinned.fence_on(stream)?)
    }

    /// Launches no more kernels, tells the resident one what to do, and waits for all work that the memory was fenced
    /// on. What waits in kernels for it to do a task that it has not begun is answered as closed.
    pub(crate) fn end(&self, command: u64) -> Result<()> {
        let launched = self.launched();
        self.open.store(false, Ordering::Release);
        self.store_controls(command);
        drop(launched);
        let closed = match &self.buffers.ends {
            Some(ends) => self.close_to_kernels(ends, command == CLOSE),
            None => Ok(()),
        };
        self.pinned.synchronize()?;
        closed
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let waited = self.pinned.synchronize();
        // SAFETY: neither is used after this. The pinned memory waits for its own fences, or is kept where these
        // cannot be known.
        unsafe { ManuallyDrop::drop(&mut self.pinned) };
        match waited {
            // SAFETY: as above; whatever used the buffers was fenced on the pinned memory, and has ended.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.buffers) },
            // A kernel may still use it, so that nothing else may have this memory.
            Err(error) => log::error!("an inbox's device memory is kept: {error}"),
        }
    }
}

/// Allocates device memory of zeros.
fn zeros(pool: &GpuMemoryPool, bytes: u64) -> Result<GpuBuffer> {
    let buffer = pool.allocate(to_usize(bytes)?)?;
    buffer.fill(0)?;
    Ok(buffer)
}

fn to_usize(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| no_room(bytes, "more than can be addressed"))
}

fn no_room(value: u64, reason: &str) -> Error {
    Error::InvalidLayout {
        name: "segment_bytes",
        value,
        reason: reason.to_owned(),
    }
}
