//! The state of one lane: a state machine that calls nobody. All that it decides, [`Engine`](super::engine::Engine) does.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    batch::Batch,
    request::Request,
    seat::{Seat, SeatState},
    status::{Lane, LaneStatus, ReplicaStatus},
};
use crate::{
    batch::{BatchAccumulator, BatchConfig, Ticket},
    encoder::{Encoder, EncoderLimits},
    error::{Error, Result},
    lock::lock,
};

/// One lane: its encoders, its queue and what is on the way.
pub(super) struct LaneCore {
    pub(super) lane: Lane,
    /// The model's name, if it is one of several.
    pub(super) model: OnceLock<Arc<str>>,
    /// One for each GPU.
    pub(super) seats: Vec<Seat>,
    /// The error of the first GPU that failed.
    pub(super) first_failure: OnceLock<Arc<Error>>,
    pub(super) limits: EncoderLimits,
    /// The most texts that may wait.
    pub(super) limit: usize,
    /// The most batches on the way at a time, on each GPU.
    depth: usize,
    state: Mutex<State>,
    /// Tells the lane's threads, and them alone, that there may be something to do.
    pub(super) changed: Condvar,
    /// Whether no batch must be submitted for now. Whoever sets it and then, under the lock, sees no batch on the way
    /// knows that none will be.
    pub(super) hold: AtomicBool,
    pub(super) counts: Counts,
}

/// What a lane has done.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) batches: AtomicU64,
}

pub(super) struct State {
    pub(super) queue: BatchAccumulator<Arc<Request>>,
    /// Places of the queue for texts that are being tokenised.
    reserved: usize,
    /// Batches to be launched again, before anything in the queue.
    pub(super) again: VecDeque<Batch>,
    /// One for each of the lane's seats.
    pub(super) seats: Vec<SeatState>,
    /// Whether the lane's thread is to wait for batches, since somebody wants vectors who cannot.
    pub(super) wanted: bool,
    /// Whether nothing is added any more.
    pub(super) closing: bool,
    /// The texts that were taken from the queue and have not ended.
    pub(super) texts: usize,
}

/// The next thing to launch, and what is not to be launched any more.
#[derive(Default)]
pub(super) struct Due {
    pub(super) batch: Option<Batch>,
    pub(super) late: Vec<Arc<Request>>,
}

impl Counts {
    pub(super) fn add(count: &AtomicU64, number: usize) {
        count.fetch_add(number as u64, Ordering::Relaxed);
    }
}

