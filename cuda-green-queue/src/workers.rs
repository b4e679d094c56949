//! Workers: the threads of a pool, which run handlers.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use crate::{
    contain::{contain, take_caught},
    counters::{ThreadCounters, Times, is_timed},
    error::{Error, Result},
    jobs::{CopiedJob, Reply, Run},
    layout::status,
    pool::{KINDS, Pool, Work, is_of_cpu},
    registry::{Method, Outcome},
    schedule::Schedule,
    task::TaskError,
};

/// Looks for a task before a worker goes to sleep: some tens of microseconds.
const LOOKS: u32 = 1_000;
/// Handlers on one thread that wait, each for the task that runs the next.
const DEEPEST: usize = 32;

thread_local! {
    /// The pool whose worker or polling thread this is.
    static POOL: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
    /// What a worker needs to run a task for which a handler on this thread waits.
    static HELPER: RefCell<Option<Helper>> = const { RefCell::new(None) };
}

struct Helper {
    pool: Arc<Pool>,
    counters: Arc<ThreadCounters>,
    /// Handlers that wait now.
    depth: usize,
}

/// Runs the task that a handler on this thread waits for, if this thread is a worker of its pool. Returns `false` if too
/// many handlers wait on this thread already, so that it cannot.
///
/// Other tasks are not run meanwhile: one of those could take a lock that the handler holds. Nor is it needed. A task that
/// has been begun runs on another thread, where it can wait for nothing but tasks that run there or have been begun.
pub(crate) fn run_here(awaited: &dyn Run) -> bool {
    let worker = HELPER.try_with(|helper| {
        let Ok(mut helper) = helper.try_borrow_mut() else {
            return Ok(None);
        };
        let Some(helper) = helper.as_mut() else {
            return Ok(None);
        };
        if helper.pool.id() != awaited.pool() {
            return Ok(None);
        }
        if helper.depth >= DEEPEST {
            return Err(());
        }
        helper.depth += 1;
        Ok(Some((helper.pool.clone(), helper.counters.clone())))
    });
    let (pool, counters) = match worker {
        Ok(Ok(Some(worker))) => worker,
        Ok(Err(())) => return false,
        Ok(Ok(None)) | Err(_) => return true,
    };
    run_pointer(&pool, &counters, awaited);
    let _ = HELPER.try_with(|helper| {
        if let Ok(mut helper) = helper.try_borrow_mut()
            && let Some(helper) = helper.as_mut()
        {
            helper.depth -= 1;
        }
    });
    true
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
    /// Starts the threads, of which there is to be one at least.
    pub(crate) fn start(pool: &Arc<Pool>, count: u32) -> Result<Self> {
        let workers = Self {
            pool: pool.clone(),
            threads: Mutex::default(),
        };
        for number in 0..count {
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

/// One worker.
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
        HELPER.set(Some(Helper {
            pool: self.pool.clone(),
            counters: self.counters.clone(),
            depth: 0,
        }));
        let mut looks = 0;
        loop {
            if let Some(work) = self.take() {
                looks = 0;
                self.run(work);
            } else if self.pool.may_end() {
                if self.pool.is_idle() {
                    break;
                }
                // Another thread is about to submit a task, or to take one.
                thread::yield_now();
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
        HELPER.set(None);
    }

    #[inline]
    fn take(&mut self) -> Option<Work> {
        self.turn = (self.turn + 1) % KINDS;
        let (pool, turn) = (&self.pool, self.turn);
        let payload = bytemuck::cast_slice_mut(&mut self.payload);
        let work = self
            .schedule
            .next(|priority| pool.take(priority, turn, payload))?;
        self.counters.taken.add(is_of_cpu(&work).into());
        Some(work)
    }

    /// Runs a task. Whatever a client's code does, the thread goes on.
    fn run(&mut self, work: Work) {
        // Wakers are contained one by one. What is left is the end of an output that nobody waits for.
        contain("the end of an output", || self.run_or_discard(work));
        let caught = take_caught();
        if caught > 0 {
            self.counters.caught.add(caught);
        }
    }

    fn run_or_discard(&mut self, work: Work) {
        if self.pool.is_discarding() {
            if self.pool.close_work(work) {
                self.counters.discarded.add(1);
            }
            return;
        }
        match work {
            Work::Pointer(job) => run_pointer(&self.pool, &self.counters, job.task()),
            Work::Copied(job) => self.run_copied(job),
            Work::Host(mut taken) => {
                // A handler that waits for the task may have run it.
                if !taken.reply.claim() {
                    return;
                }
                let payload: &[u8] = bytemuck::cast_slice(&self.payload);
                let payload = payload.get(..usize::from(taken.length));
                let method = self.pool.registry().find(taken.method);
                let timed = is_timed(self.from_host);
                self.from_host += 1;
                run_bytes(
                    &self.pool,
                    &self.counters,
                    method,
                    payload.unwrap_or_default(),
                    || timed.then(|| Times::start(None)),
                    taken.reply,
                    bytemuck::cast_slice_mut(&mut self.output),
                );
            }
        }
    }

    fn run_copied(&mut self, mut job: Box<CopiedJob>) {
        let (reply, found) = (job.take_reply(), job.found);
        run_bytes(
            &self.pool,
            &self.counters,
            Some(job.method),
            job.payload(),
            || found.map(|found| Times::start(Some(found))),
            reply,
            bytemuck::cast_slice_mut(&mut self.output),
        );
        self.pool.give_back(job);
    }
}

/// Runs the handler of a task of CPU code, unless that was run before.
fn run_pointer(pool: &Pool, counters: &ThreadCounters, task: &dyn Run) {
    let index = task.method();
    let found = counters.methods.get(usize::from(index));
    let (Some(method), Some(counters)) = (pool.registry().get(index), found) else {
        counters.unknown_methods.add(1);
        task.cancel(TaskError::UnknownMethod);
        return;
    };
    task.run(method, counters);
}

/// Runs the handler of a task whose bytes are here, counts it, and answers.
#[inline]
fn run_bytes(
    pool: &Pool,
    counters: &ThreadCounters,
    method: Option<u16>,
    payload: &[u8],
    times: impl FnOnce() -> Option<Times>,
    reply: Reply,
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
    let times = times();
    let outcome = method.run(payload, output);
    counters.count(outcome.status, times);
    reply.answer(outcome, output);
}

/// Returns room for so many bytes, aligned as payloads are.
pub(crate) fn room(bytes: u32) -> Box<[u128]> {
    vec![0; (bytes as usize).div_ceil(size_of::<u128>())].into()
}
