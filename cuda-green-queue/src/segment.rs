//! The memory of a queue: one segment of pinned host memory, and device memory for what only kernels access.

use std::{
    mem::ManuallyDrop,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use cuda_green::{CudaDevice, GpuBuffer, GpuMemoryPool, PinnedBuffer, Stream};

use crate::{
    error::{Error, Result},
    layout::{DeviceQueue, Layout, MAGIC, RingState, SegmentHeader, VERSION},
    numa::{self, Placement},
    protocol::{
        Call, Consumer, FutureTable, Mapped, Places, Shared, answer, first_futures, first_state,
    },
};

/// The memory of one queue. All of it is allocated when the value is made.
pub(crate) struct Segment {
    layout: Layout,
    placement: Placement,
    /// By device addresses.
    queue: DeviceQueue,
    /// By offsets.
    local: DeviceQueue,
    table: FutureTable,
    shared: Mapped,
    /// Answers that were not written, since a kernel named a future that does not exist.
    invalid: AtomicU64,
    device: CudaDevice,
    /// What `shared` accesses. Fenced on every stream whose kernels use the queue.
    pinned: ManuallyDrop<PinnedBuffer<u64>>,
    /// The states of the rings, then the words of the futures. Freed after the fences of `pinned`.
    states: ManuallyDrop<GpuBuffer>,
}

impl Segment {
    /// Allocates the memory of a queue on a device, and writes its first contents.
    pub(crate) fn new(device: &CudaDevice, layout: Layout, bytes: u64) -> Result<Self> {
        let words = usize::try_from(bytes.div_ceil(8)).map_err(|_| Error::InvalidLayout {
            name: "segment_bytes",
            value: bytes,
            reason: "more than can be addressed".to_owned(),
        })?;
        let (pinned, placement) = numa::allocate_near(
            device,
            || PinnedBuffer::<u64>::new(device, words),
            |pinned| pinned.as_ptr().cast(),
        )?;
        let base = NonNull::new(pinned.as_ptr().cast_mut().cast()).ok_or(Error::InvalidLayout {
            name: "segment_bytes",
            value: bytes,
            reason: "the driver returned no memory".to_owned(),
        })?;
        // SAFETY: the buffer is aligned to its words, as long, and lives until the end of this value, which alone uses
        // `shared`, or hands it to threads that keep the value. Nothing calls the buffer's own accessors.
        let shared = unsafe { Mapped::new(base, words as u64 * 8) };

        let ring_bytes = DeviceQueue::ring_state_bytes(&layout);
        let mut contents =
            bytemuck::cast_slice(&vec![first_state(&layout); layout.rings() as usize]).to_vec();
        contents.extend_from_slice(bytemuck::cast_slice(&first_futures(&layout)));
        let pool = GpuMemoryPool::on(device, contents.len() as u64)?;
        let states = pool.allocate(contents.len())?;
        states.copy_from(&contents)?;

        let places = |segment, rings| Places {
            segment,
            rings,
            futures: rings + ring_bytes,
        };
        let queue = DeviceQueue::new(
            &layout,
            &places(pinned.device_address()?, states.address()),
            0,
        );
        let local = DeviceQueue::new(&layout, &places(0, 0), 0);
        shared.write(0, bytemuck::bytes_of(&header(&layout)));
        Ok(Self {
            layout,
            placement,
            queue,
            local,
            table: local.future_table(),
            shared,
            invalid: AtomicU64::new(0),
            device: device.clone(),
            pinned: ManuallyDrop::new(pinned),
            states: ManuallyDrop::new(states),
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

    /// Returns the queue as kernels take it.
    pub(crate) fn queue(&self) -> DeviceQueue {
        self.queue
    }

    /// Returns the memory that kernels and this process share.
    pub(crate) fn shared(&self) -> &Mapped {
        &self.shared
    }

    /// Returns the consumer of a ring, of which there is to be one.
    pub(crate) fn consumer(&self, lane: u32, priority: u32) -> Option<Consumer> {
        let ring = self.local.ring(lane, priority)?;
        Some(Consumer::new(ring, &self.shared))
    }

    /// Answers a call. The numbers may be whatever a kernel wrote.
    #[inline]
    pub(crate) fn answer(&self, call: Call, status: u8, output: &[u8]) {
        if !answer(&self.shared, &self.table, call, status, output) {
            self.invalid.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of answers to futures that do not exist.
    pub(crate) fn invalid_answers(&self) -> u64 {
        self.invalid.load(Ordering::Relaxed)
    }

    /// Copies the states of the rings from the device.
    pub(crate) fn ring_states(&self) -> Result<Vec<RingState>> {
        let mut states: Vec<RingState> =
            vec![bytemuck::Zeroable::zeroed(); self.layout.rings() as usize];
        self.states.copy_to(bytemuck::cast_slice_mut(&mut states))?;
        Ok(states)
    }

    /// Fences the memory on a stream.
    pub(crate) fn fence_on(&self, stream: &Stream) -> Result<()> {
        Ok(self.pinned.fence_on(stream)?)
    }

    /// Returns whether the work that the memory was fenced on is over.
    pub(crate) fn is_unused(&self) -> Result<bool> {
        Ok(self.pinned.is_done()?)
    }

    /// Waits for the work that the memory was fenced on.
    pub(crate) fn wait(&self) -> Result<()> {
        Ok(self.pinned.synchronize()?)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let waited = self.pinned.synchronize();
        // SAFETY: neither is used after this. The pinned memory waits for its own fences, or is kept where these
        // cannot be known.
        unsafe { ManuallyDrop::drop(&mut self.pinned) };
        match waited {
            // SAFETY: as above; whatever used the states was fenced on the pinned memory, and has ended.
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.states) },
            // A kernel may still use the states, so that nothing else may have this memory.
            Err(error) => log::error!("a queue's device memory is kept: {error}"),
        }
    }
}

fn header(layout: &Layout) -> SegmentHeader {
    SegmentHeader {
        magic: MAGIC,
        version: VERSION,
        lanes: layout.lanes,
        priorities: layout.priorities,
        depth: layout.depth,
        slot_bytes: layout.slot_bytes,
        answer_bytes: layout.answer_bytes,
        futures: layout.futures,
        reserved: 0,
        tails: layout.tails(),
        slots: layout.slots(),
        answers: layout.answers(),
        end: layout.end(),
    }
}
