//! A polling thread: the consumer of a GPU's rings.
//!
//! It goes through its rings in rounds, the most urgent priority first, and takes at most [`burst`] tasks of a ring each
//! time. Inline handlers run on it, without an allocation, a lock or, for most tasks, a look at the clock. Other tasks
//! are copied into a job and handed over. If no job is free, that ring waits, so that its kernels find it full in the
//! end, and the other rings go on.

use std::{sync::Arc, time::Instant};

use crate::{
    control::{Control, FINISHING, OPEN},
    counters::{PollerCounters, RingCounters, ThreadCounters, is_timed},
    idle::{Idle, IdlePolicy, Step},
    jobs::Reply,
    layout::{NO_FUTURE, status},
    pool::{PollerMark, Pool},
    protocol::{Call, Consumer},
    schedule::burst,
    segment::Segment,
    workers::{become_own_thread, room},
};

/// A ring, and its figures.
pub(crate) struct PolledRing {
    pub(crate) consumer: Consumer,
    pub(crate) priority: u32,
    pub(crate) counters: Arc<RingCounters>,
}

/// The outcome of a look at a ring.
enum Look {
    Empty,
    Took,
    /// A task is there, and no job for it.
    OutOfJobs,
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
            if self.round() {
                idle.found();
                continue;
            }
            if state == FINISHING {
                break;
            }
            for ring in &mut self.rings {
                ring.consumer.tell(self.segment.shared());
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
    }

    /// Goes through all rings once. Returns whether there was a task.
    fn round(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.rings.len() {
            any |= self.take_burst(index);
        }
        any
    }

    /// Takes tasks of one ring. Returns whether there was one.
    #[inline]
    fn take_burst(&mut self, index: usize) -> bool {
        let Some(ring) = self.rings.get(index) else {
            return false;
        };
        let most = burst(ring.priority);
        let mut taken = 0;
        let mut any = false;
        while taken < most {
            match self.look(index) {
                Look::Empty => break,
                Look::Took => taken += 1,
                Look::OutOfJobs => {
                    any = true;
                    break;
                }
            }
        }
        if taken > 0
            && let Some(ring) = self.rings.get_mut(index)
        {
            ring.counters.taken.add(u64::from(taken));
            let deepest = ring.counters.deepest.get().max(u64::from(taken));
            // One look ahead, an eighth further than ever: a few bursts are enough to find the depth.
            let next = deepest + deepest / 8;
            let shared = self.segment.shared();
            let depth = ring.consumer.ring().depth();
            if taken == most && ring.consumer.is_filled(shared, next) {
                ring.counters.deepest.raise((next + 1).min(depth));
            } else {
                ring.counters.deepest.raise(deepest.min(depth));
            }
        }
        any || taken > 0
    }

    /// Takes the next task of a ring, if there is one.
    #[inline]
    fn look(&mut self, index: usize) -> Look {
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
        match found {
            _ if control.is_discarding() => {
                threads.discarded.add(1);
                refuse(status::CLOSED);
            }
            None => {
                threads.unknown_methods.add(1);
                refuse(status::UNKNOWN_METHOD);
            }
            Some((_, method, counters)) if u32::from(header.length) != method.payload_bytes() => {
                counters.count(status::BAD_PAYLOAD);
                refuse(status::BAD_PAYLOAD);
            }
            Some((_, method, counters)) if method.inline => {
                let payload: &mut [u8] = bytemuck::cast_slice_mut(payload);
                let output: &mut [u8] = bytemuck::cast_slice_mut(output);
                let payload = payload.get_mut(..usize::from(header.length));
                let payload = payload.unwrap_or_default();
                ring.consumer.copy(shared, payload);
                let start = is_timed(counters.ran()).then(Instant::now);
                let outcome = method.run(payload, output);
                if call.future != NO_FUTURE {
                    let output = output.get(..outcome.length as usize).unwrap_or_default();
                    segment.answer(call, outcome.status, output);
                }
                match start {
                    None => counters.count(outcome.status),
                    Some(start) => counters.count_timed(outcome.status, None, start.elapsed()),
                }
            }
            Some((number, _, _)) => {
                let Some(mut job) = pool.free_job() else {
                    ring.counters.out_of_jobs.add(1);
                    return Look::OutOfJobs;
                };
                job.method = number;
                job.found = is_timed(*handed).then(Instant::now);
                *handed += 1;
                job.reply = Reply::kernel(segment, call);
                ring.consumer
                    .copy(shared, job.begin_payload(header.length.into()));
                pool.push_copied(ring.priority, job);
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
