//! The pool of a queue or a set of queues: handlers, the tasks that wait for a worker, and the state of the whole.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

use crossbeam_queue::{ArrayQueue, SegQueue};
use crossbeam_utils::CachePadded;

use crate::{
    contain::contain,
    counters::{Submissions, ThreadCounters},
    error::Result,
    host_rings::{HostRings, HostTaken},
    jobs::{CopiedJob, PointerJob},
    layout::{MAX_DEPTH, within},
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

/// No method number.
const NO_METHOD: u32 = u32::MAX;
/// The most memory that the copies of one kind may take.
const MAX_BYTES: u64 = 4 << 30;
/// What a copy takes beside its payload, rounded up.
const TASK_BYTES: u64 = 128;

/// The kinds of tasks that a worker takes in turn.
pub(crate) const KINDS: u32 = 4;

/// The tasks of one priority.
struct Class {
    pointers: ArrayQueue<PointerJob>,
    /// Tasks that handlers submitted while there was no room. A handler that waited for room could wait for itself.
    spilled: SegQueue<PointerJob>,
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

impl PoolNumbers {
    /// Checks that the numbers, and the memory that follows from them, are of any sense.
    fn check(&self, payload_bytes: u32) -> Result<()> {
        for (name, value, least, copies) in [
            ("job_capacity", self.job_capacity, 1, 1),
            // The rings say how deep they can be.
            ("cpu_depth", self.cpu_depth, 8, self.priorities.max(1)),
        ] {
            let of_one = (u64::from(payload_bytes) + TASK_BYTES) * u64::from(copies);
            let most = (MAX_BYTES / of_one).min(MAX_DEPTH.into()) as u32;
            within(name, value, least, most)?;
        }
        Ok(())
    }
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
    pointers: CachePadded<Submissions>,
    copies: CachePadded<Submissions>,
    /// The method number of the first task without a handler.
    unknown: AtomicU32,
    /// Tasks that were answered as closed by a thread without counters.
    discarded: AtomicU64,
    /// Tasks of CPU code that such threads took out of where they wait.
    taken: AtomicU64,
    counters: Mutex<Vec<Arc<ThreadCounters>>>,
}

impl Pool {
    pub(crate) fn new(registry: Registry, numbers: PoolNumbers) -> Result<Self> {
        let (payload, _) = registry.largest();
        numbers.check(payload)?;
        let jobs = numbers.job_capacity as usize;
        let free = ArrayQueue::new(jobs);
        for _ in 0..jobs {
            // There is room for each.
            let _ = free.push(Box::new(CopiedJob::with_room(payload)));
        }
        let host = HostRings::new(numbers.priorities, numbers.cpu_depth, payload)?;
        let classes = (0..numbers.priorities).map(|_| Class {
            pointers: ArrayQueue::new(numbers.cpu_depth as usize),
            spilled: SegQueue::new(),
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
            pointers: CachePadded::default(),
            copies: CachePadded::default(),
            unknown: AtomicU32::new(NO_METHOD),
            discarded: AtomicU64::new(0),
            taken: AtomicU64::new(0),
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

    /// Says which method number a kernel's task has that no handler has: once, since kernels may do so often.
    #[cold]
    pub(crate) fn note_unknown(&self, method: u16) {
        let known = self.unknown.load(Ordering::Relaxed);
        if known == NO_METHOD
            && self
                .unknown
                .compare_exchange(known, method.into(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            contain("a logger", || {
                log::warn!(
                    "a kernel submitted a task of method {method}, which has no handler; others are counted only"
                );
            });
        }
    }

    /// Returns the method number of the first task without a handler.
    pub(crate) fn unknown_method(&self) -> Option<u16> {
        u16::try_from(self.unknown.load(Ordering::Relaxed)).ok()
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
        self.state.load(Ordering::SeqCst) == OPEN
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

    /// Returns whether workers may end once the pool [is idle](Self::is_idle).
    pub(crate) fn may_end(&self) -> bool {
        self.state.load(Ordering::SeqCst) != OPEN && self.pollers.load(Ordering::SeqCst) == 0
    }

    /// Returns whether no task waits, nor will any come that was accepted before the pool was closed.
    ///
    /// A submission is counted before it looks whether the pool is open. So whoever has seen the pool closed, and reads the
    /// counts then, misses none that is accepted. Its task may not be found yet: it is being pushed, or waits in a ring
    /// behind one that is.
    pub(crate) fn is_idle(&self) -> bool {
        let submitted = self.pointers.submitted() + self.copies.submitted();
        let counters = self.lock_counters();
        let by_workers: u64 = counters.iter().map(|one| one.taken.get()).sum();
        let taken = by_workers + self.taken.load(Ordering::Relaxed);
        submitted == taken && !self.has_work()
    }

    /// Notes a polling thread, until the value is dropped.
    pub(crate) fn poller(self: &Arc<Self>) -> PollerMark {
        self.pollers.fetch_add(1, Ordering::SeqCst);
        PollerMark(self.clone())
    }

    /// Returns what is counted of tasks that move.
    #[inline]
    pub(crate) fn pointers(&self) -> &Submissions {
        &self.pointers
    }

    /// Returns what is counted of tasks that are copied.
    #[inline]
    pub(crate) fn copies(&self) -> &Submissions {
        &self.copies
    }

    /// Adds a task that moves. Returns it if there is no room.
    #[inline]
    pub(crate) fn push_pointer(&self, priority: u32, job: PointerJob) -> Result<(), PointerJob> {
        let Some(class) = self.classes.get(priority as usize) else {
            return Err(job);
        };
        class.pointers.push(job)?;
        self.after_submission();
        Ok(())
    }

    /// Adds a task of a handler, for which there is always room.
    #[cold]
    pub(crate) fn spill(&self, priority: u32, job: PointerJob) {
        if let Some(class) = self.classes.get(priority as usize) {
            class.spilled.push(job);
        }
        self.after_submission();
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

    /// Takes a task of a priority. `turn` says which of the [`KINDS`] comes first.
    #[inline]
    pub(crate) fn take(&self, priority: u32, turn: u32, payload: &mut [u8]) -> Option<Work> {
        let class = self.classes.get(priority as usize)?;
        for kind in turn..turn + KINDS {
            let work = match kind % KINDS {
                0 => class.pointers.pop().map(Work::Pointer),
                1 => class.copied.pop().map(Work::Copied),
                2 => class.spilled.pop().map(Work::Pointer),
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
        let waits = |class: &Class| {
            !class.pointers.is_empty() || !class.copied.is_empty() || !class.spilled.is_empty()
        };
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

    /// Answers a task as closed. Returns `false` if a handler that waits for it has run it.
    pub(crate) fn close_work(&self, work: Work) -> bool {
        match work {
            Work::Pointer(job) => job.close(),
            Work::Host(taken) => taken.reply.close(),
            Work::Copied(mut job) => {
                let closed = job.take_reply().close();
                self.give_back(job);
                closed
            }
        }
    }

    /// Answers all tasks as closed that no worker will take. Several threads may do so at once.
    #[cold]
    fn discard_all(&self) {
        let mut discarded = 0;
        let mut close = |work| {
            self.taken
                .fetch_add(u64::from(is_of_cpu(&work)), Ordering::Relaxed);
            discarded += u64::from(self.close_work(work));
        };
        for (priority, class) in (0..).zip(&self.classes) {
            while let Some(job) = class.pointers.pop().or_else(|| class.spilled.pop()) {
                close(Work::Pointer(job));
            }
            while let Some(job) = class.copied.pop() {
                close(Work::Copied(job));
            }
            // Waits for a thread that takes one at this moment: that may have looked before a task was there which only
            // this thread knows of.
            while let Some(taken) = self.host.take_waiting(priority) {
                close(Work::Host(taken));
            }
        }
        self.discarded.fetch_add(discarded, Ordering::Relaxed);
    }

    /// Returns the number of tasks that were answered as closed by threads without counters.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }
}

/// Returns whether CPU code submitted a task.
pub(crate) fn is_of_cpu(work: &Work) -> bool {
    !matches!(work, Work::Copied(_))
}

/// A polling thread of a pool, noted.
pub(crate) struct PollerMark(Arc<Pool>);

impl Drop for PollerMark {
    fn drop(&mut self) {
        self.0.pollers.fetch_sub(1, Ordering::SeqCst);
        self.0.sleepers.wake_all();
    }
}
