//! Fences: what must be done on the GPU before memory may be used anew.

use std::sync::{Mutex, PoisonError};

use crate::{CudaDevice, Event, Result, Stream};

/// A point in a stream's work after which that stream uses the memory no more.
pub(crate) struct Fence {
    stream: u64,
    event: Event,
}

impl Fence {
    pub(crate) fn is_of(&self, stream: &Stream) -> bool {
        self.stream == stream.serial()
    }

    pub(crate) fn is_done(&self) -> Result<bool> {
        self.event.is_done()
    }

    pub(crate) fn wait(&self) -> Result<()> {
        self.event.synchronize()
    }
}

/// The fences of one buffer: at most one for each stream that it was used in.
#[derive(Default)]
pub(crate) struct Fences(Mutex<Vec<Fence>>);

impl Fences {
    pub(crate) fn of(fences: Vec<Fence>) -> Self {
        Self(Mutex::new(fences))
    }

    /// Fences the work that is in the stream now, without making it wait for other streams' uses. Where that
    /// cannot be, the work is waited for: it is there already, and the memory may be freed next.
    pub(crate) fn note(&self, device: &CudaDevice, stream: &Stream) -> Result<()> {
        stream.outside_captures()?;
        let fenced = self.fence(device, stream, false, || Ok(()));
        fenced.or_else(|error| stream.synchronize().map_err(|_| error))
    }

    /// Lets the stream wait for the other streams' uses, runs something that puts work into it, and fences
    /// what it did. An error means that nothing was put into the stream, or that it has ended again.
    pub(crate) fn around(
        &self,
        device: &CudaDevice,
        stream: &Stream,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.fence(device, stream, true, work)
    }

    fn fence(
        &self,
        device: &CudaDevice,
        stream: &Stream,
        after_others: bool,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        stream.outside_captures()?;
        let mut fences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mine = None;
        for (index, fence) in fences.iter().enumerate() {
            if fence.is_of(stream) {
                mine = Some(index);
            } else if after_others {
                stream.wait(&fence.event)?;
            }
        }
        let index = match mine {
            Some(index) => index,
            None => {
                // Made before the work, so that a failure leaves nothing unfenced.
                fences.push(Fence {
                    stream: stream.serial(),
                    event: Event::new(device)?,
                });
                fences.len() - 1
            }
        };
        work()?;
        let recorded = stream.record(&fences[index].event);
        recorded.or_else(|error| stream.synchronize().map_err(|_| error))
    }

    /// Waits for all of them, and forgets them.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut fences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for fence in &*fences {
            fence.wait()?;
        }
        fences.clear();
        Ok(())
    }

    pub(crate) fn take(&mut self) -> Vec<Fence> {
        std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}
