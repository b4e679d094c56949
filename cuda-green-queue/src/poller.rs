//! A polling thread: the consumer of a GPU's rings.
//!
//! It goes through its rings in rounds, the most urgent priority first, and takes at most [`burst`] tasks of a ring each
//! time. Inline handlers run on it, without an allocation, a lock or, for most tasks, a look at the clock. Other tasks
//! are copied into a job and handed over. If no job is free, that ring waits, so that its kernels find it full in the
//! end, and the inline handlers of other rings go on.
//!
//! Where jobs are scarce, a round has many turns: each ring gets as many jobs in it as its burst, the most urgent one
//! first, so that the weights hold there too.

use std::{sync::Arc, thread, time::Instant};

use crate::{
    control::{Control, FINISHING, OPEN},
    counters::{PollerCounters, RingCounters, ThreadCounters, Times, is_timed},
    device_side::own_cpu_time,
    idle::{Idle, IdlePolicy, Step},
    jobs::Reply,
    layout::{NO_FUTURE, status},
    pool::{PollerMark, Pool},
    protocol::{Call, Consumer},
    registry::Method,
    schedule::burst,
    segment::Segment,
    workers::{become_own_thread, room},
};

/// A ring, and its figures.
pub(crate) struct PolledRing {
    consumer: Consumer,
    priority: u32,
    counters: Arc<RingCounters>,
    /// Jobs that it may still have in this round.
    jobs: u32,
}

impl PolledRing {
    pub(crate) fn new(consumer: Consumer, priority: u32, counters: &Arc<RingCounters>) -> Self {
        Self {
            consumer,
            priority,
            counters: counters.clone(),
            jobs: burst(priority),
        }
    }
}

/// The outcome of a look at a ring, or at several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Empty,
    /// A task is there, and no job for it.
    NoJob,
    Took,
}

/// One polling thread.
pub(crate) struct Poller {
    pool: Arc<Pool>,
    segment: Arc<Segment>,
    control: Arc<Control>,
    rings: Vec<PolledRing>,
    threads: Arc<ThreadCounters>,
    counters: Arc<PollerCounters>,
    /// Tasks that were handed over.
    handed: u64,
    payload: Box<[u128]>,
    output: Box<[u128]>,
    _mark: PollerMark,
}

impl Poller {
    /// Makes the consumer of these rings.
    pub(crate) fn new(
        pool: &Arc<Pool>,
        segment: &Arc<Segment>,
        control: &Arc<Control>,
        mut rings: Vec<PolledRing>,
        counters: &Arc<PollerCounters>,
    ) -> Self {
        rings.sort_by_key(|ring| ring.priority);
        let (payload, output) = pool.registry().largest();
        Self {
            pool: pool.clone(),
            segment: segment.clone(),
            control: control.clone(),
            rings,
            threads: pool.add_counters(),
            counters: counters.clone(),
            handed: 0,
            payload: room(payload),
            output: room(output),
            _mark: pool.poller(),
        }
    }

    /// Polls until the queue has ended.
    pub(crate) fn poll(mut self, policy: IdlePolicy) {
        let _own = become_own_thread(&self.pool);
        fine_timers();
        let begin = Instant::now();
        let mut idle = Idle::new(policy);
        let mut is_closed = false;
        let mut launches = 0;
        loop {
            let state = self.control.state();
            if state != OPEN && !is_closed {
                is_closed = true;
                let shared = self.segment.shared();
                for ring in &mut self.rings {
                    ring.consumer.close(shared);
                }
            }
            match self.round() {
                Look::Took => {
                    idle.found();
                    continue;
                }
                Look::NoJob => {
                    idle.found();
                    // The workers have all jobs, and may need the core.
                    thread::yield_now();
                    continue;
                }
                Look::Empty => {}
            }
            if state == FINISHING {
                break;
            }
            let before = launches;
            launches = self.control.launches();
            if launches != before {
                idle.found();
            }
            match idle.next(|| begin.elapsed(), || self.control.is_busy()) {
                Step::Spin => std::hint::spin_loop(),
                Step::Pause => (0..32).for_each(|_| std::hint::spin_loop()),
                Step::Sleep(time) => {
                    self.counters.sleeps.add(1);
                    self.control.sleep(time, state, launches);
                }
                Step::Rest(time) => {
                    self.counters.rests.add(1);
                    self.control.sleep(time, state, launches);
                }
            }
        }
        let time = own_cpu_time().map_or(0, |time| time.as_nanos());
        self.counters.cpu_time.raise(time.try_into().unwrap_or(0));
    }

    /// Goes through all rings once. Returns whether it took a task, or else found one.
    fn round(&mut self) -> Look {
        let mut found = Look::Empty;
        let mut jobs_ran_out = false;
        for index in 0..self.rings.len() {
            found = found.max(self.take_burst(index, &mut jobs_ran_out));
        }
        if !jobs_ran_out {
            // Each ring has had its jobs, or needs no more. The next round begins.
            for ring in &mut self.rings {
                ring.jobs = burst(ring.priority);
            }
        }
        found
    }