impl LaneCore {
    pub(super) fn new(
        lane: Lane,
        encoders: Vec<Arc<dyn Encoder>>,
        config: BatchConfig,
        depth: usize,
    ) -> Result<Self> {
        let mut limits = EncoderLimits::common(&encoders)?;
        let mut config = config.within(limits);
        // A short queue is no error: its batches are short as well.
        config.max_batch_size = config.max_batch_size.min(config.max_pending.max(1));
        config.min_batch_size = config.min_batch_size.min(config.max_batch_size);
        // A text must fit into a batch.
        limits.tokens_of_text = limits.tokens_of_text.min(config.max_tokens);
        Ok(Self {
            lane,
            model: OnceLock::new(),
            limit: config.max_pending,
            limits,
            depth,
            state: Mutex::new(State {
                queue: BatchAccumulator::new(config)?,
                reserved: 0,
                again: VecDeque::new(),
                seats: encoders.iter().map(|_| SeatState::default()).collect(),
                wanted: false,
                closing: false,
                texts: 0,
            }),
            seats: encoders.into_iter().map(Seat::new).collect(),
            first_failure: OnceLock::new(),
            changed: Condvar::new(),
            hold: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns whether it has several GPUs. Then its threads always wait for batches, one for each GPU, so that no GPU's
    /// batch is waited for in front of another's.
    pub(super) fn has_many_seats(&self) -> bool {
        self.seats.len() > 1
    }

    /// Wakes the lane's threads.
    pub(super) fn wake(&self) {
        match self.has_many_seats() {
            true => self.changed.notify_all(),
            false => self.changed.notify_one(),
        }
    }

    /// Reserves places in the queue for so many texts, all or none.
    pub(super) fn reserve(&self, texts: usize) -> Result<()> {
        let mut state = self.lock();
        if state.closing {
            return Err(Error::ShutDown);
        }
        let waiting = state.queue.len() + state.reserved;
        if texts > self.limit - waiting.min(self.limit) {
            drop(state);
            Counts::add(&self.counts.overloaded, texts);
            return Err(Error::Overloaded {
                waiting,
                limit: self.limit,
            });
        }
        state.reserved += texts;
        Ok(())
    }

    /// Gives places back.
    pub(super) fn release(&self, texts: usize) {
        self.lock().reserved -= texts;
    }

    /// Adds requests for which places are reserved, and gives these back. If the service is dead or closed, it is left
    /// to the caller to answer them.
    pub(super) fn add(
        &self,
        requests: &[Arc<Request>],
        dead: &OnceLock<Arc<Error>>,
    ) -> Result<Vec<Ticket>> {
        let mut state = self.lock();
        state.reserved -= requests.len();
        // Asked under the lock: whoever finds the service dead sets that first, and then empties the queue under it.
        if let Some(first) = dead.get() {
            let first = Arc::clone(first);
            return Err(Error::ServiceDead { first });
        }
        if state.closing {
            return Err(Error::ShutDown);
        }
        let mut tickets = Vec::with_capacity(requests.len());
        for request in requests {
            // The time of the addition, since it must not run backwards.
            let added = state
                .queue
                .add(Arc::clone(request), request.tokens.len(), Instant::now());
            // It cannot fail: the tokens were checked, and the place reserved. If it did, the whole call would fail.
            match added {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => {
                    for ticket in tickets {
                        state.queue.cancel(ticket);
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(tickets)
    }

    /// Takes the next batch, if one is due and there is room for it. Whoever gets one must submit it.
    pub(super) fn take_due(&self, dead: &OnceLock<Arc<Error>>) -> Due {
        let mut due = Due::default();
        let mut state = self.lock();
        while due.batch.is_none() && dead.get().is_none() {
            let now = Instant::now();
            let Some(seat) = state.free_seat(self) else {
                break;
            };
            let Some(mut batch) = state.next_due(now, seat) else {
                break;
            };
            let (wanted, abandoned): (Vec<_>, Vec<_>) = batch
                .requests
                .into_iter()
                .partition(|one| !one.is_abandoned());
            Counts::add(&self.counts.cancelled, abandoned.len());
            let (late, rest): (Vec<_>, Vec<_>) =
                // One that was submitted in time and is tried again is not late.
                wanted
                    .into_iter()
                    .partition(|one| !one.was_submitted() && one.is_late(now));
            due.late.extend(late);
            batch.requests = rest;
            if batch.requests.is_empty() {
                continue;
            }
            batch.launched = now;
            batch.seat = seat;
            for request in &batch.requests {
                request.seat.store(seat, Ordering::Relaxed);
            }
            state.texts += batch.texts();
            let seat = &mut state.seats[seat];
            seat.launching = true;
            seat.batches += 1;
            due.batch = Some(batch);
        }
        due
    }

    /// Removes a request that waits.
    pub(super) fn cancel(&self, ticket: Ticket) {
        let removed = self.lock().queue.cancel(ticket);
        if removed.is_some() {
            Counts::add(&self.counts.cancelled, 1);
        }
    }

    /// Removes all requests that wait and were given up.
    pub(super) fn cancel_abandoned(&self) {
        let mut removed = Vec::new();
        let mut state = self.lock();
        state.queue.retain(|request| {
            let keep = !request.is_abandoned();
            if !keep {
                removed.push(Arc::clone(request));
            }
            keep
        });
        drop(state);
        Counts::add(&self.counts.cancelled, removed.len());
    }

    /// Wants the lane's thread to wait for batches, and wakes it unless another thread does so, which will wake it when
    /// it ends.
    pub(super) fn want(&self) {
        let mut state = self.lock();
        state.wanted = true;
        let wake = state.seats.iter().any(|seat| !seat.driving);
        drop(state);
        if wake {
            self.wake();
        }
    }

    /// Returns the figures. SMs are left to the caller.
    pub(super) fn status(&self) -> LaneStatus {
        let state = self.lock();
        let again: usize = state.again.iter().map(Batch::texts).sum();
        let (queued, on_the_way) = (state.queue.len() + again, state.texts);
        drop(state);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LaneStatus {
            queued,
            limit: self.limit,
            on_the_way,
            done: read(&self.counts.done),
            failed: read(&self.counts.failed),
            cancelled: read(&self.counts.cancelled),
            expired: read(&self.counts.expired),
            overloaded: read(&self.counts.overloaded),
            batches: read(&self.counts.batches),
            sms: None,
        }
    }

    /// Notes that a GPU failed a batch. Returns the number of batches that it failed in a row, or 0 if no other GPU could
    /// have them.
    pub(super) fn note_failure(&self, seat: usize) -> usize {
        let mut state = self.lock();
        state.seats[seat].failures += 1;
        let mut others = state.seats.iter().enumerate();
        match others.any(|(other, of_other)| other != seat && !of_other.retired) {
            true => state.seats[seat].failures,
            false => 0,
        }
    }

    /// Returns the figures of one GPU.
    pub(super) fn replica(&self, seat: usize, sms: Option<u32>) -> ReplicaStatus {
        let on_the_way = self.lock().seats.get(seat).map_or(0, |seat| seat.batches);
        let seat = self.seats.get(seat);
        ReplicaStatus {
            sms,
            batches: seat.map_or(0, |seat| seat.batches.load(Ordering::Relaxed)),
            on_the_way,
            failed: seat.and_then(|seat| seat.retired.get().map(ToString::to_string)),
        }
    }

    /// Returns whether a batch is due and has room.
    pub(super) fn can_launch_now(&self, state: &State) -> bool {
        let seat = state.free_seat(self);
        seat.is_some_and(|seat| state.is_due(Instant::now(), seat))
    }
}

impl State {
    /// Returns the seat that the next batch goes to: of those with room, the one with the fewest batches. A batch that a
    /// seat has failed goes to another if that has room as well.
    fn free_seat(&self, core: &LaneCore) -> Option<usize> {
        if core.hold.load(Ordering::Acquire) {
            return None;
        }
        let next = self.again.front();
        let has_failed = |seat| next.is_some_and(|batch| batch.has_failed_on(seat));
        let seats = self.seats.iter().enumerate();
        let free =
            seats.filter(|(_, seat)| !seat.retired && !seat.launching && seat.batches < core.depth);
        let best = free.min_by_key(|(index, seat)| (has_failed(*index), seat.batches));
        best.map(|(index, _)| index)
    }

    /// Returns whether something is to be launched on a seat that has room.
    fn is_due(&self, now: Instant, seat: usize) -> bool {
        let waits = !self.queue.is_empty();
        let idle = self.seats[seat].batches == 0;
        !self.again.is_empty() || (waits && (self.closing || self.queue.should_flush(now, idle)))
    }

    fn next_due(&mut self, now: Instant, seat: usize) -> Option<Batch> {
        if let Some(batch) = self.again.pop_front() {
            return Some(batch);
        }
        if !self.is_due(now, seat) {
            return None;
        }
        let collected = self.queue.next_batch()?;
        Some(Batch::new(collected.into_items()))
    }

    /// Returns the number of batches that were taken from the queue and have not ended.
    pub(super) fn batches(&self) -> usize {
        self.seats.iter().map(|seat| seat.batches).sum()
    }

    /// Returns whether nothing waits and nothing is on the way.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.again.is_empty() && self.batches() == 0
    }

    /// Returns the time at which a batch is due though nothing else happens.
    pub(super) fn next_deadline(&self, core: &LaneCore) -> Option<Instant> {
        self.free_seat(core)?;
        self.queue.next_deadline()
    }
}
