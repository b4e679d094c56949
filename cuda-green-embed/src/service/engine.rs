//! The threads' work: submitting batches, waiting for them, answering requests. Any thread may do it: the caller's that
//! adds a request or waits for one, or the lane's own.

mod failures;

use std::{
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    time::Instant,
};

use super::{
    batch::{Batch, Flying, attempt, refuse},
    elastic::Elastic,
    lane::{Counts, LaneCore},
    observe,
    request::{NO_SEAT, Request},
    status::Lane,
};
use crate::{
    batch::Ticket,
    embeddings::Embeddings,
    error::{Error, Result},
    lock::wait,
};

/// Both lanes, and whether the GPU is dead.
pub(super) struct Engine {
    lanes: [LaneCore; 2],
    pub(super) dead: OnceLock<Arc<Error>>,
    pub(super) elastic: Option<Elastic>,
}

impl Engine {
    pub(super) fn new(interactive: LaneCore, bulk: LaneCore, elastic: Option<Elastic>) -> Self {
        Self {
            lanes: [interactive, bulk],
            dead: OnceLock::new(),
            elastic,
        }
    }

    pub(super) fn lane(&self, lane: Lane) -> &LaneCore {
        let [interactive, bulk] = &self.lanes;
        match lane {
            Lane::Interactive => interactive,
            Lane::Bulk => bulk,
        }
    }

    /// Reserves places in a lane's queue.
    pub(super) fn reserve(&self, lane: Lane, texts: usize) -> Result<()> {
        match self.dead.get() {
            Some(first) => Err(dead(first)),
            None => self.lane(lane).reserve(texts),
        }
    }

    /// Adds requests, in places that are reserved, and submits what the encoder has room for.
    pub(super) fn add(&self, lane: Lane, requests: &[Arc<Request>]) -> Result<Vec<Ticket>> {
        let core = self.lane(lane);
        let tickets = core.add(requests, &self.dead)?;
        observe::queue_size(core);
        if let Some(elastic) = &self.elastic
            && !requests.is_empty()
        {
            elastic.added(lane, &self.lane(Lane::Bulk).hold);
        }
        self.launch_due(core);
        if !core.lock().queue.is_empty() {
            core.want();
        }
        Ok(tickets)
    }

    /// Submits the batches that are due and have room.
    fn launch_due(&self, core: &LaneCore) {
        loop {
            let due = core.take_due(&self.dead);
            Counts::add(&core.counts.expired, due.late.len());
            refuse(due.late, || Error::DeadlineExceeded);
            let Some(batch) = due.batch else {
                return;
            };
            self.launch(core, batch);
        }
    }

    /// Submits a batch that was taken.
    fn launch(&self, core: &LaneCore, batch: Batch) {
        observe::launched(core, &batch);
        let packed = batch.packed();
        let seat = batch.seat;
        let submitted = attempt(|| core.seats[seat].encoder.submit(&packed));
        let mut state = core.lock();
        state.seats[seat].launching = false;
        match submitted {
            Ok(pending) => {
                Counts::add(&core.counts.batches, 1);
                Counts::add(&core.seats[seat].batches, 1);
                state.seats[seat]
                    .flying
                    .push_back(Flying { batch, pending });
                let acts = state.wanted || state.closing || core.has_many_seats();
                let wake = !state.seats[seat].driving && acts;
                drop(state);
                if wake {
                    core.wake();
                }
            }
            Err(trouble) => {
                drop(state);
                self.fail(core, batch, trouble);
            }
        }
    }

    /// Waits for the oldest batch of the GPU that has a request, unless another thread does, and answers its requests.
    /// Returns whether it did.
    pub(super) fn drive_for(&self, core: &LaneCore, request: &Request) -> bool {
        // With one GPU, a request that waits in the queue is next when the oldest batch ends. With several, that may be
        // the slowest GPU's batch, and the lane's threads are there.
        let seat = match core.has_many_seats() {
            true => request.seat.load(Ordering::Relaxed),
            false => 0,
        };
        seat != NO_SEAT && self.drive(core, seat)
    }

