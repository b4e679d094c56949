//! Workers: the threads of a pool, which run handlers.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{
    counters::{ThreadCounters, is_timed},
    error::{Error, Result},
    jobs::{CopiedJob, Reply, Run},
    layout::status,
    pool::{Pool, Work},
    registry::{Method, Outcome},
    schedule::Schedule,
    task::TaskError,
};

/// Looks for a task before a worker goes to sleep: some tens of microseconds.
const LOOKS: u32 = 1_000;
/// Handlers on one thread that wait, each for the sake of the one before.
const DEEPEST: usize = 32;
/// The turn before that of tasks that CPU code copied.
const BEFORE_COPIED: u32 = 1;

thread_local! {
    /// The pool whose worker or polling thread this is.
    static POOL: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
    /// Workers for tasks that run while a handler on this thread waits.
    static HELPERS: RefCell<Option<Helpers>> = const { RefCell::new(None) };
}

struct Helpers {
    pool: Arc<Pool>,
    counters: Arc<ThreadCounters>,
    /// Handlers that wait now.
    depth: usize,
    spare: Vec<Worker>,
}

/// The outcome of [`help`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Help {
    Ran,
    /// There is no task.
    Nothing,
    /// This thread is no worker.
    NotAWorker,
    TooDeep,
}

/// Runs the task that a handler on this thread waits for, if this thread is a worker of its pool.
pub(crate) fn run_here(awaited: &dyn Run) -> Help {
    as_helper(|worker| {
        if awaited.pool() != worker.pool.id() {
            return Help::Nothing;
        }
        worker.run_pointer(awaited);
        Help::Ran
    })
}

/// Runs another task of the pool while a handler on this thread waits; one that was copied first, if it waits for such
/// a one.
pub(crate) fn help(copied_first: bool) -> Help {
    as_helper(|worker| {
        if copied_first {
            worker.turn = BEFORE_COPIED;
        }
        match worker.take() {
            Some(work) => {
                worker.run(work);
                Help::Ran
            }
            None => Help::Nothing,
        }
    })
}

fn as_helper(help: impl FnOnce(&mut Worker) -> Help) -> Help {
    let worker = HELPERS.try_with(|helpers| {
        let Ok(mut helpers) = helpers.try_borrow_mut() else {
            return Err(Help::NotAWorker);
        };
        let Some(helpers) = helpers.as_mut() else {
            return Err(Help::NotAWorker);
        };
        if helpers.depth >= DEEPEST {
            return Err(Help::TooDeep);
        }
        helpers.depth += 1;
        let spare = helpers.spare.pop();
        Ok(spare.unwrap_or_else(|| Worker::new(&helpers.pool, &helpers.counters)))
    });
    let mut worker = match worker {
        Ok(Ok(worker)) => worker,
        Ok(Err(help)) => return help,
        Err(_) => return Help::NotAWorker,
    };
    let helped = help(&mut worker);
    let _ = HELPERS.try_with(|helpers| {
        if let Ok(mut helpers) = helpers.try_borrow_mut()
            && let Some(helpers) = helpers.as_mut()
        {
            helpers.depth -= 1;
            helpers.spare.push(worker);
        }
    });
    helped
}

/// Returns the pool whose worker or polling thread this is.
pub(crate) fn current_pool() -> Option<Arc<Pool>> {
    let pool = POOL.try_with(|pool| pool.try_borrow().ok()?.clone());
    pool.ok().flatten()
}

/// Returns whether this is a worker or a polling thread of the pool.
pub(crate) fn is_own_thread(pool: &Arc<Pool>) -> bool {
    current_pool().is_some_and(|own| Arc::ptr_eq(&own, pool))
}

/// Makes this thread one of the pool's, until the value is dropped.
pub(crate) fn become_own_thread(pool: &Arc<Pool>) -> OwnThread {
    let _ = POOL.try_with(|own| own.replace(Some(pool.clone())));
    OwnThread(())
}

/// The mark of a pool's thread.
#[must_use]
pub(crate) struct OwnThread(());

impl Drop for OwnThread {
    fn drop(&mut self) {
        let pool = POOL.try_with(RefCell::take);
        drop(pool);
    }
}

/// The threads of a pool. Dropped, it closes the pool and joins them, when they have run what waits, or answered it as
/// closed if the pool is to discard it.
pub(crate) struct Workers {
    pool: Arc<Pool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts the threads.
    pub(crate) fn start(pool: &Arc<Pool>, count: usize) -> Result<Self> {
        let workers = Self {
            pool: pool.clone(),
            threads: Mutex::new(Vec::with_capacity(count)),
        };
        for number in 0..count.max(1) {
            let (pool, counters) = (pool.clone(), pool.add_counters());
            let thread = thread::Builder::new()
                .name(format!("queue-worker-{number}"))
                .spawn(move || Worker::new(&pool, &counters).work())
                .map_err(Error::Thread)?;
            workers.lock().push(thread);
        }
        Ok(workers)
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Waits until the threads have ended: all tasks that were taken have been run, or answered as closed.
    pub(crate) fn join(&self) {
        self.pool.close();
        let own = is_own_thread(&self.pool);
        let threads = std::mem::take(&mut *self.lock());
        for thread in threads {
            // One of them cannot wait for itself: it ends after this.
            if !own && thread.join().is_err() {
                log::error!("a worker of a queue panicked");
            }
        }
        self.pool.end();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.join();
    }
}

/// One worker, or the part of it that runs a task while a handler waits.
struct Worker {
    pool: Arc<Pool>,
    counters: Arc<ThreadCounters>,
    schedule: Schedule,
    /// The kind of task that comes first; another each time.
    turn: u32,
    /// Tasks that came by a ring of the host and were run.
    from_host: u64,
    payload: Box<[u128]>,
    output: Box<[u128]>,
}

impl Worker {
    fn new(pool: &Arc<Pool>, counters: &Arc<ThreadCounters>) -> Self {
        let (payload, output) = pool.registry().largest();
        Self {
            pool: pool.clone(),
            counters: counters.clone(),
            schedule: Schedule::new(pool.priorities()),
            turn: 0,
            from_host: 0,
            payload: room(payload),
            output: room(output),
        }
    }

