//! The thread of one encoder: keeps two batches submitted, so that its GPU finds the next one in its queue.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    balancer::MultiGpuBalancer,
    call::Failure,
    queue::{Job, Queue},
};
use crate::{
    encoder::{Encoder, PendingEmbeddings},
    error::{Error, Result},
};

/// The batches that are submitted at a time.
const SUBMITTED: usize = 2;

/// An encoder and what it has done.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) encoder: Arc<dyn Encoder>,
    pub(super) queue: Arc<Queue>,
    pub(super) balancer: Arc<MultiGpuBalancer>,
    pub(super) record: Arc<Record>,
}

/// The work of an encoder so far.
#[derive(Default)]
pub(super) struct Record {
    pub(super) batches: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) retired: OnceLock<Arc<Error>>,
}

/// A job whose batch is on the GPU.
struct Running {
    job: Job,
    pending: PendingEmbeddings,
}

/// The way in which an encoder ends a batch other than with vectors.
enum Trouble {
    /// The batch is at fault; the encoder goes on.
    Batch(Error),
    /// The GPU is at fault.
    Gpu(Error),
    /// The encoder panicked.
    Panic(Box<dyn Any + Send>),
}

impl Worker {
    /// Works until the queue is closed and empty, or the encoder fails.
    pub(super) fn run(self) {
        let mut running = VecDeque::new();
        while let Some(job) = self.queue.next() {
            if !self.submit(job, &mut running) {
                return;
            }
            loop {
                while running.len() < SUBMITTED {
                    let Some(job) = self.queue.next_ahead() else {
                        break;
                    };
                    if !self.submit(job, &mut running) {
                        return;
                    }
                }
                let Some(oldest) = running.pop_front() else {
                    break;
                };
                if !self.finish(oldest, &mut running) {
                    return;
                }
            }
            self.queue.add_idle();
        }
    }

    /// Submits a job. Returns `false` if the encoder is retired.
    fn submit(&self, job: Job, running: &mut VecDeque<Running>) -> bool {
        // The GPU exists, here and below.
        let _ = self.balancer.record_submit(self.index, tokens(&job));
        match attempt(|| self.encoder.submit(&job.batch)) {
            Ok(pending) => {
                running.push_back(Running { job, pending });
                true
            }
            Err(trouble) => self.handle(job, trouble, running, false),
        }
    }

    /// Waits for the vectors of a job. Returns `false` if the encoder is retired.
    fn finish(&self, oldest: Running, running: &mut VecDeque<Running>) -> bool {
        let Running { job, pending } = oldest;
        match attempt(|| pending.wait()) {
            Ok(vectors) => {
                let tokens = tokens(&job);
                let _ = self.balancer.record_complete(self.index, tokens);
                self.record.batches.fetch_add(1, Ordering::Relaxed);
                self.record.tokens.fetch_add(tokens, Ordering::Relaxed);
                job.call.complete(job.index, vectors);
                true
            }
            Err(trouble) => self.handle(job, trouble, running, true),
        }
    }

    /// Ends a job that has no vectors, or gives it to the other GPUs with those that run. Returns `false` if the encoder
    /// is retired.
    fn handle(
        &self,
        job: Job,
        trouble: Trouble,
        running: &mut VecDeque<Running>,
        was_oldest: bool,
    ) -> bool {
        let _ = self.balancer.record_complete(self.index, tokens(&job));
        let (error, job) = match trouble {
            Trouble::Batch(error) => {
                job.call.fail(Failure::Error(job.index, error));
                return true;
            }
            Trouble::Gpu(error) => (error, Some(job)),
            Trouble::Panic(panic) => {
                job.call.fail(Failure::Panic(panic));
                (Error::EncoderPanicked, None)
            }
        };
        // Their vectors, if they come, are not read: the context may be lost, and others compute them again.
        let mut jobs: VecDeque<_> = running
            .drain(..)
            .map(|running| {
                let _ = self
                    .balancer
                    .record_complete(self.index, tokens(&running.job));
                running.job
            })
            .collect();
        match job {
            Some(job) if was_oldest => jobs.push_front(job),
            Some(job) => jobs.push_back(job),
            None => {}
        }
        log::warn!("encoder {} is retired: {error}", self.index);
        let error = Arc::new(error);
        let _ = self.record.retired.set(Arc::clone(&error));
        self.queue.retire(&error, jobs.into_iter());
        false
    }
}

fn tokens(job: &Job) -> u64 {
    job.batch.tokens() as u64
}

/// Calls the encoder.
fn attempt<T>(call: impl FnOnce() -> Result<T>) -> Result<T, Trouble> {
    // An encoder that panicked is not called again.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error @ (Error::Gpu(_) | Error::CublasLt { .. }))) => Err(Trouble::Gpu(error)),
        Ok(Err(error)) => Err(Trouble::Batch(error)),
        Err(panic) => Err(Trouble::Panic(panic)),
    }
}