    /// Waits for the oldest batch of a seat, unless another thread does, and answers its requests. Returns whether it did.
    fn drive(&self, core: &LaneCore, seat: usize) -> bool {
        let mut state = core.lock();
        let Some(of_seat) = state.seats.get_mut(seat).filter(|seat| !seat.driving) else {
            return false;
        };
        let Some(Flying { batch, pending }) = of_seat.flying.pop_front() else {
            return false;
        };
        of_seat.driving = true;
        drop(state);
        match attempt(|| pending.wait()) {
            Ok(vectors) => self.finish(core, batch, &vectors),
            Err(trouble) => self.fail(core, batch, trouble),
        }
        self.launch_due(core);
        let mut state = core.lock();
        state.seats[seat].driving = false;
        let left = !state.is_empty();
        // Whoever waits for the rest was not the one to wake the lane's thread.
        state.wanted |= left;
        let wake = left || state.closing;
        drop(state);
        if wake {
            core.wake();
        }
        true
    }

    fn finish(&self, core: &LaneCore, batch: Batch, vectors: &Embeddings) {
        let texts = batch.texts();
        let missing = texts.saturating_sub(vectors.len());
        Counts::add(&core.counts.done, texts - missing);
        Counts::add(&core.counts.failed, missing);
        core.lock().seats[batch.seat].failures = 0;
        self.ended(core, batch.seat, texts);
        // The GPU first: it has nothing to do.
        self.launch_due(core);
        let times = batch.deliver(vectors);
        // Once they are answered, since nobody waits for the figures.
        observe::embedded(core.lane, &times);
    }

    /// Notes that a batch is no longer on the way. The lane's thread may have waited for that, to end or to go on.
    fn ended(&self, core: &LaneCore, seat: usize, texts: usize) {
        let mut state = core.lock();
        state.seats[seat].batches -= 1;
        state.texts -= texts;
        let wake = state.closing || state.wanted || core.has_many_seats();
        drop(state);
        if wake {
            core.wake();
        }
        self.tell_ended(core);
    }

    /// Tells the elastic lanes' thread that a bulk batch is no longer on the way.
    fn tell_ended(&self, core: &LaneCore) {
        if let Some(elastic) = self.elastic.as_ref().filter(|_| core.lane == Lane::Bulk) {
            elastic.bulk_ended();
        }
    }

    /// Lets nothing in any more. What waits is still encoded, or else fails.
    pub(super) fn close(&self, drain: bool) {
        for core in &self.lanes {
            let mut state = core.lock();
            state.closing = true;
            let mut requests = Vec::new();
            if !drain {
                for batch in state.queue.flush() {
                    requests.extend(batch.into_arrival_order());
                }
            }
            drop(state);
            Counts::add(&core.counts.cancelled, requests.len());
            refuse(requests, || Error::ShutDown);
            core.wake();
        }
    }

    /// Returns a lane and a seat for each thread that the service has.
    pub(super) fn threads(&self) -> impl Iterator<Item = (Lane, usize)> {
        let seats = |core: &LaneCore| {
            (0..core.seats.len()).map({
                let lane = core.lane;
                move |seat| (lane, seat)
            })
        };
        self.lanes.iter().flat_map(seats)
    }

    /// Works for a seat until its lane is closed and empty. The only seat of a lane sleeps while nobody wants it to work:
    /// then callers do.
    pub(super) fn run(&self, lane: Lane, seat: usize) {
        self.serve(self.lane(lane), seat);
        if let Some(elastic) = &self.elastic {
            elastic.thread_ended();
        }
    }

    fn serve(&self, core: &LaneCore, seat: usize) {
        let mut state = core.lock();
        loop {
            let acts = state.wanted || state.closing || core.has_many_seats();
            // A dead service launches nothing: whoever found it dead is about to empty the queue, and needs the lock.
            let launches = acts && self.dead.get().is_none();
            let driving = state.seats[seat].driving;
            if launches && core.can_launch_now(&state) {
                drop(state);
                self.launch_due(core);
                state = core.lock();
            } else if acts && !driving && !state.seats[seat].flying.is_empty() {
                drop(state);
                self.drive(core, seat);
                state = core.lock();
            } else if state.is_empty() && !driving {
                if state.closing {
                    return;
                }
                state.wanted = false;
                state = wait(&core.changed, state);
            } else if let Some(deadline) = state.next_deadline(core).filter(|_| launches) {
                let time = deadline.saturating_duration_since(Instant::now());
                let woken = core.changed.wait_timeout(state, time);
                (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
            } else {
                state = wait(&core.changed, state);
            }
        }
    }
}

/// Returns an error of a request that a dead service cannot answer.
fn dead(first: &Arc<Error>) -> Error {
    Error::ServiceDead {
        first: Arc::clone(first),
    }
}
