//! The builder of queues whose tasks a resident kernel takes.

use std::marker::PhantomData;

use cuda_green::CudaDevice;

use super::ResidentQueue;
use crate::{
    error::Result,
    kernel_queue::KernelQueue,
    layout::{Layout, LayoutRequest},
};

/// The numbers of a [`ResidentQueue`] or a [`KernelQueue`]. What cannot be is an error of `build`.
#[derive(Clone, Debug)]
#[must_use]
pub struct InboxBuilder<Q> {
    request: LayoutRequest,
    queue: PhantomData<fn() -> Q>,
}

impl<Q> InboxBuilder<Q> {
    pub(crate) fn new(payload_bytes: u32) -> Self {
        Self {
            request: LayoutRequest {
                lanes: 1,
                priorities: 1,
                depth: 256,
                payload_bytes,
                futures: 4096,
                ..LayoutRequest::default()
            },
            queue: PhantomData,
        }
    }

    /// Sets the number of lanes, 1 by default: one for each block of the resident kernel.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.request.lanes = lanes;
        self
    }

    /// Sets the number of priorities, 1 by default. Each lane has a ring for each.
    pub fn priorities(mut self, priorities: u32) -> Self {
        self.request.priorities = priorities;
        self
    }

    /// Sets the number of slots of each ring, 256 by default; rounded up to a power of two.
    pub fn depth(mut self, depth: u32) -> Self {
        self.request.depth = depth;
        self
    }

    /// Sets the length of the longest task in bytes: 52 by default for a [`ResidentQueue`], 112 for a [`KernelQueue`].
    ///
    /// Tasks from the CPU of up to 116 bytes are read in one trip over the bus, if there is one priority.
    pub fn payload_bytes(mut self, bytes: u32) -> Self {
        self.request.payload_bytes = bytes;
        self
    }

    /// Sets the length of the longest output in bytes, 56 by default.
    pub fn output_bytes(mut self, bytes: u32) -> Self {
        self.request.output_bytes = bytes;
        self
    }

    /// Sets the number of answers that can be waited for at once, 4,096 by default; rounded up to a power of two.
    pub fn futures(mut self, futures: u32) -> Self {
        self.request.futures = futures;
        self
    }

    /// Sets the most memory that the slots and answers may take, 64 MiB by default.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.request.segment_bytes = bytes;
        self
    }
}

impl InboxBuilder<ResidentQueue> {
    /// Makes a queue on a device. All its memory is allocated here.
    ///
    /// # Errors
    /// [`Error::InvalidLayout`](crate::Error::InvalidLayout) and
    /// [`Error::SegmentTooSmall`](crate::Error::SegmentTooSmall) for numbers that cannot be;
    /// [`Error::CudaGreen`](crate::Error::CudaGreen) without memory.
    pub fn build(self, device: &CudaDevice) -> Result<ResidentQueue> {
        ResidentQueue::new(device, Layout::for_inbox(&self.request)?)
    }
}

impl InboxBuilder<KernelQueue> {
    /// Makes a queue on a device. All its memory is allocated here.
    ///
    /// # Errors
    /// [`Error::InvalidLayout`](crate::Error::InvalidLayout) and
    /// [`Error::SegmentTooSmall`](crate::Error::SegmentTooSmall) for numbers that cannot be;
    /// [`Error::CudaGreen`](crate::Error::CudaGreen) without memory.
    pub fn build(self, device: &CudaDevice) -> Result<KernelQueue> {
        KernelQueue::new(device, Layout::new(&self.request)?)
    }
}