    fn work(mut self) {
        let _own = become_own_thread(&self.pool);
        HELPERS.set(Some(Helpers {
            pool: self.pool.clone(),
            counters: self.counters.clone(),
            depth: 0,
            spare: Vec::new(),
        }));
        let mut looks = 0;
        loop {
            if let Some(work) = self.take() {
                looks = 0;
                self.run(work);
            } else if self.pool.may_end() && !self.pool.has_work() {
                break;
            } else if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.pool.sleep();
                looks = 0;
                // One that was woken for a task may find another one's first.
                if self.pool.has_work() {
                    self.pool.wake_another();
                }
            }
        }
        HELPERS.set(None);
    }

    #[inline]
    fn take(&mut self) -> Option<Work> {
        self.turn = (self.turn + 1) % 3;
        let (pool, turn) = (&self.pool, self.turn);
        let payload = bytemuck::cast_slice_mut(&mut self.payload);
        self.schedule
            .next(|priority| pool.take(priority, turn, payload))
    }

    fn run(&mut self, work: Work) {
        if self.pool.is_discarding() {
            self.counters.discarded.add(1);
            if let Work::Copied(mut job) = work {
                drop(job.take_reply());
                self.pool.give_back(job);
            }
            return;
        }
        match work {
            Work::Pointer(job) => self.run_pointer(job.task()),
            Work::Copied(job) => self.run_copied(job),
            Work::Host(taken) => {
                let payload: &[u8] = bytemuck::cast_slice(&self.payload);
                let payload = payload.get(..usize::from(taken.length));
                let method = self.pool.registry().find(taken.method);
                let timed = is_timed(self.from_host);
                self.from_host += 1;
                run_copied(
                    &self.pool,
                    &self.counters,
                    method,
                    payload.unwrap_or_default(),
                    taken.reply,
                    timed,
                    bytemuck::cast_slice_mut(&mut self.output),
                );
            }
        }
    }

    fn run_pointer(&self, task: &dyn Run) {
        let index = task.method();
        let counters = self.counters.methods.get(usize::from(index));
        let (Some(method), Some(counters)) = (self.pool.registry().get(index), counters) else {
            self.counters.unknown_methods.add(1);
            task.cancel(TaskError::UnknownMethod);
            return;
        };
        let Some(submitted) = task.submitted() else {
            if let Some(status) = task.run(method) {
                counters.count(status);
            }
            return;
        };
        let start = Instant::now();
        if let Some(status) = task.run(method) {
            let waited = start.saturating_duration_since(submitted);
            counters.count_timed(status, Some(waited), start.elapsed());
        }
    }

    fn run_copied(&mut self, mut job: Box<CopiedJob>) {
        let reply = job.take_reply();
        let counters = self.counters.methods.get(usize::from(job.method));
        let (Some(method), Some(counters)) = (self.pool.registry().get(job.method), counters)
        else {
            self.counters.unknown_methods.add(1);
            reply.answer(Outcome::without_output(status::UNKNOWN_METHOD), &[]);
            self.pool.give_back(job);
            return;
        };
        let output: &mut [u8] = bytemuck::cast_slice_mut(&mut self.output);
        let start = job.found.map(|found| (found, Instant::now()));
        let outcome = method.run(job.payload(), output);
        reply.answer(outcome, output);
        match start {
            None => counters.count(outcome.status),
            Some((found, start)) => {
                let waited = start.saturating_duration_since(found);
                counters.count_timed(outcome.status, Some(waited), start.elapsed());
            }
        }
        self.pool.give_back(job);
    }
}

/// Runs the handler of a task whose bytes are here, answers, and counts.
#[inline]
pub(crate) fn run_copied(
    pool: &Pool,
    counters: &ThreadCounters,
    method: Option<u16>,
    payload: &[u8],
    reply: Reply,
    timed: bool,
    output: &mut [u8],
) {
    let found = method.and_then(|index| {
        let method: &Method = pool.registry().get(index)?;
        Some((method, counters.methods.get(usize::from(index))?))
    });
    let Some((method, counters)) = found else {
        counters.unknown_methods.add(1);
        reply.answer(Outcome::without_output(status::UNKNOWN_METHOD), &[]);
        return;
    };
    let start = timed.then(Instant::now);
    let outcome = method.run(payload, output);
    reply.answer(outcome, output);
    match start {
        None => counters.count(outcome.status),
        Some(start) => counters.count_timed(outcome.status, None, start.elapsed()),
    }
}

/// Returns room for so many bytes, aligned as payloads are.
pub(crate) fn room(bytes: u32) -> Box<[u128]> {
    vec![0; (bytes as usize).div_ceil(size_of::<u128>())].into()
}
