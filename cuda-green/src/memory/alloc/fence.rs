//! Fences: points in streams that must be reached before memory may be reused.

use std::sync::Arc;

use crate::{
    device::CudaDevice,
    error::{Error, Result},
    event::Event,
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

/// A point in a stream's work after which that stream no longer uses the memory.
pub(crate) struct Fence {
    /// The stream's serial number; `None` for a private stream that no other buffer meets.
    stream: Option<u64>,
    /// Shared with threads that wait for it, which must not hold the lock meanwhile. `None` if the point cannot be
    /// known: the memory is never reused.
    event: Option<Arc<Event>>,
    /// The number of times it was recorded.
    recorded: u64,
}

impl Fence {
    /// Returns whether it is a point of this stream.
    pub(crate) fn is_of(&self, stream: &Stream) -> bool {
        self.stream == Some(stream.serial())
    }

    /// Returns whether the stream has reached it. Called beside captures.
    pub(crate) fn is_done(&self) -> Result<bool> {
        self.event
            .as_ref()
            .map_or(Ok(false), |event| event.is_done())
    }

    /// Waits until the stream has reached it. Called beside captures.
    pub(crate) fn wait(&self) -> Result<()> {
        wait_for(self.event.as_deref())
    }
}

fn wait_for(event: Option<&Event>) -> Result<()> {
    match event {
        Some(event) => event.synchronize(),
        None => Err(Error::EndUnknown),
    }
}

/// The fences of one buffer: at most one for each stream that used it.
#[derive(Default)]
pub(crate) struct Fences(Mutex<Vec<Fence>>);

impl Fences {
    pub(crate) fn new(fences: Vec<Fence>) -> Self {
        Self(Mutex::new(fences))
    }

    /// Fences the work that is in the stream now, without making it wait for other streams' uses. If that fails, waits
    /// for the work instead: it is in the stream already, and the memory may be freed next.
    pub(crate) fn note(&self, stream: &Stream) -> Result<()> {
        let fenced = match stream.is_captured() {
            Ok(true) => return stream.outside_captures(),
            Ok(false) => self.fence(stream, false, || Ok(())),
            Err(error) => Err(error),
        };
        fenced.or_else(|error| {
            stream.synchronize_beside_captures().map_err(|_| {
                self.add(None);
                error
            })
        })
    }

    /// Makes the stream wait for the other streams' uses, runs `work`, which puts work into the stream, and fences
    /// that. After an error, either nothing was put into the stream, or the work is fenced or has ended, or the memory
    /// is never reused.
    pub(crate) fn around(&self, stream: &Stream, work: impl FnOnce() -> Result<()>) -> Result<()> {
        stream.outside_captures()?;
        self.fence(stream, true, work)
    }

    fn fence(
        &self,
        stream: &Stream,
        after_others: bool,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut fences = self.lock();
        let mut mine = None;
        for (index, fence) in fences.iter().enumerate() {
            if fence.is_of(stream) {
                mine = Some(index);
            } else if after_others {
                match &fence.event {
                    Some(event) => stream.wait(event)?,
                    None => return Err(Error::EndUnknown),
                }
            }
        }
        let index = match mine {
            Some(index) => index,
            None => {
                // Created before the work, so that a failure leaves nothing unfenced.
                fences.push(Fence {
                    stream: Some(stream.serial()),
                    event: Some(Arc::new(Event::new(stream.device())?)),
                    recorded: 0,
                });
                fences.len() - 1
            }
        };
        let worked = work();
        // Recorded after an error, too: a copy is fenced on both of its buffers, and only one of the two may have
        // failed.
        let fence = &mut fences[index];
        let recorded = match &fence.event {
            Some(event) => stream.record(event),
            None => Err(Error::EndUnknown),
        };
        fence.recorded += 1;
        let fenced = recorded.or_else(|error| {
            if stream.synchronize_beside_captures().is_err() {
                // The point is neither known nor waited for: the memory is never reused.
                fence.event = None;
                return Err(error);
            }
            Ok(())
        });
        worked.and(fenced)
    }

    /// Adds the end of work in a private stream: an event, or `None` if the end cannot be known.
    pub(crate) fn add(&self, event: Option<Event>) {
        self.lock().push(Fence {
            stream: None,
            event: event.map(Arc::new),
            recorded: 0,
        });
    }

    /// Returns whether all fences are reached. None is if the end of some work cannot be known.
    pub(crate) fn are_done(&self, device: &CudaDevice) -> Result<bool> {
        // Without the lock while the driver is asked: whoever fences does not wait for that.
        let events: Vec<Option<Arc<Event>>> = self
            .lock()
            .iter()
            .map(|fence| fence.event.clone())
            .collect();
        if events.is_empty() {
            return Ok(true);
        }
        let _allowed = device.driver().beside_captures();
        for event in &events {
            if !event.as_ref().map_or(Ok(false), |event| event.is_done())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for all fences, and removes those that were not recorded again meanwhile: other threads may fence the
    /// buffer while this one waits.
    pub(crate) fn wait(&self, device: &CudaDevice) -> Result<()> {
        let waited: Vec<(Option<Arc<Event>>, u64)> = self
            .lock()
            .iter()
            .map(|fence| (fence.event.clone(), fence.recorded))
            .collect();
        if waited.is_empty() {
            return Ok(());
        }
        {
            let _allowed = device.driver().beside_captures();
            for (event, _) in &waited {
                wait_for(event.as_deref())?;
            }
        }
        self.lock().retain(|fence| {
            let is_it = |(event, recorded): &(Option<Arc<Event>>, u64)| match (event, &fence.event)
            {
                (Some(waited), Some(event)) => {
                    Arc::ptr_eq(waited, event) && *recorded == fence.recorded
                }
                _ => false,
            };
            !waited.iter().any(is_it)
        });
        Ok(())
    }

    /// Takes out all fences.
    pub(crate) fn take(&mut self) -> Vec<Fence> {
        // Exclusive access needs no lock, and this is in the fast path of a free.
        std::mem::take(self.0.get_mut())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fence>> {
        self.0.lock()
    }
}
