//! The same by the queue.

use std::sync::atomic::AtomicBool;

use cuda_green::{CudaDevice, Stream};

use super::{Once, figures::Shape};

/// Slots of a ring, and the longest payload.
pub const DEPTH: u32 = 1_024;
pub const PAYLOAD: u32 = 112;

pub struct Own {
    device: CudaDevice,
    stream: Stream,
}

pub struct Queue;

impl Own {
    pub fn new(device: &CudaDevice, stream: Stream) -> anyhow::Result<Self> {
        Ok(Self {
            device: device.clone(),
            stream,
        })
    }

    pub fn run(&self, shape: &Shape, each: u64) -> anyhow::Result<Once> {
        let _ = (&self.device, &self.stream, shape, each);
        anyhow::bail!("not yet")
    }

    pub fn inline_queue(&self) -> anyhow::Result<Queue> {
        anyhow::bail!("not yet")
    }

    pub fn one_trip(&self, _queue: &Queue) -> anyhow::Result<u64> {
        anyhow::bail!("not yet")
    }

    pub fn paced(&self, _per_s: f64, _stop: &AtomicBool) -> anyhow::Result<f64> {
        anyhow::bail!("not yet")
    }
}
