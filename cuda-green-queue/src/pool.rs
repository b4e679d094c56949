//! The pool of a queue or a set of queues: handlers, the tasks that wait for a worker, and the state of the whole.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;

use crate::{
    counters::ThreadCounters,
    error::Result,
    host_rings::{HostRings, HostTaken},
    jobs::{CopiedJob, PointerJob, Reply},
    registry::Registry,
    sleepers::Sleepers,
};

/// Tasks are taken and run.
const OPEN: u8 = 0;
/// No task is taken; those that were are run.
const CLOSED: u8 = 1;
/// Those that were are answered as closed.
const DISCARDING: u8 = 2;
/// The workers have ended.
const ENDED: u8 = 3;

/// A task that a worker took.
pub(crate) enum Work {
    Pointer(PointerJob),
    Copied(Box<CopiedJob>),
    /// Its payload is in the worker's own buffer.
    Host(HostTaken),
}

/// The tasks of one priority.
struct Class {
    pointers: ArrayQueue<PointerJob>,
    /// Has room for every job that exists.
    copied: ArrayQueue<Box<CopiedJob>>,
}

/// The numbers of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolNumbers {
    pub(crate) priorities: u32,
    /// Tasks of kernels that can wait for a worker.
    pub(crate) job_capacity: u32,
    /// Tasks of CPU code, for each priority and each of the two ways, that can wait for a worker.
    pub(crate) cpu_depth: u32,
}

/// What the workers, the polling threads and those who submit share.
pub(crate) struct Pool {
    /// Unique in this process.
    id: u64,
    registry: Registry,
    numbers: PoolNumbers,
    classes: Box<[Class]>,
    free: ArrayQueue<Box<CopiedJob>>,
    host: HostRings,
    state: CachePadded<AtomicU8>,
    /// Polling threads that may still hand over jobs.
    pollers: AtomicUsize,
    sleepers: CachePadded<Sleepers>,
    submitted: CachePadded<AtomicU64>,
    refused: AtomicU64,
    counters: Mutex<Vec<Arc<ThreadCounters>>>,
}