    /// Takes tasks of one ring. Returns whether it took one, or else found one.
    #[inline]
    fn take_burst(&mut self, index: usize, jobs_ran_out: &mut bool) -> Look {
        let most = self.rings.get(index).map_or(0, |ring| burst(ring.priority));
        let mut found = Look::Empty;
        for taken in 0..most {
            let look = self.look(index, jobs_ran_out);
            found = found.max(look);
            if look != Look::Took {
                break;
            }
            if taken == 0 {
                self.measure(index);
            }
        }
        found
    }

    /// Measures how many tasks are in a ring, of which the first was just taken.
    #[inline]
    fn measure(&mut self, index: usize) {
        let Some(ring) = self.rings.get(index) else {
            return;
        };
        let shared = self.segment.shared();
        let depth = ring.consumer.ring().depth();
        let mut deepest = ring.counters.deepest.get().max(1);
        // One look, unless there are more than ever before.
        while deepest < depth && ring.consumer.is_filled(shared, deepest - 1) {
            deepest += 1;
        }
        ring.counters.deepest.raise(deepest);
    }

    /// Takes the next task of a ring, if there is one.
    #[inline]
    fn look(&mut self, index: usize, jobs_ran_out: &mut bool) -> Look {
        let Self {
            pool,
            segment,
            control,
            rings,
            threads,
            handed,
            payload,
            output,
            ..
        } = self;
        let shared = segment.shared();
        let Some(ring) = rings.get_mut(index) else {
            return Look::Empty;
        };
        let Some(header) = ring.consumer.peek(shared) else {
            // Now, and not when all rings are empty: whoever needs more slots than were given back would never have them
            // beside a ring that is always busy.
            ring.consumer.tell(shared);
            return Look::Empty;
        };
        let call = Call {
            future: header.future,
            generation: header.generation,
        };
        let refuse = |status| {
            if call.future != NO_FUTURE {
                segment.answer(call, status, &[]);
            }
        };
        let method = pool.registry().find(header.method);
        let found = method.and_then(|number| {
            let counters = threads.methods.get(usize::from(number))?;
            Some((number, pool.registry().get(number)?, counters))
        });
        let discards = control.is_discarding();
        let fits = |method: &Method| u32::from(header.length) == method.payload_bytes();
        let job = match found {
            Some((_, method, _)) if !discards && fits(method) && !method.inline => {
                let job = match ring.jobs > 0 && !*jobs_ran_out {
                    true => pool.free_job(),
                    false => None,
                };
                if job.is_none() {
                    *jobs_ran_out |= ring.jobs > 0;
                    ring.counters.out_of_jobs.add(1);
                    ring.consumer.tell(shared);
                    return Look::NoJob;
                }
                job
            }
            _ => None,
        };
        // Before the answer, so that whoever has that finds the task counted.
        ring.counters.taken.add(1);
        match (found, job) {
            _ if discards => {
                threads.discarded.add(1);
                refuse(status::CLOSED);
            }
            (None, _) => {
                threads.unknown_methods.add(1);
                pool.note_unknown(header.method);
                refuse(status::UNKNOWN_METHOD);
            }
            (Some((_, method, counters)), _) if !fits(method) => {
                counters.count(status::BAD_PAYLOAD, None);
                refuse(status::BAD_PAYLOAD);
            }
            (Some((number, _, _)), Some(mut job)) => {
                ring.jobs -= 1;
                job.method = number;
                job.found = is_timed(*handed).then(Instant::now);
                *handed += 1;
                job.reply = Reply::kernel(segment, call);
                ring.consumer
                    .copy(shared, job.begin_payload(header.length.into()));
                pool.push_copied(ring.priority, job);
            }
            (Some((_, method, counters)), None) => {
                let payload: &mut [u8] = bytemuck::cast_slice_mut(payload);
                let output: &mut [u8] = bytemuck::cast_slice_mut(output);
                let payload = payload.get_mut(..usize::from(header.length));
                let payload = payload.unwrap_or_default();
                ring.consumer.copy(shared, payload);
                let times = is_timed(counters.ran()).then(|| Times::start(None));
                let outcome = method.run(payload, output);
                counters.count(outcome.status, times);
                if call.future != NO_FUTURE {
                    let output = output.get(..outcome.length as usize).unwrap_or_default();
                    segment.answer(call, outcome.status, output);
                }
            }
        }
        ring.consumer.advance(shared);
        Look::Took
    }
}

/// Makes sleeps of this thread end when they are due: Linux lets them last 50 microseconds longer otherwise.
#[cfg(target_os = "linux")]
fn fine_timers() {
    let none: libc::c_ulong = 0;
    // SAFETY: the call takes numbers alone, and concerns this thread.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_TIMERSLACK,
            1 as libc::c_ulong,
            none,
            none,
            none,
        )
    };
    if set != 0 {
        log::debug!("a polling thread's sleeps are not exact");
    }
}

#[cfg(not(target_os = "linux"))]
fn fine_timers() {}
