//! A GPU in a few lines, in place of the crate's own types: it knows which work comes after which.
//!
//! A set of pieces of work is a number with a bit for each. What was submitted is under a lock of loom's, so
//! that loom tries every order of submissions; all else changes together with that.

use std::sync::{Mutex, MutexGuard};

use crate::{
    device::ContextPriority,
    error::{Error, Result},
    launch::{KernelArg, LaunchConfig},
    module::Kernel,
    partition::{ContextPolicy, DropLater, Follower, Followers},
    sync::{self, Arc},
};

/// The device of one run of a model, and all that was submitted to it.
#[derive(Clone)]
pub struct CudaDevice(Arc<sync::Mutex<Vec<Work>>>);

struct Work {
    context: u64,
    pieces: Vec<usize>,
    /// What has ended when this ends.
    after: u32,
}

#[derive(Clone)]
pub struct GreenContext {
    pub inner: Arc<Inner>,
}

pub struct Inner {
    device: CudaDevice,
    pieces: Vec<usize>,
    /// What all its later work waits for.
    barrier: Mutex<u32>,
    followers: Followers<GreenContext>,
}

impl Inner {
    /// Two contexts over the same pieces are different ones.
    fn number(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }
}

pub struct Stream {
    context: GreenContext,
    /// What its next work comes after.
    order: Mutex<u32>,
}

pub struct Event(Mutex<u32>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Default for CudaDevice {
    fn default() -> Self {
        Self(Arc::new(sync::Mutex::new(Vec::new())))
    }
}

impl CudaDevice {
    /// Makes loom try every order of what calls this: of counts alone it does not.
    fn order(&self) {
        drop(self.0.lock());
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.context.inner.device.order();
    }
}

impl GreenContext {
    pub fn over(device: &CudaDevice, pieces: &[usize]) -> Self {
        let inner = Inner {
            device: device.clone(),
            pieces: pieces.to_vec(),
            barrier: Mutex::new(0),
            followers: Followers::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub fn device(&self) -> &CudaDevice {
        &self.inner.device
    }

    pub fn pieces(&self) -> &[usize] {
        &self.inner.pieces
    }

    pub fn policy(&self) -> ContextPolicy {
        ContextPolicy::default()
    }

    pub fn green_contexts(&self) -> usize {
        1
    }

    pub fn create_stream_with_priority(&self, _: ContextPriority) -> Result<Stream> {
        self.inner.device.order();
        Ok(Stream {
            context: self.clone(),
            order: Mutex::new(0),
        })
    }

    pub fn mark_work(&self) -> Result<Vec<Arc<Event>>> {
        let all = self.inner.device.0.lock();
        let own = all
            .iter()
            .filter(|work| work.context == self.inner.number());
        let ended = own.fold(0, |ended, work| ended | work.after);
        Ok(vec![Arc::new(Event(Mutex::new(ended)))])
    }

    pub fn wait_for_marked(&self, marks: &[Arc<Event>]) -> Result<()> {
        let _submissions = self.inner.device.0.lock();
        for mark in marks {
            *lock(&self.inner.barrier) |= *lock(&mark.0);
        }
        Ok(())
    }

    pub(crate) fn follow(&self, follower: std::sync::Weak<dyn Follower<Self>>) {
        self.inner.followers.add(follower);
    }

    pub(crate) fn release_followers(&self, later: &mut DropLater) -> Result<bool> {
        self.inner.followers.release_all(self, later)
    }

    pub fn holders(&self) -> usize {
        self.inner.device.order();
        Arc::strong_count(&self.inner)
    }

    pub fn use_count(&self) -> usize {
        0
    }

    pub fn is_current(&self) -> Result<bool> {
        Ok(false)
    }

    pub fn close(self) -> Result<()> {
        match Arc::try_unwrap(self.inner) {
            Ok(_) => Ok(()),
            Err(inner) => {
                let (id, holders) = (String::new(), Arc::strong_count(&inner));
                Err(Error::ContextInUse { id, holders })
            }
        }
    }
}

impl Stream {
    pub fn context(&self) -> &GreenContext {
        &self.context
    }

    pub fn device(&self) -> &CudaDevice {
        self.context.device()
    }

    /// Launches something, after all work in other contexts that has an SM in common.
    pub fn submit(&self) -> Result<()> {
        let context = &self.context.inner;
        let mut all = context.device.0.lock();
        let mut order = lock(&self.order);
        let ended = *order | *lock(&context.barrier);
        for (index, work) in all.iter().enumerate() {
            let shares = work
                .pieces
                .iter()
                .any(|piece| context.pieces.contains(piece));
            assert!(
                !shares || work.context == context.number() || ended & 1 << index != 0,
                "work {index} still runs on {:?}, and the launch is on {:?}",
                work.pieces,
                context.pieces
            );
        }
        *order = ended | 1 << all.len();
        all.push(Work {
            context: context.number(),
            pieces: context.pieces.clone(),
            after: *order,
        });
        Ok(())
    }

    /// # Safety
    /// As the crate's own.
    pub unsafe fn launch(&self, _: &Kernel, _: &LaunchConfig, _: &[&dyn KernelArg]) -> Result<()> {
        self.submit()
    }

    pub fn record(&self, event: &Event) -> Result<()> {
        *lock(&event.0) = *lock(&self.order);
        Ok(())
    }

    pub fn wait(&self, event: &Event) -> Result<()> {
        *lock(&self.order) |= *lock(&event.0);
        Ok(())
    }
}

impl Event {
    pub fn new(_: &CudaDevice) -> Result<Self> {
        Ok(Self(Mutex::new(0)))
    }

    pub fn synchronize_beside_captures(&self) -> Result<()> {
        Ok(())
    }
}