impl Pool {
    pub(crate) fn new(registry: Registry, numbers: PoolNumbers) -> Result<Self> {
        let (payload, _) = registry.largest();
        let jobs = numbers.job_capacity.max(1) as usize;
        let free = ArrayQueue::new(jobs);
        for _ in 0..jobs {
            // There is room for each.
            let _ = free.push(Box::new(CopiedJob::with_room(payload)));
        }
        let host = HostRings::new(numbers.priorities, numbers.cpu_depth, payload)?;
        let classes = (0..numbers.priorities).map(|_| Class {
            pointers: ArrayQueue::new(numbers.cpu_depth.max(1) as usize),
            copied: ArrayQueue::new(jobs),
        });
        static POOLS: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            id: POOLS.fetch_add(1, Ordering::Relaxed),
            registry,
            numbers,
            classes: classes.collect(),
            free,
            host,
            state: CachePadded::new(AtomicU8::new(OPEN)),
            pollers: AtomicUsize::new(0),
            sleepers: CachePadded::new(Sleepers::default()),
            submitted: CachePadded::new(AtomicU64::new(0)),
            refused: AtomicU64::new(0),
            counters: Mutex::new(Vec::new()),
        })
    }

    /// Returns a number that no other pool of this process has.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn priorities(&self) -> u32 {
        self.numbers.priorities
    }

    pub(crate) fn host(&self) -> &HostRings {
        &self.host
    }

    /// Returns new counters for a thread.
    pub(crate) fn add_counters(&self) -> Arc<ThreadCounters> {
        let counters = Arc::new(ThreadCounters::new(self.registry.methods().len()));
        self.lock_counters().push(counters.clone());
        counters
    }

    /// Returns the counters of all threads.
    pub(crate) fn all_counters(&self) -> Vec<Arc<ThreadCounters>> {
        self.lock_counters().clone()
    }

    fn lock_counters(&self) -> std::sync::MutexGuard<'_, Vec<Arc<ThreadCounters>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether tasks are taken.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) == OPEN
    }

    /// Returns whether tasks are answered as closed instead of run.
    #[inline]
    pub(crate) fn is_discarding(&self) -> bool {
        self.state.load(Ordering::Relaxed) >= DISCARDING
    }

    /// Takes no more tasks. Those that were taken are run.
    pub(crate) fn close(&self) {
        self.advance(CLOSED);
    }

    /// Takes no more tasks, and answers those that wait as closed.
    pub(crate) fn discard(&self) {
        self.advance(DISCARDING);
    }

    fn advance(&self, state: u8) {
        let before = self.state.fetch_max(state, Ordering::SeqCst);
        if before == OPEN {
            self.host.close();
        }
        if before < state {
            self.sleepers.wake_all();
        }
    }

    /// Notes that the workers have ended, and answers what came after that as closed.
    pub(crate) fn end(&self) {
        self.advance(ENDED);
        self.discard_all();
    }

    /// Returns whether a worker that finds no task may end.
    pub(crate) fn may_end(&self) -> bool {
        self.state.load(Ordering::SeqCst) != OPEN && self.pollers.load(Ordering::SeqCst) == 0
    }

    /// Notes a polling thread, until the value is dropped.
    pub(crate) fn poller(self: &Arc<Self>) -> PollerMark {
        self.pollers.fetch_add(1, Ordering::SeqCst);
        PollerMark(self.clone())
    }

    /// Adds a task that moves. Returns it if there is no room.
    #[inline]
    pub(crate) fn push_pointer(&self, priority: u32, job: PointerJob) -> Result<(), PointerJob> {
        let Some(class) = self.classes.get(priority as usize) else {
            return Err(job);
        };
        if let Err(job) = class.pointers.push(job) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(job);
        }
        self.submitted.fetch_add(1, Ordering::Relaxed);
        self.after_submission();
        Ok(())
    }

    /// Wakes a worker for a task that can be found now, or answers it if the workers have just ended.
    #[inline]
    pub(crate) fn after_submission(&self) {
        // Has a fence: either `end` finds the task, or the state is seen here.
        self.sleepers.wake_one();
        if self.state.load(Ordering::Relaxed) == ENDED {
            self.discard_all();
        }
    }

    /// Returns an empty job, if one is free.
    #[inline]
    pub(crate) fn free_job(&self) -> Option<Box<CopiedJob>> {
        self.free.pop()
    }

    /// Gives back a job that is done.
    #[inline]
    pub(crate) fn give_back(&self, job: Box<CopiedJob>) {
        // There is room for every job that exists.
        let _ = self.free.push(job);
    }

    /// Hands a job over to the workers.
    #[inline]
    pub(crate) fn push_copied(&self, priority: u32, job: Box<CopiedJob>) {
        let last = self.classes.len().saturating_sub(1);
        if let Some(class) = self.classes.get((priority as usize).min(last)) {
            // There is room for every job that exists.
            let _ = class.copied.push(job);
        }
        self.after_submission();
    }

    /// Takes a task of a priority. `turn` says which of the three kinds comes first.
    #[inline]
    pub(crate) fn take(&self, priority: u32, turn: u32, payload: &mut [u8]) -> Option<Work> {
        let class = self.classes.get(priority as usize)?;
        for kind in turn..turn + 3 {
            let work = match kind % 3 {
                0 => class.pointers.pop().map(Work::Pointer),
                1 => class.copied.pop().map(Work::Copied),
                _ => self.host.take(priority, payload).map(Work::Host),
            };
            if work.is_some() {
                return work;
            }
        }
        None
    }

    /// Returns whether a worker may find a task.
    pub(crate) fn has_work(&self) -> bool {
        fence(Ordering::SeqCst);
        let waits = |class: &Class| !class.pointers.is_empty() || !class.copied.is_empty();
        self.classes.iter().any(waits) || self.host.has_task()
    }

    /// Sleeps until there may be a task, or an end.
    pub(crate) fn sleep(&self) {
        self.sleepers.sleep(|| self.has_work() || self.may_end());
    }

    /// Wakes a further worker if there is more to do.
    #[inline]
    pub(crate) fn wake_another(&self) {
        self.sleepers.wake_one();
    }

    /// Answers all tasks as closed that no worker will take.
    #[cold]
    fn discard_all(&self) {
        for (priority, class) in (0..).zip(&self.classes) {
            while let Some(job) = class.pointers.pop() {
                drop(job);
            }
            while let Some(mut job) = class.copied.pop() {
                job.reply = Reply::nobody();
                self.give_back(job);
            }
            // Another thread that takes one at this moment answers it, too, or leaves it to `after_submission`.
            while self.host.has_task() {
                match self.host.take(priority, &mut []) {
                    Some(taken) => drop(taken),
                    None => break,
                }
            }
        }
    }

    /// Returns how many tasks were submitted by moving them, and how many refused because there was no room.
    pub(crate) fn pointer_counts(&self) -> (u64, u64) {
        (
            self.submitted.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }
}

/// A polling thread of a pool, noted.
pub(crate) struct PollerMark(Arc<Pool>);

impl Drop for PollerMark {
    fn drop(&mut self) {
        self.0.pollers.fetch_sub(1, Ordering::SeqCst);
        self.0.sleepers.wake_all();
    }
}
